"""Routes of workers: client processes register, take tasks from a stream and bring results back."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import TypeAdapter

from orchestrator.api import bodies, examples
from orchestrator.api.openapi import accepts, problems, returns, streams
from orchestrator.api.parts import answer, parts_of, tenant
from orchestrator.api.sse import EventStream, frame
from tenuto.wire import TaskMessage, TaskResult, ToolList, ToolView, WorkerInfo, WorkerRegistration

router = APIRouter(prefix="/v1", tags=["workers"])

WorkerId = Annotated[str, Path(max_length=200, description="the worker's id")]

_REGISTRATION = TypeAdapter(WorkerRegistration)
_RESULTS = TypeAdapter(list[TaskResult])


@router.post(
    "/workers",
    status_code=201,
    summary="Register a worker",
    openapi_extra=accepts(WorkerRegistration, examples.REGISTRATIONS),
    responses={
        **returns(WorkerInfo, 201, "registered; open its task stream next"),
        **problems(400, 413, 415, 422, 429),
    },
)
async def register(request: Request) -> Response:
    """Announce the tools (and, for tests, models) of a worker. It gets work once its task stream is open."""
    parts = parts_of(request)
    registration = bodies.parse(_REGISTRATION, await bodies.read(request, parts.limits.submission_bytes))
    info = parts.workers.register(registration, tenant(request))
    return answer(info, 201, {"location": f"/v1/workers/{info.id}"})


@router.get(
    "/workers/{worker}/tasks",
    summary="Take tasks",
    responses={**streams("`data`: a TaskMessage", examples.TASK_STREAM), **problems(404, 409, 422)},
)
async def tasks(request: Request, worker: WorkerId) -> Response:
    """The worker's tasks as server-sent events. The worker is gone when the stream is closed."""
    parts = parts_of(request)
    source = parts.workers.tasks(worker, tenant=tenant(request))
    return EventStream(source, _encode, parts.streams, heartbeat_s=parts.limits.heartbeat_s)


@router.post(
    "/workers/{worker}/results",
    status_code=204,
    summary="Bring results",
    openapi_extra=accepts(TaskResult, examples.RESULTS, many=True),
    responses={204: {"description": "taken"}, **problems(400, 404, 413, 415, 422)},
)
async def results(request: Request, worker: WorkerId) -> Response:
    """How tasks ended, any number at once; none is a heartbeat. A result that nobody waits for any more is dropped."""
    parts = parts_of(request)
    found = bodies.parse(_RESULTS, await bodies.read(request, parts.limits.submission_bytes))
    parts.workers.results(worker, found, tenant=tenant(request))
    return Response(status_code=204)


@router.post(
    "/workers/{worker}/drain",
    status_code=204,
    summary="Let a worker finish",
    responses={204: {"description": "it gets no more tasks"}, **problems(404, 422)},
)
async def drain(request: Request, worker: WorkerId) -> Response:
    """Give the worker no more tasks; its stream ends when the results of those that it runs are there."""
    parts_of(request).workers.drain(worker, tenant=tenant(request))
    return Response(status_code=204)


@router.delete(
    "/workers/{worker}",
    status_code=204,
    summary="Take a worker away",
    responses={204: {"description": "gone"}, **problems(404, 422)},
)
async def remove(request: Request, worker: WorkerId) -> Response:
    """End the worker's stream; its tasks go to other workers where their effects allow."""
    parts_of(request).workers.remove(worker, tenant=tenant(request))
    return Response(status_code=204)


@router.get("/tools", summary="List tools", responses={**returns(ToolList), **problems()})
async def tools(request: Request) -> Response:
    """The tools that connected workers of the tenant offer, and the server's own (toolset `server`)."""
    listed = parts_of(request).tools.tools(tenant(request))
    return answer(ToolList(data=tuple(ToolView(toolset=t.toolset, workers=t.workers, tool=t.spec) for t in listed)))


def _encode(message: TaskMessage) -> bytes:
    return frame(message.model_dump_json().encode())
