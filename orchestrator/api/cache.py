"""Routes of the semantic cache: what it holds and why, invalidation, reports, moving entries.

A tenant sees and changes its own entries. What concerns all tenants (statistics, tuning) needs an operator's key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from pydantic import JsonValue, TypeAdapter
from starlette.responses import StreamingResponse

from orchestrator.api import bodies, examples
from orchestrator.api.openapi import accepts, accepts_lines, lines, problems, returns
from orchestrator.api.parts import answer, operator, parts_of, principal, tenant
from orchestrator.api.problems import InvalidRequest
from orchestrator.caching.caller import Caller
from orchestrator.errors import CacheOff, ConfirmationNeeded, Forbidden, NotFound
from tenuto.wire import (
    BadHit,
    BadHitTaken,
    CacheBump,
    CacheBumped,
    CacheCandidate,
    CacheExplanation,
    CacheFlush,
    CacheFlushed,
    CacheStatsView,
    CacheTaken,
    CategoryStatsView,
    ExplainRequest,
    FieldError,
    LLMCall,
)

if TYPE_CHECKING:
    from orchestrator.caching.server_cache import ServerCache
    from semantic_cache import CacheStats, Explanation

router = APIRouter(prefix="/v1/cache", tags=["cache"])

_EXPLAIN, _BUMP = TypeAdapter(ExplainRequest), TypeAdapter(CacheBump)
_REPORT, _FLUSH = TypeAdapter(BadHit), TypeAdapter(CacheFlush)


@router.get("/stats", summary="What the cache does", responses={**returns(CacheStatsView), **problems(403, 404)})
async def stats(request: Request) -> Response:
    """Hits, false hits with their interval, thresholds, savings and room, by category, over all tenants."""
    cache = _cache(request)
    _operator(request)
    return answer(_stats(cache, cache.stats()))


@router.post(
    "/explain",
    summary="Why a call is answered or not",
    openapi_extra=accepts(ExplainRequest, examples.EXPLAINS),
    responses={**returns(CacheExplanation), **problems(400, 404, 413, 415, 422)},
)
async def explain(request: Request) -> Response:
    """Walk through a lookup without counting it or changing anything."""
    from semantic_cache import InvalidRequest as RefusedRequest

    cache, parts = _cache(request), parts_of(request)
    asked = bodies.parse(_EXPLAIN, await bodies.read(request, parts.limits.submission_bytes))
    call, values, caller, drives = await _call(request, asked)
    try:
        found = await cache.explain(
            call, values, caller, model=call.model or parts.engines.default or "", drives_effects=drives
        )
    except RefusedRequest as fault:
        raise _invalid("/llm", str(fault), "give every variable that the messages read a value") from None
    return answer(_explanation(found))


@router.post(
    "/bump",
    summary="Invalidate by tag",
    openapi_extra=accepts(CacheBump, examples.BUMPS),
    responses={**returns(CacheBumped), **problems(400, 404, 413, 415, 422)},
)
async def bump(request: Request) -> Response:
    """From now on nothing is served that depends on the tag. Answers when that is on the disk."""
    cache = _cache(request)
    given = bodies.parse(_BUMP, await bodies.read(request, parts_of(request).limits.submission_bytes))
    entries = await cache.bump(given.tag, tenant(request), dry_run=given.dry_run)
    return answer(CacheBumped(tag=given.tag, entries=entries, done=not given.dry_run))


@router.post(
    "/report",
    summary="Report a wrong answer",
    openapi_extra=accepts(BadHit, examples.REPORTS),
    responses={**returns(BadHitTaken), **problems(400, 404, 413, 415, 422)},
)
async def report(request: Request) -> Response:
    """Put an entry into quarantine and count it against its category's threshold."""
    from semantic_cache import InvalidRequest as RefusedRequest
    from semantic_cache import UnknownEntry

    cache = _cache(request)
    given = bodies.parse(_REPORT, await bodies.read(request, parts_of(request).limits.submission_bytes))
    hit, entry = await _reported(request, given)
    try:
        taken = await cache.report(
            tenant=tenant(request), principal=principal(request), hit=hit, entry=entry, reason=given.reason
        )
    except UnknownEntry as fault:
        raise NotFound(str(fault)) from None
    except RefusedRequest as fault:
        raise _invalid("", str(fault), "name a hit, an entry, or a program and its call; report less often") from None
    return answer(BadHitTaken(entry=taken))


@router.post(
    "/flush",
    summary="Delete entries",
    openapi_extra=accepts(CacheFlush, examples.FLUSHES),
    responses={**returns(CacheFlushed), **problems(400, 404, 409, 413, 415, 422)},
)
async def flush(request: Request) -> Response:
    """Delete the tenant's entries, when `confirm` repeats the phrase that a first request is told."""
    from semantic_cache import ConfirmationNeeded as Unconfirmed

    cache = _cache(request)
    given = bodies.parse(_FLUSH, await bodies.read(request, parts_of(request).limits.submission_bytes))
    try:
        plan = await cache.flush(tenant=tenant(request), category=given.category, confirm=given.confirm)
    except Unconfirmed as fault:
        raise ConfirmationNeeded(str(fault)) from None
    return answer(CacheFlushed(entries=plan.entries, confirm=plan.confirm, done=plan.done))


