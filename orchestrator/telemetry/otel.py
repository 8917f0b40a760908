"""Spans and events by the OpenTelemetry SDK. Owns their making; what may stand on them is the conventions' affair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from engine.protocol import ChatMessage, EngineStep, FinishReason, Usage
from orchestrator.telemetry import content, names
from orchestrator.telemetry.content import NO_CONTENT, Capture
from orchestrator.telemetry.conventions import Version, translate
from orchestrator.telemetry.spans import (
    NO_FACTS,
    CallTrace,
    Facts,
    ProgramTrace,
    TraceContext,
    parse_traceparent,
)
from tenuto.wire import FunctionCall, JsonType, LLMCall

Translate = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class RandomIds(IdGenerator):
    """Ids from the server's own source of randomness."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def generate_span_id(self) -> int:
        return self._rng.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._rng.getrandbits(128) or 1


class _Maker:
    """What all spans are made with."""

    def __init__(
        self, provider: TracerProvider, capture: Capture, version: Version, events: LoggerProvider | None
    ) -> None:
        self.tracer = provider.get_tracer("tenuto")
        self.capture = capture
        self.translate: Translate = partial(translate, version=version)
        self.events: Logger | None = events.get_logger("tenuto") if events is not None and capture.events else None


class OpenTelemetry:
    """Spans with explicit parents and times. `capture`: where prompts, outputs, arguments and results are recorded;
    `events`: what takes events; `version`: whose names spans and events bear."""

    recording = True

    def __init__(
        self,
        provider: TracerProvider,
        *,
        capture: Capture = NO_CONTENT,
        version: Version = Version.LATEST,
        events: LoggerProvider | None = None,
    ) -> None:
        self._provider = provider
        self._events = events
        self._make = _Maker(provider, capture, version, events)

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
        """Open the program's span. After a restart it links to the span that the dead server had opened."""
        operation, subject = (
            (names.INVOKE_AGENT, names.AGENT_NAME) if agent else (names.INVOKE_WORKFLOW, names.WORKFLOW_NAME)
        )
        span = self._make.tracer.start_span(
            f"{operation} {workflow}",
            context=_under(parent or earlier),
            kind=SpanKind.INTERNAL,
            links=[Link(_span_context(earlier))] if earlier is not None else None,
            attributes=self._make.translate(
                {
                    names.OPERATION: operation,
                    subject: workflow,
                    names.PROGRAM_ID: program,
                    names.OBJECTIVE: objective,
                    names.POLICY: policy,
                }
            ),
            start_time=_ns(at),
        )
        return _ProgramSpan(self._make, span, program)

    def step(self, engine: str, at: float, step: EngineStep) -> None:
        """A span of its own trace for an engine's step that ended at `at`: it links to the requests in it."""
        asked = (parse_traceparent(traceparent) for traceparent in step.traceparents)
        links = [Link(_span_context(context)) for context in asked if context is not None and context.sampled]
        if not links:
            return
        span = self._make.tracer.start_span(
            f"{names.ENGINE_STEP} {engine}",
            context=_under(None),
            kind=SpanKind.INTERNAL,
            links=links,
            attributes={
                names.ENGINE: engine,
                names.STEP_DECODES: step.decodes,
                names.STEP_PROMPT_TOKENS: step.prompt_tokens,
            },
            start_time=_ns(at - step.seconds),
        )
        span.end(_ns(at))

    async def close(self) -> None:
        """Hand what is recorded to the exporter, and stop it."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._provider.shutdown)
        if self._events is not None:
            await loop.run_in_executor(None, self._events.shutdown)


class _ProgramSpan:
    def __init__(self, make: _Maker, span: Span, program: str) -> None:
        self._make = make
        self._span = span
        self.recording = span.is_recording()
        self._program = program
        self._context = trace.set_span_in_context(span)
        self._calls: dict[str, SpanContext] = {}  # of the last attempt of each call

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        return _traceparent(self._span)

    def llm(self, call: LLMCall, model: str, attempt: int, at: float, producers: Sequence[str] = ()) -> CallTrace:
        sampling = call.sampling
        attributes: dict[str, AttributeValue] = {
            names.OPERATION: names.CHAT,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_MODEL: model,
            names.REQUEST_MAX_TOKENS: sampling.max_tokens,
            names.REQUEST_TEMPERATURE: sampling.temperature,
        }
        if isinstance(call.type, JsonType):
            attributes[names.OUTPUT_TYPE] = "json"
        if sampling.top_p < 1.0:
            attributes[names.REQUEST_TOP_P] = sampling.top_p
        if sampling.top_k:
            attributes[names.REQUEST_TOP_K] = sampling.top_k
        if sampling.seed is not None:
            attributes[names.REQUEST_SEED] = sampling.seed
        if sampling.stop:
            attributes[names.REQUEST_STOP] = sampling.stop
        return self._call(f"{names.CHAT} {model}", call, attempt, at, attributes, producers)

    def tool(self, call: FunctionCall, attempt: int, at: float, producers: Sequence[str] = ()) -> CallTrace:
        attributes: dict[str, AttributeValue] = {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL_NAME: call.tool,
            names.TOOL_CALL_ID: call.id,
            names.TOOL_TYPE: "function",
        }
        return self._call(f"{names.EXECUTE_TOOL} {call.tool}", call, attempt, at, attributes, producers)

    def embedding(self, model: str, call: str, began: float, at: float, dimensions: int, error: str | None) -> None:
        attributes: dict[str, AttributeValue] = {
            names.OPERATION: names.EMBEDDINGS,
            names.PROVIDER_NAME: names.PROVIDER,
            names.REQUEST_MODEL: model,
            names.EMBEDDING_DIMENSIONS: dimensions,
            names.PROGRAM_ID: self._program,
            names.CALL_ID: call,
        }
        span = self._make.tracer.start_span(
            f"{names.EMBEDDINGS} {model}",
            context=self._context,
            kind=SpanKind.INTERNAL,
            attributes=self._make.translate(attributes),
            start_time=_ns(began),
        )
        _end(span, at, error)

    def _call(
        self,
        name: str,
        call: LLMCall | FunctionCall,
        attempt: int,
        at: float,
        attributes: dict[str, AttributeValue],
        producers: Sequence[str],
    ) -> CallTrace:
        attributes[names.PROGRAM_ID] = self._program
        attributes[names.CALL_ID] = call.id
        attributes[names.ATTEMPT] = attempt
        attributes[names.VARIABLE] = call.variable
        if call.stage is not None:
            attributes[names.STAGE] = call.stage
        span = self._make.tracer.start_span(
            name,
            context=self._context,
            kind=SpanKind.INTERNAL,
            attributes=self._make.translate(attributes),
            links=[
                Link(context, {names.VARIABLE_PRODUCER: producer})
                for producer in producers
                if (context := self._calls.get(producer)) is not None
            ],
            start_time=_ns(at),
        )
        self._calls[call.id] = span.get_span_context()
        return _CallSpan(self._make, span)

    def end(self, at: float, error: str | None) -> None:
        _end(self._span, at, error)


class _CallSpan:
    def __init__(self, make: _Maker, span: Span) -> None:
        self._make = make
        self._span = span

    @property
    def traceparent(self) -> str:
        return _traceparent(self._span)

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
        attributes = _facts(facts)
        if usage is not None:
            attributes |= {
                names.INPUT_TOKENS: usage.prompt_tokens,
                names.OUTPUT_TOKENS: usage.output_tokens,
                names.CACHE_READ_TOKENS: usage.cached_tokens,
                names.QUEUE_SECONDS: usage.queue_s,
                names.PREFILL_SECONDS: usage.prefill_s,
                names.DECODE_SECONDS: usage.decode_s,
            }
            if usage.cached_tokens:
                attributes[names.DEVICE_TOKENS] = usage.cached_tokens - usage.host_tokens
                attributes[names.HOST_TOKENS] = usage.host_tokens
            if usage.recomputed_tokens:
                attributes[names.RECOMPUTED_TOKENS] = usage.recomputed_tokens
        if finish is not None:
            attributes[names.FINISH_REASONS] = (finish.value,)
        capture = self._make.capture
        told = content.of_call(messages, "".join(pieces), finish) if capture.spans or capture.in_events else {}
        if capture.spans:
            attributes |= told
        self._end(at, error, attributes)
        if self._make.events is not None:
            self._emit(self._make.events, at, told if capture.in_events else {})

    def _emit(self, events: Logger, at: float, told: Mapping[str, str]) -> None:
        """The event that tells of the call: what its span says by the conventions, and the content if asked for."""
        known = dict(getattr(self._span, "attributes", None) or {})
        attributes = {name: value for name, value in known.items() if name.startswith(("gen_ai.", "error."))}
        events.emit(
            timestamp=_ns(at),
            context=trace.set_span_in_context(self._span),
            severity_number=SeverityNumber.INFO,
            attributes=attributes | {**self._make.translate(told)},
            event_name=names.DETAILS,
        )

    def end_tool(self, at: float, *, error: str | None, arguments: Any, result: Any, facts: Facts = NO_FACTS) -> None:
        attributes = _facts(facts)
        if self._make.capture.spans:
            attributes |= content.of_tool(arguments, result)
        self._end(at, error, attributes)

    def _end(self, at: float, error: str | None, attributes: dict[str, AttributeValue]) -> None:
        self._span.set_attributes(self._make.translate(attributes))
        _end(self._span, at, error)


def _facts(facts: Facts) -> dict[str, AttributeValue]:
    """The attributes of the facts that apply."""
    if facts is NO_FACTS:
        return {}
    found = {
        names.VARIABLE_CONSUMERS: tuple(facts.consumers) or None,
        names.QUEUE_BEHIND: tuple(facts.behind) or None,
        names.TIME_TO_FIRST_CHUNK: facts.first_chunk_s,
        names.SLACK_SECONDS: facts.slack_s,
        names.EVICTED_BY: facts.evicted,
        names.LEASE_TTL: facts.lease_ttl_s,
        names.LEASE_TIER: facts.lease_tier,
        names.LEASE_OUTCOME: facts.lease_outcome,
        names.CACHE_VERDICT: facts.cache_verdict,
        names.CACHE_CATEGORY: facts.cache_category,
        names.CACHE_SIMILARITY: facts.cache_similarity,
        names.CACHE_AGE: facts.cache_age_s,
        names.CACHE_SAVED_SECONDS: facts.cache_saved_s,
        names.CACHE_SAVED_TOKENS: facts.cache_saved_tokens,
    }
    return {name: value for name, value in found.items() if value is not None}


def _end(span: Span, at: float, error: str | None) -> None:
    if error is not None:
        span.set_attribute(names.ERROR_TYPE, error)
        span.set_status(Status(StatusCode.ERROR))
    span.end(_ns(at))


def _ns(at: float) -> int:
    return int(at * 1e9)


def _under(parent: TraceContext | None) -> Any:
    if parent is None:
        return trace.set_span_in_context(trace.INVALID_SPAN)  # never whatever context happens to be current
    return trace.set_span_in_context(NonRecordingSpan(_span_context(parent)))


def _span_context(context: TraceContext) -> SpanContext:
    flags = TraceFlags(int(context.flags, 16))
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=flags)


def _traceparent(span: Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
