"""Who says whether two answers amount to the same, and the background work of asking.

Owns the budget and the tasks of judging. Never changes the cache: a verdict goes to whoever asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from semantic_cache.clock import CacheClock
from semantic_cache.request import canonical

_LONG_TEXT = 200


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """May `cached`, which answered `cached_question`, be given for `question`?

    `fresh` is the engine's own answer to `question` when `has_fresh`; otherwise the judge must decide without it.
    """

    category: str
    tenant: str
    question: str
    cached_question: str
    cached: JsonValue
    similarity: float
    fresh: JsonValue = None
    has_fresh: bool = False


class Judge(Protocol):
    """A hook: an LLM, a comparison of SQL results, a person. Its errors count as no verdict."""

    async def same(self, case: JudgeCase) -> bool | None:
        """True or False; None when it cannot tell."""
        ...


class SameAnswer:
    """The judge that costs nothing: equal answers are the same, short or structured ones that differ are not.

    Long texts are hardly ever equal letter by letter, so a difference between them tells it nothing.
    """

    async def same(self, case: JudgeCase) -> bool | None:
        if not case.has_fresh:
            return None
        a, b = _plain(case.cached), _plain(case.fresh)
        if a == b:
            return True
        free_text = isinstance(case.cached, str) and isinstance(case.fresh, str)
        return None if free_text and max(len(a), len(b)) > _LONG_TEXT else False


def _plain(value: JsonValue) -> bytes:
    return canonical(" ".join(value.split()).casefold() if isinstance(value, str) else value)


class Judging:
    """Asks the judge off the critical path: at most `per_minute` cases, `concurrency` at once, `pending` waiting.

    A case over the budget is dropped: learning is slower then, nothing else.
    """

    def __init__(
        self, judge: Judge, clock: CacheClock, *, per_minute: float = 600.0, concurrency: int = 4, pending: int = 256
    ) -> None:
        self._judge = judge
        self._clock = clock
        self._rate = per_minute / 60
        self._tokens = self._most = max(1.0, per_minute)
        self._at = clock.now()
        self._places = asyncio.Semaphore(concurrency)
        self._pending = pending
        self._tasks: set[asyncio.Task[None]] = set()
        self.asked = self.dropped = self.failed = 0

    def submit(self, case: JudgeCase, verdict: Callable[[bool], Awaitable[None]]) -> bool:
        """Judge a case in the background and await `verdict` with the outcome, if there is one; False if dropped."""
        now = self._clock.now()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1 or len(self._tasks) >= self._pending:
            self.dropped += 1
            return False
        self._tokens -= 1
        self.spawn(self._ask(case, verdict))
        return True

    def spawn(self, work: Awaitable[None]) -> None:
        """Run other background work that `settle` and `close` should know of."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failed += 1

    async def _ask(self, case: JudgeCase, verdict: Callable[[bool], Awaitable[None]]) -> None:
        async with self._places:
            self.asked += 1
            same = await self._judge.same(case)
        if same is not None:
            await verdict(same)

    async def settle(self) -> None:
        """Return once nothing is being judged."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Cancel what is under way and wait until it has ended."""
        for task in tuple(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
