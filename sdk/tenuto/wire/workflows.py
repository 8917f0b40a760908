"""Workflows as registered with a server: a graph over inputs that are given when a program is started."""

from typing import Annotated

from pydantic import Field, JsonValue

from tenuto.wire.base import WireModel
from tenuto.wire.calls import Call, Objective
from tenuto.wire.values import Name, TextType, ValueType


class WorkflowInput(WireModel):
    """An input of every program of the workflow. Without a `default` it has to be given."""

    type: ValueType = Field(default_factory=TextType)
    description: str = Field(default="", max_length=2000)
    default: JsonValue = None
    required: bool = True


class WorkflowDefinition(WireModel):
    """`PUT /v1/workflows/{name}`. The calls are those of a program's graph; they read the inputs by name."""

    description: str = Field(default="", max_length=10_000)
    inputs: dict[Name, WorkflowInput] = Field(default_factory=dict, max_length=256)
    calls: tuple[Call, ...] = Field(min_length=1)
    outputs: tuple[Name, ...] = Field(min_length=1)
    objective: Objective = Objective()
    toolset: str | None = Field(default=None, max_length=200, description="whose workers run its function calls")


class WorkflowView(WireModel):
    """A registered workflow."""

    name: str
    registered_at: float = Field(description="seconds since the Unix epoch")
    definition: WorkflowDefinition


class WorkflowList(WireModel):
    data: tuple[WorkflowView, ...]


class WorkflowStart(WireModel):
    """`POST /v1/workflows/{name}/programs`."""

    inputs: dict[Name, JsonValue] = Field(default_factory=dict)
    objective: Objective | None = Field(default=None, description="another one than the workflow's own")
    metadata: dict[str, Annotated[str, Field(max_length=512)]] = Field(default_factory=dict, max_length=16)
