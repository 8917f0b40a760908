"""Workers: client processes that run tools (and, for tests, models) for the server.

`POST /v1/workers` registers; `GET /v1/workers/{id}/tasks` is an SSE stream of `TaskMessage`s, open as
long as the worker lives; `POST /v1/workers/{id}/results` brings results back in batches.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, JsonValue

from tenuto.wire.base import WireModel
from tenuto.wire.calls import AskedCall, Constraint, EffectClass, ModelTool, Retry, Sampling, Seconds
from tenuto.wire.programs import ErrorValue
from tenuto.wire.values import Name, Reference


class ToolSpec(WireModel):
    """A tool as its worker declares it; schemas are made from the function's signature.

    Times in seconds: `timeout_s` of one attempt, `total_timeout_s` of all attempts and the waits between them,
    `queue_timeout_s` from ready to started. `effect_key`, for writes, may name arguments: `file:{path}`.
    """

    name: Name
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of the arguments object")
    returns: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of the result")
    effect: EffectClass = EffectClass.EXCLUSIVE
    timeout_s: Seconds | None = None
    retry: Retry = Retry()
    expected_s: Seconds | None = None
    concurrency: int | None = Field(default=None, ge=1, description="calls at once on one worker; None = no cap")
    max_running: int | None = Field(default=None, ge=1, description="calls at once wherever they run; None = no cap")
    queue_timeout_s: Seconds | None = None
    total_timeout_s: Seconds | None = None
    idempotent: bool = Field(default=False, description="a second run does no harm")
    effect_key: str | None = Field(default=None, max_length=200, description="what a `write` changes")
    share: bool = Field(default=True, description="equal `read` calls that run at once may share one run")
    cache_s: float | None = Field(default=None, gt=0, le=7 * 86400, description="a `read` result may be given again")
    partial: tuple[Name, ...] = Field(default=(), description="text arguments that the tool can begin on a part of")
    speculate: bool = Field(default=False, description="a `read` call may be run ahead when it is foreseen")


class HostedModel(WireModel):
    """A model that the worker itself answers for: scripted, recorded or noisy doubles in tests."""

    name: str


class WorkerRegistration(WireModel):
    """Workers of one `toolset` share its programs' function calls.

    `beats`: the worker will bring results, an empty batch if need be, every `heartbeat_s` seconds; one that is silent
    for three of them is taken for lost, long before its connection is. `fetches`: it reads large arguments itself.
    `pieces`: it begins calls of which one argument comes in pieces.
    """

    toolset: str = Field(max_length=200)
    tools: tuple[ToolSpec, ...] = ()
    models: tuple[HostedModel, ...] = ()
    concurrency: int = Field(default=256, ge=1, le=100_000)
    beats: bool = False
    fetches: bool = False
    pieces: bool = False


class WorkerInfo(WireModel):
    id: str
    toolset: str
    heartbeat_s: float


class RenderedMessage(WireModel):
    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[AskedCall, ...] = Field(default=(), exclude_if=lambda calls: not calls)
    tool_call_id: str | None = Field(default=None, exclude_if=lambda id: id is None)


class FunctionTask(WireModel):
    """Run a tool. Equal `idempotency_key`s are attempts of one and the same call.

    `fetch`: arguments that are large, as parts of the program's variables; a worker that `fetches` reads them there.
    `partial`: the argument that is still being written; it comes as `TaskPiece`s behind the task.
    """

    kind: Literal["function"] = "function"
    task: str
    program: str
    call: str
    tool: str
    arguments: dict[str, JsonValue]
    idempotency_key: str
    timeout_s: float | None
    attempt: int
    traceparent: str | None = None
    fetch: dict[str, Reference] = Field(default_factory=dict)
    partial: Name | None = None


class ModelTask(WireModel):
    """Answer a prompt (hosted models only)."""

    kind: Literal["model"] = "model"
    task: str
    program: str
    call: str
    model: str
    stage: str | None
    messages: tuple[RenderedMessage, ...]
    sampling: Sampling
    constraint: Constraint | None
    json_schema: dict[str, Any] | None
    tools: tuple[ModelTool, ...] = ()
    attempt: int
    traceparent: str | None = None


class TaskPiece(WireModel):
    """More of the argument that a task began with a part of; `last`: it is complete."""

    kind: Literal["piece"] = "piece"
    task: str
    text: str = ""
    last: bool = False


class CancelTask(WireModel):
    kind: Literal["cancel"] = "cancel"
    task: str


Task: TypeAlias = FunctionTask | ModelTask
TaskMessage: TypeAlias = Annotated[FunctionTask | ModelTask | TaskPiece | CancelTask, Field(discriminator="kind")]


class TaskResult(WireModel):
    """How a task ended: `value` (for models: the text), or `error`."""

    task: str
    value: JsonValue = None
    error: ErrorValue | None = None
    retryable: bool = False
