"""An exporter of metrics that keeps what it gets, and a calendar that stands still."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import Metric, MetricExporter, MetricExportResult, MetricsData


def wall() -> float:
    return 1.8e9


class Exported(MetricExporter):
    """`metrics`: those of the latest export."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[Metric] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        scopes = (scope for resource in metrics_data.resource_metrics for scope in resource.scope_metrics)
        self.metrics = [metric for scope in scopes for metric in scope.metrics]
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        return
