"""Programs as submitted and as read back."""

from enum import StrEnum
from typing import Generic, Literal, TypeVar

from pydantic import Field, JsonValue

from tenuto.wire.base import WireModel
from tenuto.wire.calls import Call, Objective, Seconds
from tenuto.wire.values import Name, TextType, ValueType


class InputVariable(WireModel):
    """A variable whose value the client gives."""

    type: ValueType = Field(default_factory=TextType)
    value: JsonValue


class Graph(WireModel):
    """Inputs, calls in any order, and the variables that are the program's results."""

    inputs: dict[Name, InputVariable] = Field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    outputs: tuple[Name, ...] = ()


class GraphExtension(WireModel):
    """Growth of a running program. `seal` says that no more will come: the program ends with its calls."""

    inputs: dict[Name, InputVariable] = Field(default_factory=dict)
    calls: tuple[Call, ...] = ()
    outputs: tuple[Name, ...] = ()
    seal: bool = False
    result: JsonValue = Field(default=None, description="the workflow's own return value, kept with a sealed program")


class ProgramSubmission(WireModel):
    """`POST /v1/programs`. An `open` program may be extended until it is sealed."""

    workflow: Name
    graph: Graph = Graph()
    objective: Objective = Objective()
    open: bool = False
    agent: bool = Field(default=False, description="the workflow is an agent's loop: traces and metrics say so")
    idle_s: Seconds | None = Field(
        default=None, description="an open program ends well when it was not used for so long; else it is abandoned"
    )
    toolset: str | None = Field(default=None, max_length=200, description="whose workers run its function calls")
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)


