"""One attempt of a function call as it is handed to whoever runs tools, and what such a place must offer.

Owns the contract only: workers of clients, server-side Python, process pools, HTTP and MCP servers satisfy it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from types import MappingProxyType
from typing import NamedTuple, Protocol

import orjson
from pydantic import JsonValue

from orchestrator.journal import Early
from orchestrator.tools.values import NotJson, encode_json
from tenuto.wire import Reference, ToolSpec


class ToolRun(NamedTuple):
    """One attempt of a function call. `timeout_s` runs from the tool's start; None: the tool's own.

    `deadline_s`: when, on the clock, all attempts and the waits between them must be over. `key` orders the calls that
    wait for room, smaller first; it is the policy's. `large`: arguments that are long, as parts of variables, for those
    who can read them there. `early` is told when the tool has worked for this call before it was made, and how long.
    `handed`: the client runs it, and brings the result with a later request.
    """

    program: str
    call: str
    tool: str
    tenant: str
    toolset: str
    arguments: dict[str, JsonValue]
    attempt: int
    timeout_s: float | None = None
    traceparent: str | None = None
    key: tuple[float, ...] = ()
    deadline_s: float | None = None
    workflow: str = ""
    large: Mapping[str, Reference] = MappingProxyType({})
    early: Callable[[Early, float], None] | None = None
    handed: bool = False

    def came_early(self, how: Early, seconds: float = 0.0) -> None:
        """The tool had begun before the call was made."""
        if self.early is not None:
            self.early(how, seconds)

    @property
    def idempotency_key(self) -> str:
        """Equal for all attempts of one call with equal arguments, over restarts too; unguessable parts: none."""
        digest = blake2b(canonical(self.arguments), digest_size=12).hexdigest()
        return f"{self.program}/{self.call}/{digest}"


def canonical(arguments: Mapping[str, JsonValue]) -> bytes:
    """The arguments as JSON that does not depend on the order of keys. NotJson cannot happen to resolved values."""
    try:
        return orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # integers beyond 64 bits
        return encode_json(_ordered(arguments))


def _ordered(value: JsonValue | Mapping[str, JsonValue]) -> JsonValue:
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


Intend = Callable[[], Awaitable[None]]
"""Makes the intent of an effect durable; awaited when room was found and before the tool is told to start."""


class ToolHost(Protocol):
    """A place on the server's side where tools run.

    `run` raises CallFailure and nothing else; cancelling it cancels the tool, and returns once the tool was told.
    `started` is called once, right before the tool begins.
    """

    @property
    def name(self) -> str: ...

    @property
    def max_running(self) -> int | None:
        """Calls at once on this host; None: no cap of its own."""
        ...

    @property
    def specs(self) -> Mapping[str, ToolSpec]: ...

    async def start(self) -> None:
        """Make ready. Raises ValueError, naming the setting, if that cannot be."""
        ...

    async def run(self, run: ToolRun, spec: ToolSpec) -> JsonValue: ...

    async def close(self) -> None: ...


__all__ = ["Intend", "NotJson", "ToolHost", "ToolRun", "canonical"]
