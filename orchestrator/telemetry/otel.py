"""Spans by the OpenTelemetry SDK. The only module that imports it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from engine.protocol import ChatMessage, FinishReason, Usage
from orchestrator.telemetry import names
from orchestrator.telemetry.spans import CallTrace, NullTelemetry, ProgramTrace, Telemetry, TraceContext
from tenuto.wire import FunctionCall, JsonType, LLMCall

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def from_environment(rng: Random, environment: Mapping[str, str] | None = None) -> Telemetry:
    """Telemetry as the standard variables ask: OTLP over HTTP if an endpoint is named, else trace ids only."""
    environment = os.environ if environment is None else environment
    if not any(environment.get(name) for name in _ENDPOINTS) or environment.get("OTEL_SDK_DISABLED") == "true":
        return NullTelemetry(rng)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    resource = Resource.create({"service.name": environment.get("OTEL_SERVICE_NAME", "tenuto")})
    provider = TracerProvider(resource=resource, id_generator=RandomIds(rng))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    content = environment.get(names.CAPTURE_CONTENT, "").upper() in ("SPAN_ONLY", "SPAN_AND_EVENT")
    return OpenTelemetry(provider, content=content)


class RandomIds(IdGenerator):
    """Ids from the server's own source of randomness."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def generate_span_id(self) -> int:
        return self._rng.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._rng.getrandbits(128) or 1


class OpenTelemetry:
    """Spans with explicit parents and times. `content`: prompts, outputs, arguments and results are recorded too."""

    def __init__(self, provider: TracerProvider, *, content: bool = False) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tenuto")
        self._content = content

    def program(
        self, program: str, workflow: str, at: float, parent: TraceContext | None, earlier: TraceContext | None = None
    ) -> ProgramTrace:
        """Open `invoke_workflow {workflow}`. After a restart it links to the span that the dead server had opened."""
        span = self._tracer.start_span(
            f"{names.INVOKE_WORKFLOW} {workflow}",
            context=_under(parent or earlier),
            kind=SpanKind.INTERNAL,
            links=[Link(_span_context(earlier))] if earlier is not None else None,
            attributes={
                names.OPERATION: names.INVOKE_WORKFLOW,
                names.WORKFLOW_NAME: workflow,
                names.PROGRAM_ID: program,
            },
            start_time=_ns(at),
        )
        return _ProgramSpan(self._tracer, span, program, self._content)

    async def close(self) -> None:
        """Hand what is recorded to the exporter, and stop it."""
        await asyncio.get_running_loop().run_in_executor(None, self._provider.shutdown)


class _ProgramSpan:
    def __init__(self, tracer: trace.Tracer, span: Span, program: str, content: bool) -> None:
        self._tracer = tracer
        self._span = span
        self._program = program
        self._content = content
        self._context = trace.set_span_in_context(span)

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        return _traceparent(self._span)

    def llm(self, call: LLMCall, model: str, attempt: int, at: float) -> CallTrace:
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
        return self._call(f"{names.CHAT} {model}", call, attempt, at, attributes)

    def tool(self, call: FunctionCall, attempt: int, at: float) -> CallTrace:
        attributes: dict[str, AttributeValue] = {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL_NAME: call.tool,
            names.TOOL_CALL_ID: call.id,
            names.TOOL_TYPE: "function",
        }
        return self._call(f"{names.EXECUTE_TOOL} {call.tool}", call, attempt, at, attributes)

    def _call(
        self, name: str, call: LLMCall | FunctionCall, attempt: int, at: float, attributes: dict[str, AttributeValue]
    ) -> CallTrace:
        attributes[names.PROGRAM_ID] = self._program
        attributes[names.CALL_ID] = call.id
        attributes[names.ATTEMPT] = attempt
        if call.stage is not None:
            attributes[names.STAGE] = call.stage
        span = self._tracer.start_span(
            name, context=self._context, kind=SpanKind.INTERNAL, attributes=attributes, start_time=_ns(at)
        )
        return _CallSpan(span, self._content)

    def end(self, at: float, error: str | None) -> None:
        _end(self._span, at, error)


class _CallSpan:
    def __init__(self, span: Span, content: bool) -> None:
        self._span = span
        self._content = content

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
    ) -> None:
        span = self._span
        if usage is not None:
            span.set_attribute(names.INPUT_TOKENS, usage.prompt_tokens)
            span.set_attribute(names.OUTPUT_TOKENS, usage.output_tokens)
            span.set_attribute(names.CACHE_READ_TOKENS, usage.cached_tokens)
            span.set_attribute(names.QUEUE_SECONDS, usage.queue_s)
            span.set_attribute(names.PREFILL_SECONDS, usage.prefill_s)
            span.set_attribute(names.DECODE_SECONDS, usage.decode_s)
        if finish is not None:
            span.set_attribute(names.FINISH_REASONS, (finish.value,))
        if self._content:
            span.set_attribute(names.INPUT_MESSAGES, _messages([(m.role, m.content) for m in messages]))
            span.set_attribute(names.OUTPUT_MESSAGES, _messages([("assistant", text)]))
        _end(span, at, error)

    def end_tool(self, at: float, *, error: str | None, arguments: Any, result: Any) -> None:
        if self._content:
            self._span.set_attribute(names.TOOL_ARGUMENTS, _json(arguments))
            self._span.set_attribute(names.TOOL_RESULT, _json(result))
        _end(self._span, at, error)


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
