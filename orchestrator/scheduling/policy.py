"""The interface of a scheduling policy: what it is told, and what it answers.

A policy is a pure object: its order is a function of the events that it was told, each with the time `now`
(seconds, monotonic). It never asks the time and never touches an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from dag.graph import ProgramGraph
from engine.protocol import PriorityKey, Usage
from tenuto.wire import Call, Objective

Changes = Mapping[str, PriorityKey]
"""New keys by program, for all its calls that an engine holds now."""

NO_CHANGES: Changes = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ProgramArrival:
    """A program that was accepted. `graph` is its live graph, for policies that look ahead; they never change it.

    `open`: its client may add calls that nobody knows of yet.
    """

    program: str
    tenant: str
    workflow: str
    objective: Objective
    graph: ProgramGraph
    open: bool = False


class ReadyCall(NamedTuple):
    """A call whose inputs are all there. It is told again when the call is tried again."""

    program: str
    call: Call


class EndedCall(NamedTuple):
    """A call that holds no engine and no worker any more. `seconds` of work on it, without waiting: 0 if the cache
    answered it; `usage` of its last generation. Calls that a cancelled program takes with it are not told of one by
    one."""

    program: str
    call: Call
    seconds: float
    usage: Usage | None
    succeeded: bool


class Policy(Protocol):
    """Every answer is a key (smaller is served first) or the keys that changed.

    Calls of one program that an engine holds share their program's newest key once it changes: an engine is
    told keys by program (`Engine.reprioritize`).
    """

    @property
    def name(self) -> str: ...

    @property
    def holds(self) -> bool:
        """Whether programs are held outside while the KV of those inside fills the memory (`Hold`)."""
        ...

    def overdue(self, waiting: PriorityKey, running: PriorityKey) -> bool:
        """Of a policy that holds: whether a call that waits for memory has been passed over for long enough.

        `running`: the key of a call whose program is inside, and which would go first.
        """
        ...

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes: ...

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        """The key that the call is submitted with."""
        ...

    def tokens_made(self, program: str, call: str, tokens: int, now: float) -> Changes:
        """A running generation made `tokens` more output tokens."""
        ...

    def call_ended(self, call: EndedCall, now: float) -> Changes: ...

    def program_ended(self, program: str, now: float) -> Changes:
        """Nothing more will come of this program: forget it."""
        ...
