"""Results that may be given more than once: runs shared while they are under way, and a cache with a time to live.

Only `read` calls come here. Owns which results are still good. Never runs anything and never crosses tenants.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import JsonValue

from orchestrator.clock import OrchestratorClock
from orchestrator.tools.failures import CallFailure
from orchestrator.tools.values import NotJson, encode_json

_PLACES = 1024
"""Places whose last write is known. That of any other place may have been as late as the latest one forgotten."""


class ReadKey(NamedTuple):
    """What an answer depends on. `place` keeps toolsets and hosts apart."""

    tenant: str
    place: str
    tool: str
    arguments: bytes


@dataclass(slots=True)
class _Kept:
    value: JsonValue
    size: int
    until_s: float
    writes: int  # how many writes had ended when it was asked for


class ReadResults:
    """Runs under way and results kept, by what they depend on.

    Nothing that was read before a write of the same tenant ended is given to a call that was made after it: runs under
    way are then shared no more, and results kept from the written place are dropped.
    Invariant: at most one shareable run is under way for a key; `bytes` is the JSON size of all kept results, and at
    most the limit; `writes` counts the writes that have ended. A failed run is kept by nobody: those who shared it get
    the failure, the next one runs anew.
    """

    def __init__(self, clock: OrchestratorClock, *, limit_bytes: int) -> None:
        self._clock = clock
        self._limit_bytes = limit_bytes
        self._running: dict[tuple[int, ReadKey], asyncio.Future[JsonValue]] = {}
        self._writes: Counter[str] = Counter()  # by tenant
        self._last_writes: OrderedDict[tuple[str, str], int] = OrderedDict()  # by tenant and place, the latest last
        self._forgotten = 0
        self._kept: OrderedDict[ReadKey, _Kept] = OrderedDict()
        self.writes = 0
        self.bytes = 0
        self.shared = 0
        self.hits = 0

    def known(self, key: ReadKey) -> tuple[JsonValue] | None:
        """A kept result that is still good, in a tuple of its own, since null is a result too."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_s <= self._clock.now() or kept.writes < self.last_write(key):
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        self.hits += 1
        return (kept.value,)

    async def run(
        self, key: ReadKey, run: Callable[[], Awaitable[JsonValue]], started: Callable[[], None]
    ) -> JsonValue:
        """The result of the run under way for this key, else of `run`. Raises its CallFailure.

        If the one who runs it is cancelled, one of those who share it runs it anew.
        """
        while (running := self._running.get((self._writes[key.tenant], key))) is not None:
            self.shared += 1
            started()
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                if not running.cancelled():
                    raise  # this very call was cancelled
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
        return await self._lead(key, run)

    async def _lead(self, key: ReadKey, run: Callable[[], Awaitable[JsonValue]]) -> JsonValue:
        shared: asyncio.Future[JsonValue] = asyncio.get_running_loop().create_future()
        now = (self._writes[key.tenant], key)
        self._running[now] = shared
        try:
            value = await run()
        except CallFailure as failure:
            same = CallFailure(failure.type, failure.message, retryable=failure.retryable, lost=failure.lost)
            shared.set_exception(same)
            shared.exception()  # nobody may be there to look at it
            raise
        except BaseException:
            shared.cancel()
            raise
        else:
            shared.set_result(value)
            return value
        finally:
            del self._running[now]

    def last_write(self, key: ReadKey) -> int:
        """The number of the last write at the key's place, or of a later one elsewhere: what began when fewer `writes`
        had ended is not given any more."""
        return self._last_writes.get((key.tenant, key.place), self._forgotten)

    def keep(self, key: ReadKey, value: JsonValue, ttl_s: float, writes: int) -> None:
        """Give this result again for `ttl_s` seconds, as far as there is room; what was used longest ago goes first.

        `writes`: as they were before its run.
        """
        try:
            size = len(encode_json(value))
        except NotJson:
            return
        if size > self._limit_bytes:
            return
        self._drop(key)
        self._kept[key] = _Kept(value, size, self._clock.now() + ttl_s, writes)
        self.bytes += size
        while self.bytes > self._limit_bytes:
            self._drop(next(iter(self._kept)))

    def wrote(self, tenant: str, place: str) -> None:
        """A call with an effect has ended there, however it did."""
        self._writes[tenant] += 1
        self.writes += 1
        self._last_writes[tenant, place] = self.writes
        self._last_writes.move_to_end((tenant, place))
        if len(self._last_writes) > _PLACES:
            self._forgotten = self._last_writes.popitem(last=False)[1]

    def _drop(self, key: ReadKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.size
