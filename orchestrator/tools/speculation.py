"""Runs foreseen `read` calls ahead, for tools that ask for it, and gives their results only to exactly equal calls.

Owns what runs ahead: bounded, at no cost of room for others, ended with its program. A result that nobody asks for is
dropped; nothing of it is ever seen in a program. Counts what it was good for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from orchestrator.clock import OrchestratorClock
from orchestrator.tools.failures import CallFailure
from orchestrator.tools.foresight import Ended, Foreseen, History, recent
from orchestrator.tools.sharing import ReadKey

_KEPT_S = 60.0


@dataclass(slots=True)
class SpeculationCounts:
    """What came of running ahead. `saved_s`: seconds by which used runs were begun before they were asked for."""

    begun: int = 0
    used: int = 0
    wasted: int = 0
    saved_s: float = 0.0
    wasted_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Ahead:
    key: ReadKey
    program: str
    writes: int
    began_s: float
    task: asyncio.Task[JsonValue]
    ended_s: float | None = None


@dataclass(slots=True)
class _ProgramPast:
    ended: deque[Ended] = field(default_factory=recent)
    ahead: set[ReadKey] = field(default_factory=set)


Runner = Callable[[Foreseen], tuple[ReadKey, int, Callable[[], Coroutine[Any, Any, JsonValue]]] | None]
"""From a foreseen call to its key, the writes that have ended, and what runs it; None if it must not be run."""


class Speculation:
    """Calls ahead by key. Invariant: at most `most` run or are kept; a program's go with it."""

    def __init__(self, clock: OrchestratorClock, *, most: int) -> None:
        self._clock = clock
        self._most = most
        self._history = History()
        self._programs: dict[str, _ProgramPast] = {}
        self._ahead: OrderedDict[ReadKey, _Ahead] = OrderedDict()
        self.counts = SpeculationCounts()

    def made(self, workflow: str, program: str, tool: str, arguments: dict[str, JsonValue]) -> None:
        """A program makes a `read` call of a tool that may be run ahead: learn from what ended before it."""
        past = self._programs.get(program)
        if past is not None:
            self._history.made(workflow, tool, arguments, past.ended)

    def ended(self, workflow: str, program: str, call: Ended, runner: Runner) -> None:
        """A call of a program ended: run ahead what usually follows, as far as there is room."""
        past = self._programs.setdefault(program, _ProgramPast())
        past.ended.append(call)
        for foreseen in self._history.ended(workflow, call):
            made = runner(foreseen)
            if made is None or made[0] in self._ahead:
                continue
            if len(self._ahead) >= self._most:
                self._drop_old()
            if len(self._ahead) >= self._most:
                return
            key, writes, run = made
            task = asyncio.create_task(run(), name=f"ahead {foreseen.tool}")
            ahead = _Ahead(key, program, writes, self._clock.now(), task)
            self._ahead[key] = ahead
            past.ahead.add(key)
            self.counts.begun += 1
            task.add_done_callback(lambda _, ahead=ahead: self._finished(ahead))  # type: ignore[misc]  # bound now

    def holds(self, key: ReadKey) -> bool:
        """True if an equal call was run ahead."""
        return key in self._ahead

    async def take(self, key: ReadKey, last_write: int) -> tuple[JsonValue, float] | None:
        """The result of an equal call that was run ahead, and its head start in seconds; waits for one that still runs.

        None if there is none, if something was written since it began, or if it failed: then the call is run itself.
        """
        ahead = self._ahead.pop(key, None)
        if ahead is None:
            return None
        self._forget(ahead)
        asked_s = self._clock.now()
        stale = ahead.writes < last_write or (ahead.ended_s is not None and asked_s - ahead.ended_s > _KEPT_S)
        if stale:
            self._waste(ahead)
            return None
        try:
            value = await asyncio.shield(ahead.task)
        except CallFailure:
            self._waste(ahead)
            return None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                ahead.task.cancel()
                raise
            return None
        saved_s = min(asked_s, ahead.ended_s or asked_s) - ahead.began_s
        self.counts.used += 1
        self.counts.saved_s += saved_s
        return value, saved_s

    def program_ended(self, program: str) -> None:
        """What was run ahead for it is of no use any more."""
        past = self._programs.pop(program, None)
        for key in past.ahead if past is not None else ():
            ahead = self._ahead.pop(key, None)
            if ahead is not None:
                self._waste(ahead)

    async def close(self) -> None:
        tasks = [ahead.task for ahead in self._ahead.values()]
        for program in list(self._programs):
            self.program_ended(program)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, ahead: _Ahead) -> None:
        ahead.ended_s = self._clock.now()
        if not ahead.task.cancelled():
            ahead.task.exception()  # looked at here: nobody else may

    def _drop_old(self) -> None:
        """Make room: results that were kept too long go."""
        now_s = self._clock.now()
        for ahead in [*self._ahead.values()]:
            if ahead.ended_s is not None and now_s - ahead.ended_s > _KEPT_S:
                del self._ahead[ahead.key]
                self._forget(ahead)
                self._waste(ahead)

    def _forget(self, ahead: _Ahead) -> None:
        past = self._programs.get(ahead.program)
        if past is not None:
            past.ahead.discard(ahead.key)

    def _waste(self, ahead: _Ahead) -> None:
        ahead.task.cancel()
        self.counts.wasted += 1
        self.counts.wasted_s += (ahead.ended_s or self._clock.now()) - ahead.began_s
