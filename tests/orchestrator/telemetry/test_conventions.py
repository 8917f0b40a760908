"""Everything that is emitted stands in the tables, with its name, kind, unit, buckets and requirement level."""

from __future__ import annotations

import re
from random import Random

import pytest
from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint
from opentelemetry.trace import SpanKind
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from engine.protocol import EngineStep, KVBlocks, QueueFull, Tier
from orchestrator.telemetry import (
    BadEnvironment,
    Meters,
    NullMetrics,
    OpenTelemetry,
    from_environment,
    metrics_from_environment,
    names,
)
from orchestrator.telemetry.conventions import (
    LINK_ATTRIBUTES,
    METRICS,
    SPANS,
    Instrument,
    Level,
    Version,
    metric_faults,
    span_faults,
    translate,
)
from tenuto.wire import Objective, Retry, Sampling
from tests.orchestrator.runtime.support import (
    Break,
    Say,
    ScriptedEngine,
    Server,
    function,
    llm,
    program,
    sequence,
    var,
)
from tests.orchestrator.telemetry.collected import Exported, wall
from tests.orchestrator.telemetry.test_spans import Collected, attributes


class Counting(ScriptedEngine):
    """An engine that knows what its memory is used for."""

    def kv_blocks(self) -> tuple[KVBlocks, ...]:
        return (KVBlocks(Tier.DEVICE, 7, 1, 2, 3), KVBlocks(Tier.HOST, 4, 0, 5, 6))


async def busy(collected: Collected, meters: Meters | None = None) -> Server:
    """A server that has run programs with everything in them: retries, failures, every sampling parameter, an agent's
    loop, an embedding and an engine's step."""
    server = await Server(Counting(), telemetry=collected.telemetry, metrics=meters).start()
    server.engine.script = sequence(Break(QueueFull("full")), Say("one two", seconds=1.0, queue_s=0.5))
    server.worker(look=lambda text: 1)
    sampling = Sampling(max_tokens=9, temperature=0.5, top_k=3, seed=7, stop=("x",))
    calls = (
        llm("a", stage="draft", sampling=sampling, retry=Retry(attempts=3)),
        function("t", "look", {"text": var("a")}),
        llm("b", var("t")),
    )
    await server.run(program(*calls, objective=Objective(kind="deadline", deadline_s=60.0)))
    server.engine.script = lambda _: Break(ValueError("broken"))
    await server.run(program(llm("a"), llm("b", var("a"))))
    server.engine.script = lambda _: "done"
    await server.run(program(llm("a"), agent=True))
    root = collected.telemetry.program("p", "w", wall(), None)
    root.embedding("small", "a", wall(), wall(), 384, None)
    collected.telemetry.step(server.engine.name, wall(), EngineStep(0.1, 1, 2, (root.traceparent,)))
    if meters is not None:
        meters.embedded("small", 0.1, None)
    return server


@pytest.mark.parametrize("content", [False, True])
async def test_every_span_stands_in_the_table(content: bool) -> None:
    collected = Collected(content=content)
    server = await busy(collected)
    assert {span.name.split()[0] for span in collected.all} == set(SPANS)
    for span in collected.all:
        assert span.kind is SpanKind.INTERNAL
        assert span_faults(span.name, attributes(span), content=content) == []
        assert all(set(link.attributes or {}) <= LINK_ATTRIBUTES for link in span.links)
    if content:
        assert any(span_faults(span.name, attributes(span)) for span in collected.all)
    await server.close()


async def test_every_metric_stands_in_the_table_and_counts_what_happened() -> None:
    exported = Exported()
    meters = Meters(wall, [exported])
    server = await busy(Collected(), meters)
    await meters.flush()
    seen: dict[str, float] = {}
    for metric in exported.metrics:
        for point in metric.data.data_points:
            histogram = isinstance(point, HistogramDataPoint)
            buckets = point.explicit_bounds if isinstance(point, HistogramDataPoint) else ()
            convention = METRICS[metric.name]
            assert histogram == (convention.instrument is Instrument.HISTOGRAM)
            assert metric_faults(metric.name, metric.unit or "", point.attributes or {}, buckets) == []
            value = point.value if isinstance(point, NumberDataPoint) else point.count
            seen[metric.name] = seen.get(metric.name, 0) + value
    # two attempts of a, one of b, one that broke, the agent's, and an embedding
    assert seen["gen_ai.client.operation.duration"] == 6
    assert seen["gen_ai.client.token.usage"] == 6  # input and output of the three that ended well
    assert seen["gen_ai.execute_tool.duration"] == 1
    assert seen["gen_ai.invoke_workflow.duration"] == 2
    assert seen["gen_ai.invoke_agent.inference_calls"] == 1
    assert seen["tenuto.programs.live"] == seen["tenuto.calls.live"] == 0 == seen["tenuto.tools.running"]
    assert seen["tenuto.kv.blocks"] == 7 + 1 + 2 + 3 + 4 + 5 + 6
    assert seen["tenuto.program.seconds"] >= 1.5
    told = {*METRICS} - {"tenuto.cache.lookups"}  # there is no cache here
    assert set(seen) == told
    await server.close()


