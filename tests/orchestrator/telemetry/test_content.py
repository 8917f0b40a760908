"""Content goes where the standard variables say, and nowhere else."""

from __future__ import annotations

import json
from random import Random

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from engine.protocol import ChatMessage, FinishReason
from orchestrator.telemetry import Capture, OpenTelemetry, from_environment, names
from orchestrator.telemetry.content import CAPTURE_CONTENT, EMIT_EVENT, of_call
from orchestrator.telemetry.conventions import span_faults
from tests.orchestrator.runtime.support import Server, llm, program
from tests.orchestrator.telemetry.test_spans import Collected, attributes

NOTHING, EVENTS = Capture(), Capture(events=True)


@pytest.mark.parametrize(
    ("value", "capture"),
    [
        (None, NOTHING),
        ("", NOTHING),
        ("NO_CONTENT", NOTHING),
        ("false", NOTHING),
        ("everything", NOTHING),
        ("SPAN_ONLY", Capture(spans=True)),
        ("span_only", Capture(spans=True)),
        ("true", Capture(spans=True)),
        ("EVENT_ONLY", Capture(in_events=True, events=True)),
        ("SPAN_AND_EVENT", Capture(spans=True, in_events=True, events=True)),
    ],
)
def test_the_standard_variable_says_where_content_goes(value: str | None, capture: Capture) -> None:
    environment = {} if value is None else {CAPTURE_CONTENT: value}
    assert Capture.of(environment) == capture
    assert Capture.of(environment | {EMIT_EVENT: "true"}) == capture._replace(events=True)
    assert Capture.of(environment | {EMIT_EVENT: "false"}) == capture


def test_messages_have_the_conventions_shape() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"text": "x"}}}
    messages = (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "what?"),
        ChatMessage("assistant", "", tool_calls=(json.dumps(call),)),
        ChatMessage("tool", "42", tool_call_id="c1"),
    )
    told = {name: json.loads(value) for name, value in of_call(messages, "it is 42", FinishReason.STOP).items()}
    assert told == {
        "gen_ai.system_instructions": [{"type": "text", "content": "be brief"}],
        "gen_ai.input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": "what?"}]},
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "c1", "name": "look", "arguments": {"text": "x"}}],
            },
            {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "42"}]},
        ],
        "gen_ai.output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "it is 42"}], "finish_reason": "stop"}
        ],
    }


@pytest.mark.parametrize("capture", [NOTHING, EVENTS, Capture(in_events=True, events=True), Capture(spans=True)])
async def test_events_tell_of_each_call_and_hold_content_only_if_asked(capture: Capture) -> None:
    collected, exporter = Collected(), InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    events = LoggerProvider(shutdown_on_exit=False)
    events.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    server = await Server(telemetry=OpenTelemetry(collected.provider, capture=capture, events=events)).start()
    await server.run(program(llm("a", "the secret")))
    span, records = collected.spans["chat scripted"], [item.log_record for item in exporter.get_finished_logs()]
    assert ("secret" in str(attributes(span))) is capture.spans
    assert len(records) == capture.events
    for record in records:
        context, told = span.get_span_context(), dict(record.attributes or {})
        assert record.event_name == names.DETAILS and context is not None
        assert (record.trace_id, record.span_id) == (context.trace_id, context.span_id)
        assert told[names.OPERATION] == "chat" and told[names.INPUT_TOKENS] == 2
        assert ("secret" in str(told)) is capture.in_events
        assert not any(name.startswith("tenuto.") for name in told)
        known = span_faults(span.name, told, content=capture.in_events)
        assert all(fault.endswith("is missing") and "tenuto." in fault for fault in known)
    await server.close()


async def test_events_are_exported_only_where_they_are_asked_for() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    for more, exported in (
        ({}, False),
        ({EMIT_EVENT: "true"}, True),
        ({EMIT_EVENT: "true", "OTEL_LOGS_EXPORTER": "none"}, False),
    ):
        telemetry = from_environment(Random(0), endpoint | more)
        assert isinstance(telemetry, OpenTelemetry) and (telemetry._events is not None) is exported
        await telemetry.close()
