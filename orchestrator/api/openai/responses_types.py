"""The Responses API on the wire: what a request may say, what it is answered with, and the events of its stream."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.api.openai.fields import Content, Function, Given, Sampled, Schema
from tenuto.wire.base import WireModel
from tenuto.wire.calls import ToolName


class Item(Given):
    """One item of the input: a message, a call that an earlier response asked for, or its result."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    id: str | None = Field(default=None, max_length=200)
    status: str | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: Content = ()
    phase: str | None = Field(default=None, description="taken; templates here do not show it")
    call_id: str | None = Field(default=None, max_length=200)
    name: ToolName | None = None
    arguments: str | None = None
    output: Content = ()

    @model_validator(mode="after")
    def _fields_belong_to_the_type(self) -> Item:
        needed = {"message": ("role",), "function_call": ("call_id", "name", "arguments")}.get(self.type, ("call_id",))
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"an item of type {self.type!r} needs {', '.join(missing)}")
        return self


def _items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class Format(Schema):
    type: Literal["text", "json_object", "json_schema"] = "text"


class TextOptions(Given):
    format: Format = Format()


class ResponseTool(Function):
    type: Literal["function"]

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type", "function") != "function":
            raise ValueError(f"tools of type {value['type']!r} are not run here, only functions of the client")
        return value


class ResponseStreamOptions(Given):
    include_obfuscation: bool = Field(default=False, description="taken; nothing is padded")


class ResponsesRequest(Sampled):
    """`POST /v1/responses`."""

    input: Annotated[
        tuple[Item, ...], Field(min_length=1), BeforeValidator(_items, json_schema_input_type=str | tuple[Item, ...])
    ]
    instructions: str | None = None
    previous_response_id: str | None = Field(default=None, max_length=200)
    store: bool = Field(default=True, description="false: no later response can go on from this one")
    max_output_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    text: TextOptions = TextOptions()
    tools: tuple[ResponseTool, ...] = Field(default=(), max_length=128)
    include: tuple[Literal["message.output_text.logprobs"], ...] = ()
    truncation: Literal["disabled"] = "disabled"
    background: Literal[False] = False
    stream_options: ResponseStreamOptions | None = None

    @model_validator(mode="after")
    def _options_go_together(self) -> ResponsesRequest:
        if self.tool_choice is not None and self.tool_choice.mode in ("required", "function") and not self.tools:
            raise ValueError("tool_choice asks for a tool, but there are no tools")
        return self


class OutputLogprob(WireModel):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[OutputLogprob, ...] = ()


class OutputText(WireModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[OutputLogprob, ...] = ()


ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(WireModel):
    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: tuple[OutputText, ...]


class OutputCall(WireModel):
    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem: TypeAlias = OutputMessage | OutputCall


class InputDetails(WireModel):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(WireModel):
    reasoning_tokens: int = 0


class ResponseUsage(WireModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class ResponseError(WireModel):
    code: str
    message: str


class Incomplete(WireModel):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(WireModel):
    """The answer. `id` names the turn of the program, which the header `x-program-id` names."""

    id: str
    object: Literal["response"] = "response"
    created_at: float
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None = None
    incomplete_details: Incomplete | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: tuple[OutputItem, ...]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: tuple[dict[str, Any], ...]
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: ResponseUsage | None = None


class ResponseEvent(WireModel):
    """One event of the stream; which fields it has depends on its type."""

    type: str
    sequence_number: int
    response: ResponseObject | None = None
    output_index: int | None = None
    content_index: int | None = None
    item_id: str | None = None
    item: OutputItem | None = None
    part: OutputText | None = None
    delta: str | None = None
    text: str | None = None
    name: str | None = None
    arguments: str | None = None
    logprobs: tuple[OutputLogprob, ...] | None = None