class ProgramStatus(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class VariableStatus(StrEnum):
    """EMPTY: not yet written. WRITTEN: has its value for ever. FAILED: will never have one; `error` says why."""

    EMPTY = "empty"
    WRITTEN = "written"
    FAILED = "failed"


class ErrorValue(WireModel):
    """Why a call or a program has no value. `type` is a name that the docs explain."""

    type: str
    message: str
    call: str | None = Field(default=None, description="the call at fault; if skipped, the ancestor that failed")
    attempts: int = 0


class LargeValue(WireModel):
    """Stands for a value of more than `limits.inline_bytes` of JSON, which stays on the server until it is asked for:
    `GET /v1/programs/{id}/variables/{name}`, with `?pointer=/rows/0` for a part of it."""

    bytes: int = Field(description="of its JSON")
    preview: str = Field(description="the beginning of its JSON")


class VariableView(WireModel):
    """`GET /v1/programs/{id}/variables/{name}`; `?wait=s`: answered when written, failed, or after s seconds.

    Among the outputs of a program a large value is shown by `large` alone; asked for by its name it comes whole.
    """

    name: str
    type: ValueType
    status: VariableStatus
    value: JsonValue = None
    error: ErrorValue | None = None
    large: LargeValue | None = None


class CacheHit(WireModel):
    """A call's answer came from the semantic cache: `exact` the same call's, `semantic` that of a question near enough,
    `flight` that of an equal call which was under way. `hit` and `entry` name it in a report."""

    hit: int
    tier: Literal["exact", "semantic", "flight"]
    category: str
    similarity: float
    age_s: float = Field(description="since the answer was made")
    saved_s: float = Field(description="what the engine's own answer took")
    saved_tokens: int
    entry: int | None = None


class TokenLogprob(WireModel):
    """Natural log of the probability that the model gave a token; `top`: the most probable ones in its place."""

    token: int
    text: str
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


class CallUsage(WireModel):
    """Tokens of an LLM call's last run. `cached_tokens`: those of the prompt whose KV was there already."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class CallView(WireModel):
    id: str
    kind: Literal["llm", "function"]
    stage: str | None
    state: Literal["waiting", "ready", "running", "ended", "failed", "cancelled", "skipped"]
    output: str
    error: ErrorValue | None = None
    cache: CacheHit | None = Field(default=None, description="set when the semantic cache answered")
    finish: Literal["stop", "length", "tool_call"] | None = Field(
        default=None, description="why the engine ended an LLM call's text"
    )
    usage: CallUsage | None = Field(default=None, description="of an LLM call that an engine ran")
    logprobs: tuple[TokenLogprob, ...] = Field(default=(), description="one a token, if `sampling.logprobs` asks")


class ProgramSummary(WireModel):
    id: str
    workflow: str
    tenant: str
    status: ProgramStatus
    accepted_at: float = Field(description="seconds since the Unix epoch")
    seconds: float = Field(description="since acceptance, or to the end")
    calls: int
    calls_ended: int
    trace_id: str


class ProgramView(ProgramSummary):
    objective: Objective
    open: bool
    metadata: dict[str, str]
    call_views: tuple[CallView, ...]
    outputs: dict[str, VariableView]
    result: JsonValue = None
    error: ErrorValue | None = None


class PlannedCallView(WireModel):
    """A call that a model's text made: its number in the text, and the variable that has its result."""

    number: int
    tool: str
    variable: str
    thought: str | None = None


class PlanFault(WireModel):
    """What could not be done as it was written, where, and what to write instead. `number`: the call it is about."""

    code: str
    severity: Literal["error", "warning", "note"]
    line: int
    column: int
    message: str
    fix: str
    number: int | None = None


class PlanOutcome(WireModel):
    """The value of an LLM call with `plan`: its text and what became of the calls in it.

    `join`: the numbers whose ends the plan's next step needs; None: all of them. `joined`: the text said `join()`.
    `first_close` and `last_close` tell what an early start can gain: little, if the calls stand at the text's end.
    """

    text: str
    calls: tuple[PlannedCallView, ...] = ()
    join: tuple[int, ...] | None = None
    joined: bool = False
    faults: tuple[PlanFault, ...] = ()
    first_close: float = Field(default=1.0, description="share of the text that had come when the first call closed")
    last_close: float = Field(default=1.0, description="share of the text that had come when the last call closed")


class TimelineSpan(WireModel):
    """Seconds of a call's life with one cause, on the program's own axis (0 = accepted)."""

    cause: Literal["client", "queue", "prefill", "recompute", "decode", "tool", "pause", "cache"]
    start_s: float
    end_s: float


class Recompute(WireModel):
    """What an engine had to read again of a call's prompt, and why it was not kept.

    unleased: no lease held it, and others wanted the memory. expired: its lease ended before the call came. pressure:
    its lease was broken for calls that needed the memory more. preempted: the call itself had to give way.
    """

    tokens: int
    why: Literal["unleased", "expired", "pressure", "preempted"]
    left_by: str | None = Field(default=None, description="the call of the program whose chain it was, if any")


class TimelineCall(WireModel):
    id: str
    kind: Literal["llm", "function"]
    stage: str | None
    after: tuple[str, ...]
    state: str
    spans: tuple[TimelineSpan, ...]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    attempts: int = 0
    recompute: Recompute | None = None
    cache: CacheHit | None = None
    early: Literal["foreseen", "partial", "shared", "kept"] | None = None
    """The tool had worked for this call before it was made: run ahead, begun on a part of its arguments, under way for
    an equal call, or done for one. `early_s`: the head start of the first two."""
    early_s: float = 0.0
    behind: tuple[str, ...] = ()
    """When it began to queue, these programs had calls on its engine: the four that had been there longest. Of a
    function call: the call whose effect had to be over first."""


class PathStep(WireModel):
    """Seconds of the measured critical path: `cause` is None where nothing accounts for them."""

    call: str | None
    cause: str | None
    start_s: float
    end_s: float


class Timeline(WireModel):
    """`GET /v1/programs/{id}/timeline`. `path` covers every moment from the acceptance to the end (or to now) once;
    `causes` sums it up."""

    program: str
    workflow: str
    status: ProgramStatus
    trace_id: str
    seconds: float
    calls: tuple[TimelineCall, ...]
    critical_path: tuple[str, ...]
    path: tuple[PathStep, ...] = ()
    causes: dict[str, float] = Field(default_factory=dict)


T = TypeVar("T")


class Page(WireModel, Generic[T]):
    """A page of a list, newest first unless asked otherwise."""

    data: tuple[T, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool
