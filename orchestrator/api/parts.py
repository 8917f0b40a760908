"""What routes work with: the parts of the server and the request's tenant. Never makes or closes any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from orchestrator.api.openai.turns import Turns
from orchestrator.api.sse import OpenStreams
from orchestrator.engines import EnginePool
from orchestrator.limits import Limits
from orchestrator.runtime import Runtime
from orchestrator.tools import Toolbox, WorkerPool
from tenuto.wire.base import WireModel

if TYPE_CHECKING:
    from orchestrator.caching.server_cache import ServerCache
    from orchestrator.workflows import Workflows


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one server. `started_at`: seconds since the Unix epoch. `cache`: None if it is off."""

    runtime: Runtime
    engines: EnginePool
    workers: WorkerPool
    tools: Toolbox
    limits: Limits
    started_at: float
    workflows: Workflows
    cache: ServerCache | None = None
    streams: OpenStreams = field(default_factory=OpenStreams)
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", Turns(self.runtime, self.tools, self.limits))


def parts_of(request: Request) -> Parts:
    """The parts of the server that answers this request."""
    found = request.app.state.parts
    assert isinstance(found, Parts)
    return found


def tenant(request: Request) -> str:
    """Whom the request comes from, as the edge found it."""
    return str(request.scope["tenuto.tenant"])


def principal(request: Request) -> str:
    """Who of the tenant it is: the prefix of its key, or "local" on a server without keys."""
    return str(request.scope["tenuto.principal"])


def operator(request: Request) -> bool:
    """Whether it may see and change what concerns all tenants."""
    return bool(request.scope["tenuto.operator"])


def answer(value: WireModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A wire value as JSON."""
    return Response(value.model_dump_json(), status, headers, media_type="application/json")