async def test_the_exposition_is_prometheus_text() -> None:
    meters = Meters(wall)
    server = await busy(Collected(), meters)
    text = meters.exposition().decode()
    _lint(text)
    assert re.search('gen_ai_invoke_workflow_duration_seconds_count{[^}]*gen_ai_workflow_name="test"[^}]*} 1.0', text)
    assert 'error_type="queue_full"' in text and "tenuto_programs_live 0.0" in text
    await server.close()


def _lint(text: str) -> None:
    """What `promtool check metrics` would find, and what no scraper would take."""
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families) == text.count("# TYPE ")
    samples: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for family in families:
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family.name
        assert re.fullmatch("[a-z][a-z0-9_]*", family.name)
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} twice"
            samples.add(key)
            assert all(re.fullmatch("[a-z][a-z0-9_]*", label) for label in sample.labels)
            if family.type == "counter":
                assert sample.name.endswith("_total") and sample.value >= 0
        if family.type == "histogram":
            _lint_histogram(family)


def _lint_histogram(family: Metric) -> None:
    series: dict[frozenset[tuple[str, str]], dict[str, float]] = {}
    for sample in family.samples:
        rest = frozenset((k, v) for k, v in sample.labels.items() if k != "le")
        kind = sample.name.removeprefix(family.name)
        series.setdefault(rest, {})[sample.labels.get("le", kind)] = sample.value
    for found in series.values():
        bounds = sorted((float(bound), count) for bound, count in found.items() if bound not in ("_count", "_sum"))
        counts = [count for _, count in bounds]
        assert counts == sorted(counts) and bounds[-1][0] == float("inf") and counts[-1] == found["_count"]


async def test_links_name_the_producers_and_their_consumers_are_named() -> None:
    collected = Collected()
    server = await busy(collected)
    tool = collected.spans["execute_tool look"]
    assert [dict(link.attributes or {}) for link in tool.links] == [{names.VARIABLE_PRODUCER: "a"}]
    assert attributes(tool)[names.VARIABLE_CONSUMERS] == ("b",)
    await server.close()


async def test_older_names_for_back_ends_that_read_them() -> None:
    collected = Collected()
    collected.telemetry = OpenTelemetry(collected.provider, version=Version.V1_36)
    server = await busy(collected)
    chat = attributes(collected.spans["chat scripted"])
    assert chat["gen_ai.system"] == "tenuto" and names.PROVIDER_NAME not in chat
    assert names.WORKFLOW_NAME not in attributes(collected.spans["invoke_workflow test"])
    await server.close()


def test_the_newest_version_renames_nothing() -> None:
    every = {key: 1 for convention in SPANS.values() for key in convention.attributes}
    assert translate(every, Version.LATEST) == every


def test_faults_are_told() -> None:
    name, good = "execute_tool t", {names.OPERATION: "execute_tool", names.TOOL_NAME: "t"}
    good |= {names.PROGRAM_ID: "p", names.CALL_ID: "c", names.VARIABLE: "c", names.ATTEMPT: "1"}
    assert span_faults(name, good) == []
    assert span_faults("execute_tool u", good) == ["execute_tool u: should be named 'execute_tool t'"]
    assert span_faults(name, good | {"gen_ai.new": 1}) == [f"{name}: unknown attribute gen_ai.new"]
    assert span_faults(name, good | {names.TOOL_RESULT: "x"}) == [
        f"{name}: {names.TOOL_RESULT} is content, and nobody asked for it"
    ]
    assert span_faults("guess t", {}) == ["guess t: unknown operation 'guess'"]
    del good[names.TOOL_NAME]
    assert f"{name}: {names.TOOL_NAME} is missing" in span_faults(name, good)
    assert metric_faults("nothing", "s", {}) == ["nothing: unknown metric"]
    duration = METRICS["gen_ai.execute_tool.duration"]
    assert metric_faults(duration.name, "ms", {}, duration.buckets) == [
        f"{duration.name}: {names.TOOL_NAME} is missing",
        f"{duration.name}: unit 'ms' should be 's'",
    ]


def test_content_is_opt_in_everywhere() -> None:
    content = {names.INPUT_MESSAGES, names.OUTPUT_MESSAGES, names.SYSTEM_INSTRUCTIONS}
    content |= {names.TOOL_ARGUMENTS, names.TOOL_RESULT}
    for convention in SPANS.values():
        for key, level in convention.attributes.items():
            assert (level is Level.OPT_IN) == (key in content)


async def test_the_environment_switches_versions_signals_and_everything_off() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with pytest.raises(BadEnvironment, match="TENUTO_GENAI_CONVENTIONS='2'"):
        from_environment(Random(0), endpoint | {"TENUTO_GENAI_CONVENTIONS": "2"})
    telemetry = from_environment(Random(0), endpoint | {"OTEL_TRACES_EXPORTER": "none"})
    assert not isinstance(telemetry, OpenTelemetry)
    assert isinstance(metrics_from_environment(wall, {"OTEL_SDK_DISABLED": "true"}), NullMetrics)
    meters = metrics_from_environment(wall, {})
    assert isinstance(meters, Meters)
    await meters.close()
