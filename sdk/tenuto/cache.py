"""`client.cache`: the semantic cache of a server: report, invalidate, explain, move.

Owns nothing but the way of its requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from tenuto.http import HTTP, parsed
from tenuto.wire import (
    BadHit,
    BadHitTaken,
    CacheBump,
    CacheBumped,
    CacheExplanation,
    CacheFlush,
    CacheFlushed,
    CacheStatsView,
    CacheTaken,
    ExplainRequest,
    LLMCall,
)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_LINES = {"content-type": "application/x-ndjson"}


class AsyncCache:
    """The routes of `/v1/cache`. Raises `NotFound` (`cache_off`) on a server without one."""

    def __init__(self, http: HTTP, opened: Callable[[], Awaitable[None]]) -> None:
        self._http = http
        self._opened = opened

    async def stats(self) -> CacheStatsView:
        """Hits, false hits, thresholds, savings and room by category. Needs an operator's key."""
        await self._opened()
        return parsed(CacheStatsView, (await self._http.request("GET", "/v1/cache/stats")).content)

    async def report(
        self,
        program: str | None = None,
        call: str | None = None,
        *,
        hit: int | None = None,
        entry: int | None = None,
        reason: str = "",
    ) -> int:
        """Say that an answer was wrong: by the call that got it, by its hit, or by its entry. It is served no more.

        Returns the entry. Raises `NotFound` if no cached answer has this name."""
        given = BadHit(program=program, call=call, hit=hit, entry=entry, reason=reason)
        return (await self._post(BadHitTaken, "report", given)).entry

    async def bump(self, tag: str, *, dry_run: bool = False) -> int:
        """What `tag` names has changed: nothing that depends on it is served from now on. Returns how many entries
        went (on a dry run: would go)."""
        return (await self._post(CacheBumped, "bump", CacheBump(tag=tag, dry_run=dry_run))).entries

    async def explain(
        self,
        program: str | None = None,
        call: str | None = None,
        *,
        llm: LLMCall | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> CacheExplanation:
        """Why a call of a program, or one that never ran, would or would not be answered now."""
        given = ExplainRequest(program=program, call=call, llm=llm, variables=dict(variables or {}))
        return await self._post(CacheExplanation, "explain", given)

    async def flush(self, *, category: str | None = None, confirm: str | None = None) -> CacheFlushed:
        """Delete entries when `confirm` repeats the phrase that a first call without it is told."""
        return await self._post(CacheFlushed, "flush", CacheFlush(category=category, confirm=confirm))

    async def export(self) -> list[str]:
        """The tenant's entries, one JSON line each."""
        await self._opened()
        return (await self._http.request("GET", "/v1/cache/export")).text.splitlines()

    async def import_(self, lines: Iterable[str]) -> int:
        """Take in what `export` gave; returns how many entries came. Needs an operator's key."""
        return await self._lines("import", lines)

    async def tune(self, lines: Iterable[str]) -> int:
        """Calibrate from labelled pairs, JSON lines of `{"category", "a", "b", "same"}`; returns how many taught
        something. Needs an operator's key."""
        return await self._lines("tune", lines)

    async def _post(self, model: type[M], route: str, body: BaseModel) -> M:
        await self._opened()
        content = body.model_dump_json()
        return parsed(model, (await self._http.request("POST", f"/v1/cache/{route}", body=content)).content)

    async def _lines(self, route: str, lines: Iterable[str]) -> int:
        await self._opened()
        body = "\n".join(lines)
        response = await self._http.request("POST", f"/v1/cache/{route}", body=body, headers=_LINES)
        return parsed(CacheTaken, response.content).taken


class _Caller(Protocol):
    def __call__(self, make: Callable[[], Coroutine[Any, Any, T]], /) -> T: ...


class Cache:
    """`AsyncCache` for blocking code."""

    def __init__(self, cache: AsyncCache, call: _Caller) -> None:
        self._cache = cache
        self._call = call

    def stats(self) -> CacheStatsView:
        """Hits, false hits, thresholds, savings and room by category. Needs an operator's key."""
        return self._call(self._cache.stats)

    def report(
        self,
        program: str | None = None,
        call: str | None = None,
        *,
        hit: int | None = None,
        entry: int | None = None,
        reason: str = "",
    ) -> int:
        """Say that an answer was wrong. Returns the entry, which is served no more."""
        return self._call(lambda: self._cache.report(program, call, hit=hit, entry=entry, reason=reason))

    def bump(self, tag: str, *, dry_run: bool = False) -> int:
        """What `tag` names has changed: nothing that depends on it is served from now on."""
        return self._call(lambda: self._cache.bump(tag, dry_run=dry_run))

    def explain(
        self,
        program: str | None = None,
        call: str | None = None,
        *,
        llm: LLMCall | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> CacheExplanation:
        """Why a call would or would not be answered now."""
        return self._call(lambda: self._cache.explain(program, call, llm=llm, variables=variables))

    def flush(self, *, category: str | None = None, confirm: str | None = None) -> CacheFlushed:
        """Delete entries when `confirm` repeats the phrase that a first call without it is told."""
        return self._call(lambda: self._cache.flush(category=category, confirm=confirm))

    def export(self) -> list[str]:
        """The tenant's entries, one JSON line each."""
        return self._call(self._cache.export)

    def import_(self, lines: Iterable[str]) -> int:
        """Take in what `export` gave. Needs an operator's key."""
        return self._call(lambda: self._cache.import_(lines))

    def tune(self, lines: Iterable[str]) -> int:
        """Calibrate from labelled pairs. Needs an operator's key."""
        return self._call(lambda: self._cache.tune(lines))
