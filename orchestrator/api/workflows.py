"""Routes of workflows: register a graph once, start programs of it by name and inputs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import TypeAdapter

from orchestrator.api import bodies, examples
from orchestrator.api.accepting import IdempotencyKey, Traceparent, accepted
from orchestrator.api.openapi import accepts, problems, returns
from orchestrator.api.parts import answer, parts_of, tenant
from tenuto.wire import ProgramSummary, WorkflowDefinition, WorkflowList, WorkflowStart, WorkflowView

router = APIRouter(prefix="/v1/workflows", tags=["workflows"])

Name = Annotated[
    str,
    Path(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$", description="the workflow's name", examples=["greet"]),
]

_DEFINITION = TypeAdapter(WorkflowDefinition)
_START = TypeAdapter(WorkflowStart)


@router.get("", summary="List workflows", responses={**returns(WorkflowList), **problems()})
async def list_workflows(request: Request) -> Response:
    """The tenant's workflows, by name."""
    return answer(WorkflowList(data=parts_of(request).workflows.all(tenant=tenant(request))))


@router.put(
    "/{workflow}",
    summary="Register a workflow",
    openapi_extra=accepts(WorkflowDefinition, examples.WORKFLOWS),
    responses={
        **returns(WorkflowView, 201, "registered"),
        **returns(WorkflowView, 200, "it took the place of the one before"),
        **problems(400, 413, 415, 422, 429, 503),
    },
)
async def register(request: Request, workflow: Name) -> Response:
    """Keep a graph under a name. It survives a restart if the server has a journal."""
    parts = parts_of(request)
    definition = bodies.parse(_DEFINITION, await bodies.read(request, parts.limits.submission_bytes))
    view, new = await parts.workflows.register(workflow, definition, tenant=tenant(request))
    return answer(view, 201 if new else 200, {"location": f"/v1/workflows/{workflow}"})


@router.get("/{workflow}", summary="Read a workflow", responses={**returns(WorkflowView), **problems(404, 422)})
async def read(request: Request, workflow: Name) -> Response:
    """Its graph and its inputs."""
    return answer(parts_of(request).workflows.get(workflow, tenant=tenant(request)))


@router.delete(
    "/{workflow}",
    status_code=204,
    summary="Remove a workflow",
    responses={204: {"description": "it is gone; its programs go on"}, **problems(404, 422, 503)},
)
async def remove(request: Request, workflow: Name) -> Response:
    """Forget the name and its graph."""
    await parts_of(request).workflows.remove(workflow, tenant=tenant(request))
    return Response(status_code=204)


@router.post(
    "/{workflow}/programs",
    status_code=201,
    summary="Start a program of a workflow",
    openapi_extra=accepts(WorkflowStart, examples.STARTS),
    responses={
        **returns(ProgramSummary, 201, "accepted; `Location` is the program"),
        **returns(ProgramSummary, 200, "the answer to an earlier request with this Idempotency-Key and body"),
        **problems(400, 404, 409, 413, 415, 422, 429, 503),
    },
)
async def start(
    request: Request, workflow: Name, idempotency_key: IdempotencyKey = None, traceparent: Traceparent = None
) -> Response:
    """A program from inputs alone."""
    parts = parts_of(request)
    given = bodies.parse(_START, await bodies.read(request, parts.limits.submission_bytes))
    submission = parts.workflows.submission(workflow, given, tenant=tenant(request))
    return await accepted(request, submission, idempotency_key, traceparent)
