"""What the runtime tells of a program and its calls, and the telemetry that only keeps trace ids.

Context is explicit: every span knows its parent by its `traceparent`, never by a context variable, since those do
not cross queues and restarts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, Protocol

from engine.protocol import ChatMessage, EngineStep, FinishReason, Usage
from tenuto.wire import FunctionCall, LLMCall

_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class TraceContext(NamedTuple):
    """A span's place, as W3C Trace Context carries it."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    @property
    def sampled(self) -> bool:
        """Whether somebody records the span."""
        return bool(int(self.flags, 16) & 1)


def parse_traceparent(header: str | None) -> TraceContext | None:
    """The context that a `traceparent` header names; None if it is absent or invalid, as the standard asks."""
    found = _TRACEPARENT.match(header) if header else None
    if found is None or header is None or header.startswith("ff"):
        return None
    trace_id, span_id, flags = found.groups()
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, flags)


CONSUMERS = 64
"""At most so many consumers of a variable are named on its span."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What else is known of an attempt at its end. None and empty: does not apply."""

    consumers: Sequence[str] = ()
    behind: Sequence[str] = ()
    first_chunk_s: float | None = None
    slack_s: float | None = None
    evicted: str | None = None
    lease_ttl_s: float | None = None
    lease_tier: str | None = None
    lease_outcome: str | None = None
    cache_verdict: str | None = None
    cache_category: str | None = None
    cache_similarity: float | None = None
    cache_age_s: float | None = None
    cache_saved_s: float | None = None
    cache_saved_tokens: int | None = None


NO_FACTS = Facts()


class CallTrace(Protocol):
    """One attempt of a call. Ended exactly once, by one of the `end_` methods. Times are seconds since the epoch."""

    @property
    def traceparent(self) -> str: ...

    def end_llm(
        self,
        at: float,
        *,
        usage: Usage | None,
        finish: FinishReason | None,
        error: str | None,
        messages: Sequence[ChatMessage],
        pieces: Sequence[str],
        facts: Facts = NO_FACTS,
    ) -> None: ...

    def end_tool(
        self, at: float, *, error: str | None, arguments: Any, result: Any, facts: Facts = NO_FACTS
    ) -> None: ...


class ProgramTrace(Protocol):
    """A program's span and the makers of its children."""

    @property
    def recording(self) -> bool:
        """False if nobody will ever see a span: what only spans tell need not be gathered."""
        ...

    @property
    def trace_id(self) -> str: ...

    @property
    def traceparent(self) -> str: ...

    def llm(self, call: LLMCall, model: str, attempt: int, at: float, producers: Sequence[str] = ()) -> CallTrace:
        """Open the span of an attempt. `producers`: the calls whose ends it waited for; the span links to theirs."""
        ...

    def tool(self, call: FunctionCall, attempt: int, at: float, producers: Sequence[str] = ()) -> CallTrace: ...

    def embedding(self, model: str, call: str, began: float, at: float, dimensions: int, error: str | None) -> None:
        """The semantic cache has embedded a call's question."""
        ...

    def end(self, at: float, error: str | None) -> None: ...


class Telemetry(Protocol):
    @property
    def recording(self) -> bool:
        """False if nobody will ever see a span."""
        ...

    def program(
        self,
        program: str,
        workflow: str,
        at: float,
        parent: TraceContext | None,
        earlier: TraceContext | None = None,
        *,
        agent: bool = False,
        objective: str = "",
        policy: str = "",
    ) -> ProgramTrace:
        """Open a program's span under `parent`. `earlier`: its span before the server was started again; `agent`: its
        workflow is an agent's loop."""
        ...

    def step(self, engine: str, at: float, step: EngineStep) -> None:
        """An engine's step ended at `at`."""
        ...

    async def close(self) -> None: ...


class _NullTrace:
    """Keeps the ids that others see, records nothing. One object serves a program and all its calls."""

    __slots__ = ("trace_id", "traceparent")
    recording = False

    def __init__(self, context: TraceContext) -> None:
        self.trace_id = context.trace_id
        self.traceparent = context.traceparent

    def llm(self, call: LLMCall, model: str, attempt: int, at: float, producers: Sequence[str] = ()) -> _NullTrace:
        return self

    def tool(self, call: FunctionCall, attempt: int, at: float, producers: Sequence[str] = ()) -> _NullTrace:
        return self

    def embedding(self, model: str, call: str, began: float, at: float, dimensions: int, error: str | None) -> None:
        return

    def end(self, at: float, error: str | None) -> None:
        return

    def end_llm(
        self,
        at: float,
        *,
        usage: Usage | None,
        finish: FinishReason | None,
        error: str | None,
        messages: Sequence[ChatMessage],
        pieces: Sequence[str],
        facts: Facts = NO_FACTS,
    ) -> None:
        return

    def end_tool(self, at: float, *, error: str | None, arguments: Any, result: Any, facts: Facts = NO_FACTS) -> None:
        return


class NullTelemetry:
    """No exporter: programs still have trace ids, and hand on the client's, so that its own spans join up."""

    recording = False

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def program(
        self,
        program: str,
        workflow: str,
        at: float,
        parent: TraceContext | None,
        earlier: TraceContext | None = None,
        *,
        agent: bool = False,
        objective: str = "",
        policy: str = "",
    ) -> ProgramTrace:
        context = parent or earlier
        if context is None:
            # not sampled ("00"): whoever reads it must not think that this span exists somewhere
            trace_id, span_id = self._rng.getrandbits(128) or 1, self._rng.getrandbits(64) or 1
            context = TraceContext(f"{trace_id:032x}", f"{span_id:016x}", "00")
        return _NullTrace(context)

    def step(self, engine: str, at: float, step: EngineStep) -> None:
        return

    async def close(self) -> None:
        return
