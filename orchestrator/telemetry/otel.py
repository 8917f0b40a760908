"""Spans by the OpenTelemetry SDK, and what the standard environment variables ask for."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from engine.protocol import ChatMessage, FinishReason, Usage
from orchestrator.telemetry import names
from orchestrator.telemetry.conventions import Version, translate
from orchestrator.telemetry.metrics import Meters, Metrics, NullMetrics
from orchestrator.telemetry.spans import (
    NO_FACTS,
    CallTrace,
    Facts,
    NullTelemetry,
    ProgramTrace,
    Telemetry,
    TraceContext,
)
from tenuto.wire import FunctionCall, JsonType, LLMCall

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_VERSION = "TENUTO_GENAI_CONVENTIONS"
"""Environment variable: `latest` (the default) or `1.36`, for back ends that read the older names."""

Translate = Callable[[Mapping[str, Any]], dict[str, Any]]


class BadEnvironment(ValueError):
    """A variable of the environment has a value that means nothing; the message names it."""


def from_environment(rng: Random, environment: Mapping[str, str] | None = None) -> Telemetry:
    """Spans as the standard variables ask: OTLP over HTTP if an endpoint is named, else trace ids only.

    Raises `BadEnvironment`.
    """
    environment = os.environ if environment is None else environment
    if not _exports(environment, "TRACES"):
        return NullTelemetry(rng)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(resource=_resource(environment), id_generator=RandomIds(rng), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    content = environment.get(names.CAPTURE_CONTENT, "").upper() in ("SPAN_ONLY", "SPAN_AND_EVENT")
    return OpenTelemetry(provider, content=content, version=_version(environment))


def metrics_from_environment(wall: Callable[[], float], environment: Mapping[str, str] | None = None) -> Metrics:
    """Metrics for `/metrics`, and by OTLP too if an endpoint is named. `wall`: seconds since the epoch."""
    environment = os.environ if environment is None else environment
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NullMetrics()
    exporters: list[MetricExporter] = []
    if _exports(environment, "METRICS"):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        exporters.append(OTLPMetricExporter())
    return Meters(wall, exporters, resource=_resource(environment))


def _exports(environment: Mapping[str, str], signal: str) -> bool:
    """True if the standard variables name an endpoint for the signal, and do not switch it off."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get(f"OTEL_{signal}_EXPORTER", "otlp").lower() == "none":
        return False
    return bool(environment.get(_ENDPOINT) or environment.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


def _resource(environment: Mapping[str, str]) -> Resource:
    return Resource.create({"service.name": environment.get("OTEL_SERVICE_NAME", "tenuto")})


def _version(environment: Mapping[str, str]) -> Version:
    told = environment.get(_VERSION, Version.LATEST)
    if told not in tuple(Version):
        raise BadEnvironment(f"{_VERSION}={told!r}: choose one of: {', '.join(Version)}")
    return Version(told)


class RandomIds(IdGenerator):
    """Ids from the server's own source of randomness."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def generate_span_id(self) -> int:
        return self._rng.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._rng.getrandbits(128) or 1


class OpenTelemetry:
    """Spans with explicit parents and times. `content`: prompts, outputs, arguments and results are recorded too.
    `version`: whose names the spans bear."""

    def __init__(self, provider: TracerProvider, *, content: bool = False, version: Version = Version.LATEST) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tenuto")
        self._content = content
        self._translate = partial(translate, version=version)

    def program(
        self,
        program: str,
        workflow: str,
        at: float,
        parent: TraceContext | None,
        earlier: TraceContext | None = None,
        *,
        objective: str = "",
        policy: str = "",
    ) -> ProgramTrace:
        """Open `invoke_workflow {workflow}`. After a restart it links to the span that the dead server had opened."""
        span = self._tracer.start_span(
            f"{names.INVOKE_WORKFLOW} {workflow}",
            context=_under(parent or earlier),
            kind=SpanKind.INTERNAL,
            links=[Link(_span_context(earlier))] if earlier is not None else None,
            attributes=self._translate(
                {
                    names.OPERATION: names.INVOKE_WORKFLOW,
                    names.WORKFLOW_NAME: workflow,
                    names.PROGRAM_ID: program,
                    names.OBJECTIVE: objective,
                    names.POLICY: policy,
                }
            ),
            start_time=_ns(at),
        )
        return _ProgramSpan(self._tracer, span, program, self._content, self._translate)

    async def close(self) -> None:
        """Hand what is recorded to the exporter, and stop it."""
        await asyncio.get_running_loop().run_in_executor(None, self._provider.shutdown)


class _ProgramSpan:
    recording = True

    def __init__(self, tracer: trace.Tracer, span: Span, program: str, content: bool, translate: Translate) -> None:
        self._tracer = tracer
        self._span = span
        self._program = program
        self._content = content
        self._translate = translate
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
            names.REQUEST_TOP_P: sampling.top_p,
            names.OUTPUT_TYPE: "json" if isinstance(call.type, JsonType) else "text",
        }
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
        span = self._tracer.start_span(
            name,
            context=self._context,
            kind=SpanKind.INTERNAL,
            attributes=self._translate(attributes),
            links=[
                Link(context, {names.VARIABLE_PRODUCER: producer})
                for producer in producers
                if (context := self._calls.get(producer)) is not None
            ],
            start_time=_ns(at),
        )
        self._calls[call.id] = span.get_span_context()
        return _CallSpan(span, self._content, self._translate)

    def end(self, at: float, error: str | None) -> None:
        _end(self._span, at, error)


class _CallSpan:
    def __init__(self, span: Span, content: bool, translate: Translate) -> None:
        self._span = span
        self._content = content
        self._translate = translate

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
        text: str,
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
            if usage.recomputed_tokens:
                attributes[names.RECOMPUTED_TOKENS] = usage.recomputed_tokens
        if finish is not None:
            attributes[names.FINISH_REASONS] = (finish.value,)
        if self._content:
            attributes[names.INPUT_MESSAGES] = _messages([(m.role, m.content) for m in messages])
            attributes[names.OUTPUT_MESSAGES] = _messages([("assistant", text)])
        self._end(at, error, attributes)

    def end_tool(self, at: float, *, error: str | None, arguments: Any, result: Any, facts: Facts = NO_FACTS) -> None:
        attributes = _facts(facts)
        if self._content:
            attributes[names.TOOL_ARGUMENTS] = _json(arguments)
            attributes[names.TOOL_RESULT] = _json(result)
        self._end(at, error, attributes)

    def _end(self, at: float, error: str | None, attributes: dict[str, AttributeValue]) -> None:
        self._span.set_attributes(self._translate(attributes))
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


def _messages(messages: Sequence[tuple[str, str]]) -> str:
    return _json([{"role": role, "parts": [{"type": "text", "content": content}]} for role, content in messages])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
