"""What chat completions and responses have in common on the wire: contents, tools, formats, hints of ours.

Owns what a stock client may write. A field that is not here is refused by its name; a null is one that is not given.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from tenuto.wire import ModelTool
from tenuto.wire.calls import ToolName
from tenuto.wire.values import Name


class Given(BaseModel):
    """Base of what clients send."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_not_given(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


class TextContent(Given):
    """A piece of a message's text. Images, sound and files are refused: the models here read text."""

    type: Literal["text", "input_text", "output_text", "refusal"] = "text"
    text: str = ""
    refusal: str = ""
    annotations: tuple[Any, ...] = ()
    logprobs: tuple[Any, ...] = ()


def _contents(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Content: TypeAlias = Annotated[
    tuple[TextContent, ...], BeforeValidator(_contents, json_schema_input_type=str | tuple[TextContent, ...])
]


def text_of(content: tuple[TextContent, ...]) -> str:
    """A message's text."""
    return "".join(part.text or part.refusal for part in content)


class Schema(Given):
    """`json_schema` of an answer's format."""

    name: str = Field(default="answer", max_length=64)
    description: str = ""
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool = True


class Function(Given):
    """A function that the model may ask for. `strict` is always kept where a call is required."""

    name: ToolName
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False

    def tool(self) -> ModelTool:
        return ModelTool(name=self.name, description=self.description, parameters=self.parameters)


class Choice(Given):
    """`tool_choice`: a word, or the function to ask for."""

    mode: Literal["none", "auto", "required", "function"]
    name: ToolName | None = None

    @model_validator(mode="after")
    def _function_has_a_name(self) -> Choice:
        if (self.mode == "function") != (self.name is not None):
            raise ValueError('give "none", "auto", "required", or the function as {"type": "function", ...}')
        return self


def _choice(value: Any) -> Any:
    if isinstance(value, str):
        return {"mode": value}
    if isinstance(value, dict) and "mode" not in value:
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
        return {"mode": value.get("type"), "name": name}
    return value


ToolChoice: TypeAlias = Annotated[
    Choice, BeforeValidator(_choice, json_schema_input_type=Literal["none", "auto", "required"] | dict[str, Any])
]


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_StopText: TypeAlias = Annotated[str, Field(min_length=1)]
Stop: TypeAlias = Annotated[
    tuple[_StopText, ...],
    Field(max_length=16),
    BeforeValidator(_stops, json_schema_input_type=_StopText | tuple[_StopText, ...]),
]

Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class Hints(Given):
    """`tenuto` in the body (`extra_body` of OpenAI's clients): what only this server knows to make use of."""

    program: str | None = Field(default=None, max_length=200, description="the client's own name of its program")
    final: bool = Field(default=False, description="the program ends with this request")
    workflow: Name | None = Field(default=None, description="what the program is a run of: key of statistics")
    category: Name | None = Field(default=None, description="kind of question, for the semantic cache")
    adapter: str | None = Field(default=None, max_length=200, description="LoRA adapter")


class Sampled(Given):
    """How tokens are drawn, and who asks: fields of both routes. The defaults are OpenAI's, not ours."""

    model: str = Field(max_length=200)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    stream: bool = False
    metadata: Metadata = Field(default_factory=dict)
    user: str | None = Field(default=None, max_length=512)
    safety_identifier: str | None = Field(default=None, max_length=64)
    prompt_cache_key: str | None = Field(default=None, max_length=200, description="taken; prefixes are found anyway")
    prompt_cache_retention: str | None = Field(default=None, description="taken; pauses are judged one by one")
    service_tier: Literal["auto", "default", "flex", "priority"] = "auto"
    tenuto: Hints = Hints()


def arguments_text(arguments: dict[str, Any]) -> str:
    """A call's arguments as clients get them."""
    return json.dumps(arguments, ensure_ascii=False)
