"""First come, first served: by call, and by program."""

from __future__ import annotations

from engine.protocol import PriorityKey
from orchestrator.scheduling.policy import NO_CHANGES, Changes, EndedCall, ProgramArrival, ReadyCall


class _StaticPolicy:
    """A policy whose keys never change once given."""

    holds = False

    def overdue(self, waiting: PriorityKey, running: PriorityKey) -> bool:
        return False

    def tokens_made(self, program: str, call: str, tokens: int, now: float) -> Changes:
        return NO_CHANGES

    def call_ended(self, call: EndedCall, now: float) -> Changes:
        return NO_CHANGES


class Fcfs(_StaticPolicy):
    """Calls in the order in which they became ready, whatever program they belong to."""

    name = "fcfs"

    def __init__(self) -> None:
        self._calls = 0

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
        return NO_CHANGES

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        self._calls += 1
        return (float(self._calls),)

    def program_ended(self, program: str, now: float) -> Changes:
        return NO_CHANGES


class ProgramFcfs(_StaticPolicy):
    """Programs in the order in which they arrived: a program that has begun is never overtaken by a later one.

    Inside a program, calls go in the order in which they became ready.
    """

    name = "program_fcfs"

    def __init__(self) -> None:
        self._arrivals = 0
        self._calls = 0
        self._order: dict[str, float] = {}

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
        self._arrivals += 1
        self._order[program.program] = float(self._arrivals)
        return NO_CHANGES

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        self._calls += 1
        return (self._order[call.program], float(self._calls))

    def program_ended(self, program: str, now: float) -> Changes:
        self._order.pop(program, None)
        return NO_CHANGES
