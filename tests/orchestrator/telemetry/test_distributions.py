"""Histograms count every value once, in the bucket that OpenTelemetry puts it in, and never grow without bound."""

from __future__ import annotations

from random import Random

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.telemetry.conventions import METRICS, Instrument
from orchestrator.telemetry.distributions import OVERFLOW, Distribution, Distributions
from tests.orchestrator.telemetry.collected import wall

DURATION = "gen_ai.execute_tool.duration"


@pytest.mark.parametrize("name", [m.name for m in METRICS.values() if m.instrument is Instrument.HISTOGRAM])
def test_counts_are_those_of_the_opentelemetry_sdk(name: str) -> None:
    rng, convention = Random(name), METRICS[name]
    values = [rng.choice((rng.choice(convention.buckets), rng.expovariate(1.0), 0.0)) for _ in range(200)]
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = provider.get_meter("x").create_histogram(
        name, convention.unit, explicit_bucket_boundaries_advisory=convention.buckets
    )
    own = Distribution(convention.buckets)
    for value in values:
        histogram.record(value)
        own.record(value)
    data = reader.get_metrics_data()
    assert data is not None
    point = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0]
    assert isinstance(point, HistogramDataPoint)
    assert own.counts == list(point.bucket_counts) and own.total == pytest.approx(point.sum)
    assert (own.lowest, own.highest) == (point.min, point.max)


def test_prometheus_reads_what_was_recorded() -> None:
    distributions = Distributions(wall)
    for seconds, tool, error in ((0.005, "look", None), (0.02, "look", None), (99.0, "look", None), (1.0, "x", "bad")):
        distributions.record(DURATION, seconds, tool, error)
    registry = CollectorRegistry()
    registry.register(distributions)
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    assert family.name == "gen_ai_execute_tool_duration_seconds" and family.type == "histogram"
    found = {}
    for sample in family.samples:
        label = sample.labels
        kind = sample.name.removeprefix(family.name)
        found[kind, label["gen_ai_tool_name"], label["error_type"], label.get("le")] = sample.value
    look = {le: value for (_, tool, _, le), value in found.items() if tool == "look" and le}
    assert (look["0.01"], look["0.02"], look["81.92"], look["+Inf"]) == (1, 2, 2, 3)
    assert found["_count", "look", "", None] == 3 and found["_sum", "look", "", None] == pytest.approx(99.025)
    assert found["_count", "x", "bad", None] == 1


def test_of_too_many_names_the_last_are_counted_together() -> None:
    distributions = Distributions(wall)
    for number in range(2100):
        distributions.record(DURATION, 1.0, f"tool {number}", None)
    distributions.record(DURATION, 1.0, "tool 0", None)
    (metric,) = distributions.metrics()
    points = metric.data.data_points
    assert len(points) == 2001
    overflow = [p for p in points if p.attributes == {OVERFLOW: True}]
    assert [p.count for p in overflow if isinstance(p, HistogramDataPoint)] == [100]
    assert sum(p.count for p in points if isinstance(p, HistogramDataPoint)) == 2101
