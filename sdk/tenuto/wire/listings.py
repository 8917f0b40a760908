"""What a server has: models, engines, tools. Answers that no client sends back."""

from typing import Literal

from pydantic import Field

from tenuto.wire.base import WireModel
from tenuto.wire.workers import ToolSpec


class ModelView(WireModel):
    """A model, in the shape that OpenAI clients read, and what else is known of it."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="seconds since the Unix epoch: when the server started")
    owned_by: str = "tenuto"
    default: bool = Field(description="serves calls that name no model")
    status: str
    context_tokens: int | None = Field(description="prompt + output; null until the model was loaded")


class ModelList(WireModel):
    object: Literal["list"] = "list"
    data: tuple[ModelView, ...]


class CapabilitiesView(WireModel):
    """What an engine can do; the orchestrator does the rest itself."""

    priority: str
    retention: str
    max_lease_ttl_s: float
    fork: bool
    prefetch: bool
    grammar: bool
    logprobs: bool
    estimate: bool
    kv_tokens: int = Field(description="tokens whose KV fits on the device; 0: unknown")
    host_kv_tokens: int
    host_tokens_per_s: float
    max_running: int = Field(description="sequences in one step; 0: unknown")


class EngineView(WireModel):
    """An engine and what it is doing."""

    name: str
    status: Literal["starting", "ready", "restarting", "failed", "closed"]
    restarts: int
    reason: str = Field(description="why it is not ready; empty if it is")
    model: str | None
    vocab_size: int | None
    kv_bytes_per_token: int | None
    capabilities: CapabilitiesView | None


class EngineList(WireModel):
    data: tuple[EngineView, ...]


class ToolView(WireModel):
    """A tool that connected workers of a toolset run."""

    toolset: str
    workers: int
    tool: ToolSpec


class ToolList(WireModel):
    data: tuple[ToolView, ...]