@router.get("/export", summary="Export entries", responses={**lines("one entry a line"), **problems(404)})
async def export(request: Request) -> Response:
    """The tenant's entries as JSON lines, vectors included."""
    return StreamingResponse(_lines(_cache(request).export(tenant(request))), media_type="application/x-ndjson")


@router.post(
    "/import",
    summary="Import entries",
    openapi_extra=accepts_lines("what an export wrote"),
    responses={**returns(CacheTaken), **problems(403, 404, 413, 415, 422)},
)
async def import_(request: Request) -> Response:
    """Take in what an export wrote, all or nothing. Entries that are there already or past their time are left out."""
    cache, author = _cache(request), principal(request)
    return await _uploaded(
        request, lambda text: cache.import_(text, author=author), "send the lines of an export as they are"
    )


@router.post(
    "/tune",
    summary="Calibrate from labelled pairs",
    openapi_extra=accepts_lines('pairs: {"category": "sql", "a": "…", "b": "…", "same": true}'),
    responses={**returns(CacheTaken), **problems(403, 404, 413, 415, 422)},
)
async def tune(request: Request) -> Response:
    """Learn from pairs of questions where their similarity begins to mean the same answer."""
    return await _uploaded(request, _cache(request).tune, "send one pair a line, of a category that the cache has")


def _cache(request: Request) -> ServerCache:
    cache = parts_of(request).cache
    if cache is None:
        raise CacheOff("the server runs without a semantic cache: start it with --cache exact or --cache semantic")
    return cache


def _operator(request: Request) -> None:
    if not operator(request):
        raise Forbidden("this concerns all tenants: use a key with operator = true under [[api_keys]]")


async def _uploaded(request: Request, take: Callable[[list[str]], Awaitable[int]], fix: str) -> Response:
    """Give an operator's lines to the cache: they concern all tenants, and are believed."""
    from semantic_cache import InvalidRequest as RefusedRequest
    from semantic_cache import TransferError

    _operator(request)
    text = await bodies.read_lines(request, parts_of(request).limits.submission_bytes)
    try:
        return answer(CacheTaken(taken=await take(text)))
    except (TransferError, RefusedRequest) as fault:
        raise _invalid("", str(fault), fix) from None


async def _lines(source: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for line in source:
        yield line.encode() + b"\n"


async def _call(request: Request, asked: ExplainRequest) -> tuple[LLMCall, Mapping[str, JsonValue], Caller, bool]:
    """The call that is asked about, its variables' values, whose it is, and whether an effect reads its answer."""
    if asked.llm is not None:
        user, who = asked.user, principal(request)
        return asked.llm, asked.variables, Caller(tenant(request), who, user, asked.workflow), False
    if asked.program is None or asked.call is None:
        raise _invalid("", "there is no call to explain", "give `llm`, or `program` and `call`")
    runtime, owner = parts_of(request).runtime, tenant(request)
    await runtime.recall(asked.program, tenant=owner)
    return runtime.llm_call(asked.program, asked.call, tenant=owner)


async def _reported(request: Request, given: BadHit) -> tuple[int | None, int | None]:
    """The hit or entry that a report names."""
    if given.hit is not None or given.entry is not None or given.program is None or given.call is None:
        return given.hit, given.entry
    runtime, owner = parts_of(request).runtime, tenant(request)
    await runtime.recall(given.program, tenant=owner)
    for view in runtime.view(given.program, tenant=owner).call_views:
        if view.id == given.call and view.cache is not None:
            # the number is remembered as long as the server runs, the entry for longer
            return (view.cache.hit, None) if view.cache.entry is None else (None, view.cache.entry)
    raise NotFound(f"call {given.call!r} of program {given.program!r} was not answered from the cache")


def _stats(cache: ServerCache, found: CacheStats) -> CacheStatsView:
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    del fields["embedder_digest"]
    fields["categories"] = tuple(CategoryStatsView(**dataclasses.asdict(c)) for c in found.categories)
    return CacheStatsView(mode=cache.options.mode, why_not_semantic=cache.without_embedder, **fields)


def _explanation(found: Explanation) -> CacheExplanation:
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    fields["candidates"] = tuple(CacheCandidate(**dataclasses.asdict(c)) for c in found.candidates)
    fields["elsewhere"] = dict(found.elsewhere)
    return CacheExplanation(**fields)


def _invalid(pointer: str, message: str, fix: str) -> InvalidRequest:
    return InvalidRequest(message, errors=(FieldError(pointer=pointer, message=message, fix=fix),))
