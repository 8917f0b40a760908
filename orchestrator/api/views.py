"""Answers of the API that the SDK does not read: leases, and the state of the server."""

from typing import Literal

from pydantic import Field

from tenuto.wire.base import WireModel


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


class Health(WireModel):
    status: Literal["up"] = "up"


class Readiness(WireModel):
    status: Literal["ready"] = "ready"
    models: tuple[str, ...]
