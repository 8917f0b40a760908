"""Chat completions on the wire: what a request may say, and what it is answered with."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from orchestrator.api.openai.fields import Content, Function, Given, Sampled, Schema, Stop
from tenuto.wire.base import WireModel
from tenuto.wire.calls import ToolName


class ChatFunctionCall(Given):
    name: ToolName
    arguments: str


class ChatToolCall(Given):
    """A call that an earlier answer asked for."""

    id: str = Field(max_length=200)
    type: Literal["function"] = "function"
    function: ChatFunctionCall
    index: int = 0


class ChatMessage(Given):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = ()
    name: str | None = Field(default=None, max_length=64, description="taken; templates here do not show it")
    refusal: str | None = None
    tool_calls: tuple[ChatToolCall, ...] = Field(default=(), max_length=1024)
    tool_call_id: str | None = Field(default=None, max_length=200)
    annotations: tuple[Any, ...] = ()

    @model_validator(mode="after")
    def _calls_belong_to_their_roles(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only a message of the assistant has tool_calls")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a message of role 'tool', and no other, has a tool_call_id")
        return self


class TextFormat(Given):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: Schema | None = None

    @model_validator(mode="after")
    def _schema_goes_with_its_type(self) -> TextFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given exactly when type is 'json_schema'")
        return self


class StreamOptions(Given):
    include_usage: bool = False
    include_obfuscation: bool = Field(default=False, description="taken; nothing is padded")


class ChatTool(Given):
    type: Literal["function"]
    function: Function


Bias: TypeAlias = dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]]


class ChatRequest(Sampled):
    """`POST /v1/chat/completions`."""

    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    n: int = Field(default=1, ge=1, le=128)
    stop: Stop = ()
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    logit_bias: Bias = Field(default_factory=dict, max_length=1024)
    logprobs: bool = False
    response_format: TextFormat = TextFormat()
    tools: tuple[ChatTool, ...] = Field(default=(), max_length=128)
    stream_options: StreamOptions | None = None
    store: Literal[False] = False

    @model_validator(mode="after")
    def _options_go_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs = true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream = true")
        if self.tool_choice is not None and self.tool_choice.mode in ("required", "function") and not self.tools:
            raise ValueError("tool_choice asks for a tool, but there are no tools")
        if self.tools and self.response_format.type != "text" and self.tool_choice is None:
            raise ValueError("tools and response_format together: say by tool_choice which of them this answer is")
        return self


class CalledFunction(WireModel):
    name: str
    arguments: str


class AnsweredCall(WireModel):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(default=None, exclude_if=lambda index: index is None)


class TopLogprob(WireModel):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None


class ChatLogprob(TopLogprob):
    top_logprobs: tuple[TopLogprob, ...]


class ChatLogprobs(WireModel):
    content: tuple[ChatLogprob, ...]
    refusal: None = None


class AnswerMessage(WireModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: tuple[AnsweredCall, ...] | None = Field(default=None, exclude_if=lambda calls: calls is None)


FinishWord: TypeAlias = Literal["stop", "length", "tool_calls"]


class ChatChoice(WireModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishWord


class CachedTokens(WireModel):
    cached_tokens: int


class ChatUsage(WireModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class ChatCompletion(WireModel):
    """The answer. `id` names the turn of the program, which the header `x-program-id` names."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoice, ...]
    usage: ChatUsage
    service_tier: str = "default"


class Delta(WireModel):
    """What is new of a message; absent fields are unchanged."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: tuple[AnsweredCall, ...] | None = None


class ChunkChoice(WireModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishWord | None = None


class ChatChunk(WireModel):
    """One event of a streamed answer."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: ChatUsage | None = None
