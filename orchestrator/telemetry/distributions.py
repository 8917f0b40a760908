"""Histograms of the conventions' table, kept as plain counts: recording one value costs under a microsecond.

Owns the counts and their forms for Prometheus and for OTLP exporters. The OpenTelemetry SDK's own histograms take ten
times as long, which at seven a call would be more than tracing may cost; everything that is read seldom is the SDK's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from orchestrator.telemetry.conventions import METRICS, Instrument, MetricConvention

SCOPE: Final = "tenuto"
"""The instrumentation scope of everything that is emitted."""

OVERFLOW: Final = "otel.metric.overflow"
"""Marks the one distribution that takes what comes after `_MOST` others of a metric (OpenTelemetry's metrics SDK,
"cardinality limits"): whoever names workflows and tools must not be able to fill the memory."""

_MOST: Final = 2000

Values = tuple[str | None, ...]
"""One value for each attribute of the metric's convention, in their order; None: absent."""


class Distribution:
    """How many values fell into each bucket: counts[i] of those in (bounds[i - 1], bounds[i]]."""

    __slots__ = ("_bounds", "counts", "highest", "lowest", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.lowest, self.highest = float("inf"), float("-inf")

    def record(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value
        if value < self.lowest:
            self.lowest = value
        if value > self.highest:
            self.highest = value


class Distributions(Collector):
    """All histograms of a server. `record` is for one thread; it may be read from any: counts are cumulative."""

    def __init__(self, wall: Callable[[], float]) -> None:
        """`wall`: seconds since the epoch."""
        self._wall = wall
        self._since_ns = int(wall() * 1e9)
        self._metrics: dict[str, tuple[MetricConvention, dict[Values | None, Distribution]]] = {
            metric.name: (metric, {}) for metric in METRICS.values() if metric.instrument is Instrument.HISTOGRAM
        }

    def record(self, metric: str, value: float, *values: str | None) -> None:
        """Count `value` under the metric's attributes, given in the order of its convention."""
        convention, found = self._metrics[metric]
        distribution = found.get(values)
        if distribution is None:
            key = values if len(found) < _MOST else None
            distribution = found.setdefault(key, Distribution(convention.buckets))
        distribution.record(value)

    def _points(self) -> Iterable[tuple[MetricConvention, list[tuple[dict[str, Any], Distribution]]]]:
        for convention, found in self._metrics.values():
            points = [(_attributes(convention, values), distribution) for values, distribution in [*found.items()]]
            if points:
                yield convention, points

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """For a Prometheus registry: names as the OpenTelemetry specification translates them."""
        for convention, points in self._points():
            labels = sorted({name for attributes, _ in points for name in attributes})
            family = HistogramMetricFamily(
                convention.name.replace(".", "_"),
                convention.description,
                labels=[label.replace(".", "_") for label in labels],
                unit="seconds" if convention.unit == "s" else "",
            )
            for attributes, distribution in points:
                counted, buckets = 0, []
                for bound, count in zip((*convention.buckets, "+Inf"), distribution.counts, strict=True):
                    counted += count
                    buckets.append((str(bound), counted))
                told = [str(attributes.get(label, "")) for label in labels]
                family.add_metric(told, buckets, distribution.total)
            yield family

    def metrics(self) -> list[Metric]:
        """For an exporter."""
        now_ns = int(self._wall() * 1e9)
        return [
            Metric(
                convention.name,
                convention.description,
                convention.unit,
                Histogram(
                    [
                        HistogramDataPoint(
                            attributes,
                            self._since_ns,
                            now_ns,
                            sum(distribution.counts),
                            distribution.total,
                            tuple(distribution.counts),
                            convention.buckets,
                            distribution.lowest,
                            distribution.highest,
                        )
                        for attributes, distribution in points
                    ],
                    AggregationTemporality.CUMULATIVE,
                ),
            )
            for convention, points in self._points()
        ]


def _attributes(convention: MetricConvention, values: Values | None) -> dict[str, Any]:
    if values is None:
        return {OVERFLOW: True}
    named: Mapping[str, str | None] = dict(zip(convention.attributes, values, strict=True))
    return {name: value for name, value in named.items() if value is not None}


class WithDistributions(MetricExporter):
    """Hands an exporter what the SDK has collected, and the distributions with it."""

    def __init__(self, exporter: MetricExporter, distributions: Distributions) -> None:
        super().__init__()
        self._exporter = exporter
        self._distributions = distributions

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        data = MetricsData([self._with(resource) for resource in metrics_data.resource_metrics])
        return self._exporter.export(data, timeout_millis, **kwargs)

    def _with(self, resource: ResourceMetrics) -> ResourceMetrics:
        scopes = [
            ScopeMetrics(scope.scope, [*scope.metrics, *self._distributions.metrics()], scope.schema_url)
            if scope.scope.name == SCOPE
            else scope
            for scope in resource.scope_metrics
        ]
        return ResourceMetrics(resource.resource, scopes, resource.schema_url)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._exporter.shutdown(timeout_millis, **kwargs)
