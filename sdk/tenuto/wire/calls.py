"""Calls: the nodes of a program. An LLM call generates text; a function call runs a tool.

Every call writes exactly one semantic variable, its `output`; several results are projections
(`Reference.path`) of one structured value. Prompts keep their constant parts apart from their
variables, so that shared prefixes can be found without looking at the text.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from tenuto.wire.base import WireModel
from tenuto.wire.values import Expr, JsonPath, Name, TextType, ValueType

Tag: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""What an answer depends on and a write changes: a table, a document, a tool."""

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]


class Objective(WireModel):
    """What an end is judged by. `latency`: seconds to the end. `throughput`: work per second over
    many programs. `deadline`: the end by `deadline_s` seconds after the program was accepted."""

    kind: Literal["latency", "throughput", "deadline"] = "latency"
    deadline_s: Seconds | None = None

    @model_validator(mode="after")
    def _deadline_goes_with_its_kind(self) -> Self:
        if (self.kind == "deadline") != (self.deadline_s is not None):
            raise ValueError("deadline_s is given exactly when kind is 'deadline'")
        return self


class EffectClass(StrEnum):
    """What a tool does to the world, which decides what may run side by side and what may be retried.

    READ changes nothing. WRITE changes what `effect_key` names. EXCLUSIVE may change anything.
    """

    READ = "read"
    WRITE = "write"
    EXCLUSIVE = "exclusive"


class Retry(WireModel):
    """Attempts after a failure. Wait before attempt n+1: `min(max_wait_s, first_wait_s * 2**(n-1))`, jittered.

    `on` names the types of errors that are worth another attempt; empty: all that say of themselves they may pass.
    """

    attempts: int = Field(default=1, ge=1, le=20, description="attempts in all; 1 = no retry")
    first_wait_s: float = Field(default=0.1, ge=0, le=3600)
    max_wait_s: float = Field(default=10.0, ge=0, le=3600)
    on: tuple[str, ...] = Field(default=(), max_length=32)


class TextPart(WireModel):
    """A constant piece of a prompt."""

    kind: Literal["text"] = "text"
    text: str


class VariablePart(WireModel):
    """A hole of a prompt, filled with a variable's value: text as it is, JSON in compact form."""

    kind: Literal["variable"] = "variable"
    variable: Name
    path: JsonPath = ()


ToolName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,200}$")]


class AskedCall(WireModel):
    """A function call that an assistant's message of the prompt asked for. `arguments`: the object as JSON text."""

    id: Annotated[str, StringConstraints(max_length=200)] = ""
    name: ToolName
    arguments: str = "{}"


class Message(WireModel):
    """One chat message of a prompt template. A `tool` message is the result of the call that `tool_call_id` names."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[Annotated[TextPart | VariablePart, Field(discriminator="kind")], ...]
    tool_calls: tuple[AskedCall, ...] = Field(default=(), max_length=1024)
    tool_call_id: str | None = Field(default=None, max_length=200)

    @model_validator(mode="after")
    def _calls_belong_to_their_roles(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only a message of the assistant has tool_calls")
        if self.tool_call_id is not None and self.role != "tool":
            raise ValueError("only a message of a tool has a tool_call_id")
        return self


class ModelTool(WireModel):
    """A function that the model may ask for: its chat template tells of it, and whoever reads the answer runs it."""

    name: ToolName
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of the arguments object")


class Sampling(WireModel):
    """How tokens are drawn. `temperature` 0 is greedy. Equal seeds give equal draws whatever the batch."""

    max_tokens: int = Field(default=256, ge=1, le=1_000_000)
    temperature: float = Field(default=0.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, description="0 = no limit")
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10, description="of tokens in prompt and output; 1 = none")
    presence_penalty: float = Field(default=0.0, ge=-10, le=10, description="of tokens in the output")
    frequency_penalty: float = Field(default=0.0, ge=-10, le=10, description="for each time a token is in the output")
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(default=(), max_length=16)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] = Field(
        default_factory=dict, max_length=1024, description="added to the logits of tokens, by their ids"
    )
    logprobs: int | None = Field(
        default=None, ge=0, le=20, description="tell each token's log probability, and those of so many likelier ones"
    )


class RegexConstraint(WireModel):
    """The output matches a regular expression as a whole."""

    kind: Literal["regex"] = "regex"
    pattern: str


class GrammarConstraint(WireModel):
    """The output is a sentence of a Lark grammar (llguidance dialect)."""

    kind: Literal["grammar"] = "grammar"
    lark: str


class JsonConstraint(WireModel):
    """The output is JSON that satisfies a schema, but stays text: one that is cut off is no error."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] = Field(default_factory=dict)


Constraint: TypeAlias = Annotated[RegexConstraint | GrammarConstraint | JsonConstraint, Field(discriminator="kind")]


class _CallBase(WireModel):
    id: Name
    output: Name | None = Field(default=None, description="the variable written; the call's id if absent")
    type: ValueType = Field(default_factory=TextType, description="type of the output variable")
    after: tuple[Name, ...] = Field(default=(), description="calls that must end first although no value is used")
    stage: Name | None = Field(default=None, description="the step's name in the workflow's code: key of statistics")
    group: Name | None = Field(default=None, description="declared task group: siblings whose joint end matters")
    timeout_s: Seconds | None = None
    retry: Retry = Retry()
    objective: Objective | None = Field(default=None, description="stricter reader than the program's own objective")
    expected_s: Seconds | None = Field(default=None, description="a hint; a wrong one costs time, never correctness")

    @property
    def variable(self) -> str:
        """Name of the variable that this call writes."""
        return self.output or self.id


class CacheControl(WireModel):
    """What one call asks of the semantic cache, inside what the server and the category allow.

    `exact`: only the very same call's answer. `tags` name what the answer depends on, with a version, or "" where only
    a bump tells of changes. `examples`: how many near misses may stand in the prompt as worked examples.
    """

    mode: Literal["off", "exact", "semantic"] = "semantic"
    keep: bool = Field(default=True, description="whether the engine's answer may be kept for others")
    max_age_s: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="no older answer is taken")
    examples: int = Field(default=0, ge=0, le=8)
    tags: dict[Tag, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict, max_length=64)


class PlanOptions(WireModel):
    """The call's text holds function calls, which join the program while it is generated.

    `plan` is LLMCompiler's grammar (`1. search("x")`, `$1`, `join()`), `tool_calls` the JSON of function-calling
    models. A call whose text is complete is declared at once, named `<id of the LLM call>-<its number>`; it starts when
    its inputs are there, which may be long before the text ends. The LLM call's own value is a `PlanOutcome`.
    """

    format: Literal["plan", "tool_calls"] = "plan"
    tools: tuple[Name, ...] = Field(max_length=512, description="the tools that it may call")
    earlier: dict[int, Name] = Field(
        default_factory=dict, description="numbers that may be referred to, and the variables that they stand for"
    )
    early: bool = Field(default=True, description="False: calls start when the text has ended")


class NamedTool(WireModel):
    """The one tool that a call has to ask for."""

    name: ToolName


class LLMCall(_CallBase):
    """One generation. A JSON output type is enforced while decoding; text may carry a `constraint`."""

    kind: Literal["llm"] = "llm"
    messages: tuple[Message, ...] = Field(min_length=1)
    model: str | None = Field(default=None, max_length=200, description="the server's default model if absent")
    sampling: Sampling = Sampling()
    constraint: Constraint | None = None
    category: Name | None = Field(default=None, description="kind of question, for the semantic cache's policy")
    question: Name | None = Field(default=None, description="the text variable that another wording may stand for")
    cache: CacheControl = CacheControl()
    adapter: str | None = Field(default=None, max_length=200, description="the LoRA adapter to answer with")
    tools: tuple[ModelTool, ...] = Field(default=(), max_length=512, description="functions that it may ask for")
    tool_choice: Literal["auto", "none", "required"] | NamedTool = Field(
        default="auto", description="required, or a tool's name: the text is one call as JSON, and ends with it"
    )
    plan: PlanOptions | None = Field(default=None, description="function calls in its text run while it is generated")

    @model_validator(mode="after")
    def _a_plan_is_an_object(self) -> Self:
        if self.plan is not None and isinstance(self.type, TextType):
            raise ValueError("the value of a call with a plan is a PlanOutcome: give it a JSON type")
        return self

    @model_validator(mode="after")
    def _chosen_tools_are_there(self) -> Self:
        choice = self.tool_choice
        if isinstance(choice, NamedTool) and all(tool.name != choice.name for tool in self.tools):
            raise ValueError(f"tool_choice: there is no tool {choice.name!r} among the call's tools")
        if choice == "required" and not self.tools:
            raise ValueError("tool_choice is 'required', but the call has no tools")
        if self.must_call and not (isinstance(self.type, TextType) and self.constraint is None and self.plan is None):
            raise ValueError("a call that must ask for a tool has no other constraint: give it text output")
        return self

    @property
    def must_call(self) -> tuple[ModelTool, ...]:
        """The tools of which it has to ask for one; none: it is free to answer."""
        choice = self.tool_choice
        if isinstance(choice, NamedTool):
            return tuple(tool for tool in self.tools if tool.name == choice.name)
        return self.tools if choice == "required" else ()

    @model_validator(mode="after")
    def _one_constraint(self) -> Self:
        if self.constraint is not None and not isinstance(self.type, TextType):
            raise ValueError("a JSON output type is a constraint of its own: give a constraint only with text output")
        return self

    @model_validator(mode="after")
    def _question_is_read_whole(self) -> Self:
        if self.question is not None:
            holes = [p for m in self.messages for p in m.parts if isinstance(p, VariablePart)]
            if all(p.variable != self.question for p in holes):
                raise ValueError(f"question: no message reads the variable {self.question!r}")
            if any(p.variable == self.question and p.path for p in holes):
                raise ValueError(f"question: {self.question!r} is read in part; only a whole text can be the question")
        return self


class FunctionCall(_CallBase):
    """One run of a tool. `idempotent` allows a second run when it is unknown whether the first one ended."""

    kind: Literal["function"] = "function"
    tool: Name
    arguments: dict[str, Expr] = Field(default_factory=dict)
    effect: EffectClass = EffectClass.EXCLUSIVE
    effect_key: str | None = Field(default=None, max_length=200, description="what a `write` changes")
    idempotent: bool = False
    handed: bool = Field(
        default=False, description="an OpenAI client runs it: the request that has the tool's message brings its result"
    )
    bumps: tuple[Tag, ...] = Field(
        default=(), max_length=64, description="cache tags that a run makes stale, besides a write's `effect_key`"
    )


Call: TypeAlias = Annotated[LLMCall | FunctionCall, Field(discriminator="kind")]

JsonSchema: TypeAlias = dict[str, Any]
