"""Routes of programs: submit, grow, read, wait, follow, cancel. Says in HTTP what the runtime says in Python."""

from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import JsonValue, TypeAdapter

from dag.values import at_pointer
from orchestrator.api import bodies, examples
from orchestrator.api.accepting import IdempotencyKey, Traceparent, accepted
from orchestrator.api.cache_status import cache_status
from orchestrator.api.openapi import accepts, problems, returns, streams
from orchestrator.api.parts import answer, parts_of, tenant
from orchestrator.api.problems import InvalidRequest, invalid_header
from orchestrator.api.sse import EventStream, frame, unless_left
from orchestrator.telemetry import timelines
from tenuto.wire import (
    Event,
    FieldError,
    GraphExtension,
    Page,
    ProgramStatus,
    ProgramSubmission,
    ProgramSummary,
    ProgramView,
    Timeline,
    VariableStatus,
    VariableView,
)

router = APIRouter(prefix="/v1/programs", tags=["programs"])

ProgramId = Annotated[str, Path(max_length=200, description="the program's id", examples=[examples.PROGRAM_ID])]
VariableName = Annotated[str, Path(max_length=200, description="the variable's name", examples=["answer"])]
AfterSeq = Annotated[int, Query(ge=0, lt=2**63, description="the last event that the reader has seen")]

CHROME, MERMAID, SVG = "application/vnd.chrome-trace+json", "text/vnd.mermaid", "image/svg+xml"

_SUBMISSION = TypeAdapter(ProgramSubmission)
_EXTENSION = TypeAdapter(GraphExtension)


@router.post(
    "",
    status_code=201,
    summary="Submit a program",
    openapi_extra=accepts(ProgramSubmission, examples.SUBMISSIONS),
    responses={
        **returns(ProgramSummary, 201, "accepted; `Location` is the program"),
        **returns(ProgramSummary, 200, "the answer to an earlier request with this Idempotency-Key and body"),
        **problems(400, 409, 413, 415, 422, 429, 503),
    },
)
async def submit(request: Request, idempotency_key: IdempotencyKey = None, traceparent: Traceparent = None) -> Response:
    """Accept a graph of calls and start it. Answers when the program is in the journal, not when it has ended."""
    parts = parts_of(request)
    submission = bodies.parse(_SUBMISSION, await bodies.read(request, parts.limits.submission_bytes))
    return await accepted(request, submission, idempotency_key, traceparent)


@router.post(
    "/{program}/extend",
    summary="Extend an open program",
    openapi_extra=accepts(GraphExtension, examples.EXTENSIONS),
    responses={**returns(ProgramSummary), **problems(400, 404, 409, 413, 415, 422, 429, 503)},
)
async def extend(request: Request, program: ProgramId) -> Response:
    """Add inputs, calls and outputs, or seal the program so that it ends with its calls."""
    parts = parts_of(request)
    extension = bodies.parse(_EXTENSION, await bodies.read(request, parts.limits.submission_bytes))
    return answer(await parts.runtime.extend(program, extension, tenant=tenant(request)))


@router.get("", summary="List programs", responses={**returns(Page[ProgramSummary]), **problems(404, 422)})
async def list_programs(
    request: Request,
    limit: Annotated[int, Query(ge=1, description="programs per page; the server's limits.page bounds it")] = 20,
    after: Annotated[str | None, Query(max_length=200, description="`last_id` of the page before")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="desc: newest first")] = "desc",
    status: Annotated[ProgramStatus | None, Query(description="only programs with this status")] = None,
    workflow: Annotated[str | None, Query(max_length=200, description="only programs of this workflow")] = None,
) -> Response:
    """A page of the tenant's programs."""
    parts = parts_of(request)
    page = parts.runtime.list(
        tenant=tenant(request),
        limit=min(limit, parts.limits.page),
        after=after,
        order=order,
        status=status,
        workflow=workflow,
    )
    return answer(page)


@router.get("/{program}", summary="Read a program", responses={**returns(ProgramView), **problems(404, 422)})
async def read(request: Request, program: ProgramId) -> Response:
    """The program with its calls and outputs as they are now."""
    runtime, owner = parts_of(request).runtime, tenant(request)
    await runtime.recall(program, tenant=owner)
    return answer(runtime.view(program, tenant=owner))


