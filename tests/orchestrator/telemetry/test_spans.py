"""One trace from the client's span to each attempt, by the conventions' names."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.protocol import FinishReason, NumericalFault, QueueFull, Usage
from orchestrator.telemetry import (
    Capture,
    Facts,
    Meters,
    NullTelemetry,
    OpenTelemetry,
    from_environment,
    parse_traceparent,
)
from orchestrator.telemetry.conventions import span_faults
from orchestrator.telemetry.otel import RandomIds
from tenuto.wire import EventKind, Objective, ProgramStatus, Retry, Sampling
from tests.orchestrator.runtime.support import (
    TENANT,
    Break,
    Hang,
    Say,
    Server,
    function,
    llm,
    program,
    sequence,
    var,
)
from tests.orchestrator.telemetry.collected import wall

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collected:
    """Telemetry whose spans stay in this process."""

    def __init__(self, *, content: bool = False) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(id_generator=RandomIds(Random(1)))
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.telemetry = OpenTelemetry(self.provider, capture=Capture(spans=content))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_a_program_is_one_trace_under_the_clients_span() -> None:
    collected = Collected()
    server = await Server(telemetry=collected.telemetry).start()
    server.engine.script = lambda request: Say("one two", seconds=2.0, queue_s=1.0)
    worker = server.worker(look=lambda text: 1)
    sampling = Sampling(max_tokens=9, temperature=0.5, top_k=3, top_p=0.9, seed=7, stop=("x",))
    calls = (llm("a", "p q", stage="draft", sampling=sampling), function("t", "look", {"text": var("a")}))
    id = await server.submit(program(*calls), traceparent=CLIENT)
    await server.follow(id)
    spans = collected.spans
    root, chat, tool = (spans[name] for name in ("invoke_workflow test", "chat scripted", "execute_tool look"))
    context = root.get_span_context()
    assert context is not None and f"{context.trace_id:032x}" == CLIENT[3:35] == server.view(id).trace_id
    assert root.parent is not None and f"{root.parent.span_id:016x}" == CLIENT[36:52]
    for span in (chat, tool):
        assert span.parent is not None and span.parent.span_id == context.span_id
    assert attributes(root) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "test",
        "tenuto.program.id": id,
        "tenuto.objective": "latency",
        "tenuto.sched.policy": "program_fcfs",
    }
    assert attributes(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tenuto",
        "gen_ai.request.model": "scripted",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 3,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("x",),
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "tenuto.program.id": id,
        "gen_ai.response.time_to_first_chunk": 2.0,
        "tenuto.call.id": "a",
        "tenuto.variable.name": "a",
        "tenuto.variable.consumers": ("t",),
        "tenuto.stage": "draft",
        "tenuto.attempt": 1,
        "tenuto.queue_s": 1.0,
        "tenuto.prefill_s": 0.0,
        "tenuto.decode_s": 2.0,
    }
    assert attributes(tool)["gen_ai.tool.name"] == "look" and attributes(tool)["gen_ai.tool.call.id"] == "t"
    assert chat.end_time is not None and chat.start_time is not None and chat.end_time - chat.start_time == 3 * 10**9
    # whoever does the work continues this very trace
    for traceparent, span in ((server.engine.requests[0].traceparent, chat), (worker.seen[0].traceparent, tool)):
        found, own = parse_traceparent(traceparent), span.get_span_context()
        assert found is not None and own is not None and found.span_id == f"{own.span_id:016x}"
    await server.close()


async def test_each_attempt_is_a_span_and_errors_have_their_type() -> None:
    collected = Collected()
    server = await Server(telemetry=collected.telemetry).start()
    server.engine.script = sequence(Break(QueueFull("full")), Break(NumericalFault("NaN")))
    await server.run(program(llm("a", retry=Retry(attempts=2))))
    spans = sorted((span for span in collected.all if span.name.startswith("chat")), key=lambda s: s.start_time or 0)
    assert [attributes(span)["error.type"] for span in spans] == ["queue_full", "numerical_fault"]
    assert [attributes(span)["tenuto.attempt"] for span in spans] == [1, 2]
    root = collected.spans["invoke_workflow test"]
    assert attributes(root)["error.type"] == "numerical_fault" and not root.status.is_ok
    await server.close()


async def test_a_cancelled_program_closes_its_spans() -> None:
    collected = Collected()
    server = await Server(telemetry=collected.telemetry).start()
    server.engine.script = lambda _: Hang("some")
    id = await server.submit(program(llm("a")))
    await server.until(id, EventKind.CALL_TOKENS, "a")
    await server.runtime.cancel(id, tenant=TENANT)
    assert {name: attributes(span)["error.type"] for name, span in collected.spans.items()} == {
        "chat scripted": "cancelled",
        "invoke_workflow test": "cancelled",
    }
    await server.close()


@pytest.mark.parametrize("content", [False, True])
async def test_content_is_recorded_only_when_asked_for(content: bool) -> None:
    collected = Collected(content=content)
    server = await Server(telemetry=collected.telemetry).start()
    server.worker(look=lambda text: {"secret": text})
    await server.run(program(llm("a", "the secret"), function("t", "look", {"text": var("a")})))
    told = " ".join(str(attributes(span)) for span in collected.all)
    assert ("secret" in told) is content
    if content:
        chat = attributes(collected.spans["chat scripted"])
        assert '"the secret"' in chat["gen_ai.input.messages"] and "<the secret>" in chat["gen_ai.output.messages"]
    await server.close()


async def test_a_resumed_program_goes_on_in_its_trace_with_a_link(tmp_path: Path) -> None:
    before, after = Collected(), Collected()
    server = await Server(journal_path=tmp_path / "journal.db", telemetry=before.telemetry).start()
    server.engine.script = lambda _: Hang()
    id = await server.submit(program(llm("a")), traceparent=CLIENT)
    trace_id, lost = server.view(id).trace_id, server.program(id).trace.traceparent
    await server.crash()
    resumed = await Server(journal_path=tmp_path / "journal.db", telemetry=after.telemetry).start()
    await resumed.follow(id)
    root = after.spans["invoke_workflow test"]
    assert resumed.view(id).trace_id == trace_id == CLIENT[3:35]
    assert [f"{link.context.span_id:016x}" for link in root.links] == [lost[36:52]]
    assert root.parent is not None and f"{root.parent.span_id:016x}" == CLIENT[36:52]
    await resumed.close()


async def test_without_an_exporter_programs_still_have_trace_ids_and_hand_the_clients_on() -> None:
    server = await Server().start()
    own = await server.run(program(llm("a")))
    assert len(own.trace_id) == 32 and int(own.trace_id, 16)
    other = await server.run(program(llm("a")))
    assert other.trace_id != own.trace_id
    id = await server.submit(program(llm("a")), traceparent=CLIENT)
    await server.follow(id)
    assert server.view(id).trace_id == CLIENT[3:35]
    assert server.engine.requests[-1].traceparent == CLIENT
    await server.close()


@pytest.mark.parametrize(
    "header",
    [None, "", "nonsense", f"ff{CLIENT[2:]}", CLIENT.replace(CLIENT[3:35], "0" * 32), CLIENT.upper(), CLIENT[:-1]],
)
async def test_an_invalid_traceparent_starts_a_new_trace(header: str | None) -> None:
    assert parse_traceparent(header) is None
    server = await Server().start()
    id = await server.submit(program(), traceparent=header)
    assert server.view(id).status is ProgramStatus.SUCCEEDED and server.view(id).trace_id != CLIENT[3:35]
    await server.close()


async def test_the_environment_decides_whether_spans_are_exported() -> None:
    rng = Random(0)
    assert isinstance(from_environment(rng, {}), NullTelemetry)
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    assert isinstance(from_environment(rng, endpoint | {"OTEL_SDK_DISABLED": "true"}), NullTelemetry)
    telemetry = from_environment(rng, endpoint)
    assert isinstance(telemetry, OpenTelemetry)
    await telemetry.close()


async def test_refused_submissions_leave_a_span_that_says_so() -> None:
    from orchestrator.errors import InvalidSubmission

    collected = Collected()
    server = await Server(telemetry=collected.telemetry).start()
    with pytest.raises(InvalidSubmission):
        await server.submit(program(llm("a", var("nowhere"))), traceparent=CLIENT)
    assert attributes(collected.spans["invoke_workflow test"])["error.type"] == "invalid_submission"
    await server.close()


async def test_an_agents_program_is_told_apart_in_traces_and_metrics() -> None:
    collected, meters = Collected(), Meters(wall)
    server = await Server(telemetry=collected.telemetry, metrics=meters).start()
    await server.run(program(llm("a"), agent=True))
    root = collected.spans["invoke_agent test"]
    assert attributes(root)["gen_ai.agent.name"] == "test" and "gen_ai.workflow.name" not in attributes(root)
    text = meters.exposition().decode()
    assert 'gen_ai_invoke_agent_inference_calls_count{gen_ai_agent_name="test"} 1.0' in text
    assert "gen_ai_invoke_workflow_duration" not in text
    await server.close()


async def test_slack_is_what_a_deadline_leaves_beyond_the_longest_way_to_the_end() -> None:
    collected = Collected()
    server = await Server(telemetry=collected.telemetry).start()
    server.engine.script = lambda _: Say("x", seconds=2.0)
    calls = (llm("a", stage="first", expected_s=2.0), llm("b", var("a"), stage="second", expected_s=3.0))
    await server.run(program(*calls, objective=Objective(kind="deadline", deadline_s=20.0)))
    await server.run(program(llm("c")))
    told = [attributes(span) for span in collected.all if span.name.startswith("chat")]
    slack = {found["tenuto.call.id"]: found.get("tenuto.sched.slack_s") for found in told}
    assert slack == {"a": 15.0, "b": 15.0, "c": None}
    await server.close()


async def test_a_client_that_is_not_sampled_leaves_no_spans() -> None:
    collected = Collected()
    server = await Server(telemetry=collected.telemetry).start()
    id = await server.submit(program(llm("a")), traceparent=f"{CLIENT[:-2]}00")
    await server.follow(id)
    assert collected.all == () and server.view(id).trace_id == CLIENT[3:35]
    found = parse_traceparent(server.engine.requests[0].traceparent)
    assert found is not None and found.trace_id == CLIENT[3:35] and not found.sampled
    assert not server.program(id).trace.recording
    await server.close()


async def test_cached_tokens_are_told_by_tier_and_what_was_evicted_by_reason() -> None:
    collected = Collected()
    program_span = collected.telemetry.program("p", "w", 1.0, None)
    trace = program_span.llm(llm("a"), "m", 1, 1.0)
    usage = Usage(100, 48, 5, 0.1, 0.2, 0.3, recomputed_tokens=16, host_tokens=32)
    facts = Facts(evicted="expired", lease_ttl_s=4.0, lease_tier="host", lease_outcome="expired", slack_s=1.5)
    trace.end_llm(2.0, usage=usage, finish=FinishReason.STOP, error=None, messages=(), pieces=("x",), facts=facts)
    (span,) = collected.all
    told = {name: value for name, value in attributes(span).items() if name.startswith(("tenuto.kv", "tenuto.lease"))}
    assert told == {
        "tenuto.kv.cached_tokens.device": 16,
        "tenuto.kv.cached_tokens.host": 32,
        "tenuto.kv.recomputed_tokens": 16,
        "tenuto.kv.evicted_by": "expired",
        "tenuto.lease.ttl_s": 4.0,
        "tenuto.lease.tier": "host",
        "tenuto.lease.outcome": "expired",
    }
    assert span_faults(span.name, attributes(span)) == []
