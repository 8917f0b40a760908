"""Answers of the API that no client sends back: lists of models, engines and tools, and the state of the server."""

from typing import Literal

from pydantic import Field

from tenuto.wire import ToolSpec
from tenuto.wire.base import WireModel


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


class LeaseView(WireModel):
    """The KV of a paused program, kept."""

    program: str
    call: str = Field(description="the LLM call that left it")
    tier: Literal["device", "host"]
    tokens: int = Field(description="kept for this program alone")
    shared_tokens: int = Field(description="kept with it, and shared with other programs")
    ends_in_s: float | None = Field(description="null: the program's next call is back and waits to take it over")
    remaining_s: float = Field(description="expected rest of the pause, when it was last looked at")
    recompute_s: float = Field(description="prefill seconds to make it again")


class LeasesView(WireModel):
    """The leases of one engine: the tenant's own that live, and counts over all tenants."""

    engine: str
    rule: str
    tokens: dict[str, int] = Field(description="under lease now, by tier")
    ended: dict[str, int] = Field(description="leases by outcome since the start")
    refused: int = Field(description="not granted for want of room")
    demoted: int = Field(description="moved to the host")
    token_seconds: dict[str, float] = Field(description="held since the start, by tier")
    unused_token_seconds: dict[str, float] = Field(description="of these, of leases that did not end as handoff")
    price: float = Field(description="shadow price of the whole device memory; 0 while nobody waits for it")
    leases: tuple[LeaseView, ...]


class LeaseList(WireModel):
    data: tuple[LeasesView, ...]


class ToolView(WireModel):
    """A tool that connected workers of a toolset run."""

    toolset: str
    workers: int
    tool: ToolSpec


class ToolList(WireModel):
    data: tuple[ToolView, ...]


class Health(WireModel):
    status: Literal["up"] = "up"


class Readiness(WireModel):
    status: Literal["ready"] = "ready"
    models: tuple[str, ...]