@router.get(
    "/{program}/timeline",
    summary="Where the time went",
    responses={**returns(Timeline, also=(CHROME, MERMAID, SVG)), **problems(404, 422)},
)
async def timeline(
    request: Request,
    program: ProgramId,
    format: Annotated[
        Literal["json", "chrome", "mermaid", "svg"],
        Query(description="chrome: for Perfetto and chrome://tracing; mermaid: the graph; svg: a picture"),
    ] = "json",
) -> Response:
    """Every call's seconds by cause, and the critical path."""
    runtime, owner = parts_of(request).runtime, tenant(request)
    await runtime.recall(program, tenant=owner)
    found = runtime.timeline(program, tenant=owner)
    match format:
        case "json":
            return answer(found)
        case "chrome":
            return Response(orjson.dumps(timelines.chrome(found)), media_type=CHROME)
        case "mermaid":
            return Response(timelines.flowchart(found), media_type=MERMAID)
        case "svg":
            return Response(timelines.svg(found), media_type=SVG)


@router.get(
    "/{program}/variables/{name}",
    summary="Read a variable, or wait for it",
    responses={**returns(VariableView), **problems(404, 422)},
)
async def variable(
    request: Request,
    program: ProgramId,
    name: VariableName,
    wait: Annotated[
        float, Query(ge=0, le=86400, description="seconds to wait for it; limits.variable_wait_s bounds it")
    ] = 0,
    part: Annotated[
        str, Query(alias="pointer", max_length=2000, description="an RFC 6901 pointer: only this part of the value")
    ] = "",
) -> Response:
    """The variable; with `wait`, as soon as it is written or has failed, and after that many seconds in any case."""
    parts = parts_of(request)
    runtime, owner = parts.runtime, tenant(request)
    view = await runtime.variable(program, name, tenant=owner, wait_s=0)
    if wait > 0 and view.status is VariableStatus.EMPTY:
        wait_s = min(wait, parts.limits.variable_wait_s)
        waited = await unless_left(request, parts.streams, runtime.variable(program, name, tenant=owner, wait_s=wait_s))
        view = waited or view
    if part and view.status is VariableStatus.WRITTEN:
        view = view.model_copy(update={"value": _part(view, part)})
    hit = runtime.cached(program, name, tenant=owner) if view.status is VariableStatus.WRITTEN else None
    return answer(view, headers=None if hit is None else {"cache-status": cache_status(hit)})


@router.get(
    "/{program}/events",
    summary="Follow a program",
    responses={
        **streams("`id`: the event's seq, `event`: its kind, `data`: an Event", examples.EVENT_STREAM),
        **problems(404, 422),
    },
)
async def events(
    request: Request,
    program: ProgramId,
    after: AfterSeq = 0,
    last_event_id: Annotated[
        str | None, Header(description="sent by readers that come back; wins over `after`")
    ] = None,
) -> Response:
    """The program's events as server-sent events: those after the given one, then each as it happens, to the end."""
    parts = parts_of(request)
    after_seq = after if last_event_id is None else _seq(last_event_id)
    runtime, owner = parts.runtime, tenant(request)
    await runtime.recall(program, tenant=owner)  # a program that is not there must be told before the stream begins
    source = runtime.events(program, tenant=owner, after_seq=after_seq)
    return EventStream(source, _encode, parts.streams, heartbeat_s=parts.limits.heartbeat_s)


@router.post(
    "/{program}/cancel", summary="Cancel a program", responses={**returns(ProgramSummary), **problems(404, 409, 422)}
)
async def cancel(request: Request, program: ProgramId) -> Response:
    """Stop the program's running calls and start no more. A program that has ended stays as it is."""
    return answer(await parts_of(request).runtime.cancel(program, tenant=tenant(request)))


def _part(view: VariableView, place: str) -> JsonValue:
    """The part of a variable's value at a pointer. Raises InvalidRequest."""
    try:
        if not place.startswith("/"):
            raise ValueError(f"{place!r} is no RFC 6901 pointer: it begins with /")
        part: JsonValue = at_pointer(view.name, place, view.value)
        return part
    except ValueError as fault:
        error = FieldError(pointer="/query/pointer", message=str(fault), fix="name a part that is there")
        raise InvalidRequest(f"pointer: {fault}", errors=(error,)) from fault


def _encode(event: Event) -> bytes:
    return frame(event.model_dump_json(exclude_none=True).encode(), id=event.seq, event=event.kind)


def _seq(last_event_id: str) -> int:
    """The number in a Last-Event-ID header. Raises InvalidRequest."""
    if not last_event_id.isascii() or not last_event_id.isdecimal() or len(last_event_id) > 18:
        fix = "send the `id` of the last event that was read"
        raise invalid_header("Last-Event-ID", f"{last_event_id!r} is no event's id", fix)
    return int(last_event_id)
