"""What may be emitted, as tables: spans and metrics of the OpenTelemetry GenAI semantic conventions (v1.42,
"development") and our own, with kinds, units, buckets and requirement levels.

Owns the tables, the check of an emission against them, and the translation to an older version. Emits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from orchestrator.telemetry import names


class Level(StrEnum):
    """How much the conventions want an attribute. `OPT_IN` is content: absent unless the user asks for it."""

    REQUIRED = "required"
    CONDITIONAL = "conditionally_required"
    RECOMMENDED = "recommended"
    OPT_IN = "opt_in"


class Instrument(StrEnum):
    HISTOGRAM = "histogram"
    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class SpanConvention:
    """Spans of one operation. `subject`: the attribute that the span's name has after the operation."""

    operation: str
    subject: str
    attributes: Mapping[str, Level]


@dataclass(frozen=True, slots=True)
class MetricConvention:
    """One metric. `attributes` may be recorded with it and no others; `buckets` are a histogram's bounds."""

    name: str
    unit: str
    description: str
    instrument: Instrument
    attributes: Mapping[str, Level] = field(default_factory=dict)
    buckets: Sequence[float] = ()


_OURS: Final = {
    names.PROGRAM_ID: Level.REQUIRED,
    names.CALL_ID: Level.REQUIRED,
    names.ATTEMPT: Level.REQUIRED,
    names.STAGE: Level.CONDITIONAL,
    names.VARIABLE: Level.REQUIRED,
    names.VARIABLE_CONSUMERS: Level.CONDITIONAL,
    names.ERROR_TYPE: Level.CONDITIONAL,
    names.QUEUE_SECONDS: Level.RECOMMENDED,
    names.QUEUE_BEHIND: Level.RECOMMENDED,
    names.SLACK_SECONDS: Level.RECOMMENDED,
}

_PROGRAM: Final = {
    names.OPERATION: Level.REQUIRED,
    names.ERROR_TYPE: Level.CONDITIONAL,
    names.PROGRAM_ID: Level.REQUIRED,
    names.OBJECTIVE: Level.RECOMMENDED,
    names.POLICY: Level.RECOMMENDED,
}

SPANS: Final[Mapping[str, SpanConvention]] = MappingProxyType(
    {
        names.INVOKE_WORKFLOW: SpanConvention(
            names.INVOKE_WORKFLOW, names.WORKFLOW_NAME, {names.WORKFLOW_NAME: Level.REQUIRED, **_PROGRAM}
        ),
        names.INVOKE_AGENT: SpanConvention(
            names.INVOKE_AGENT, names.AGENT_NAME, {names.AGENT_NAME: Level.CONDITIONAL, **_PROGRAM}
        ),
        names.CHAT: SpanConvention(
            names.CHAT,
            names.REQUEST_MODEL,
            {
                names.OPERATION: Level.REQUIRED,
                names.PROVIDER_NAME: Level.REQUIRED,
                names.REQUEST_MODEL: Level.CONDITIONAL,
                names.REQUEST_MAX_TOKENS: Level.RECOMMENDED,
                names.REQUEST_TEMPERATURE: Level.RECOMMENDED,
                names.REQUEST_TOP_P: Level.RECOMMENDED,
                names.REQUEST_TOP_K: Level.CONDITIONAL,
                names.REQUEST_SEED: Level.CONDITIONAL,
                names.REQUEST_STOP: Level.RECOMMENDED,
                names.OUTPUT_TYPE: Level.CONDITIONAL,
                names.FINISH_REASONS: Level.RECOMMENDED,
                names.INPUT_TOKENS: Level.RECOMMENDED,
                names.OUTPUT_TOKENS: Level.RECOMMENDED,
                names.CACHE_READ_TOKENS: Level.RECOMMENDED,
                names.TIME_TO_FIRST_CHUNK: Level.RECOMMENDED,
                names.INPUT_MESSAGES: Level.OPT_IN,
                names.OUTPUT_MESSAGES: Level.OPT_IN,
                names.SYSTEM_INSTRUCTIONS: Level.OPT_IN,
                **_OURS,
                names.PREFILL_SECONDS: Level.RECOMMENDED,
                names.DECODE_SECONDS: Level.RECOMMENDED,
                names.DEVICE_TOKENS: Level.RECOMMENDED,
                names.HOST_TOKENS: Level.RECOMMENDED,
                names.RECOMPUTED_TOKENS: Level.RECOMMENDED,
                names.EVICTED_BY: Level.CONDITIONAL,
                names.LEASE_TTL: Level.CONDITIONAL,
                names.LEASE_TIER: Level.CONDITIONAL,
                names.LEASE_OUTCOME: Level.CONDITIONAL,
                names.CACHE_VERDICT: Level.CONDITIONAL,
                names.CACHE_CATEGORY: Level.CONDITIONAL,
                names.CACHE_SIMILARITY: Level.CONDITIONAL,
                names.CACHE_AGE: Level.CONDITIONAL,
                names.CACHE_SAVED_SECONDS: Level.CONDITIONAL,
                names.CACHE_SAVED_TOKENS: Level.CONDITIONAL,
            },
        ),
        names.EXECUTE_TOOL: SpanConvention(
            names.EXECUTE_TOOL,
            names.TOOL_NAME,
            {
                names.OPERATION: Level.REQUIRED,
                names.TOOL_NAME: Level.REQUIRED,
                names.TOOL_CALL_ID: Level.RECOMMENDED,
                names.TOOL_TYPE: Level.RECOMMENDED,
                names.TOOL_ARGUMENTS: Level.OPT_IN,
                names.TOOL_RESULT: Level.OPT_IN,
                **_OURS,
            },
        ),
        names.EMBEDDINGS: SpanConvention(
            names.EMBEDDINGS,
            names.REQUEST_MODEL,
            {
                names.OPERATION: Level.REQUIRED,
                names.PROVIDER_NAME: Level.REQUIRED,
                names.REQUEST_MODEL: Level.CONDITIONAL,
                names.EMBEDDING_DIMENSIONS: Level.RECOMMENDED,
                names.ERROR_TYPE: Level.CONDITIONAL,
                names.PROGRAM_ID: Level.REQUIRED,
                names.CALL_ID: Level.REQUIRED,
            },
        ),
        names.ENGINE_STEP: SpanConvention(
            names.ENGINE_STEP,
            names.ENGINE,
            {
                names.ENGINE: Level.REQUIRED,
                names.STEP_DECODES: Level.REQUIRED,
                names.STEP_PROMPT_TOKENS: Level.REQUIRED,
            },
        ),
    }
)
"""By operation. Every span of ours is INTERNAL: the engine and the tools are this system's own. An engine's step is no
operation of the conventions: it has its own trace, and links to the requests that it served."""

LINK_ATTRIBUTES: Final = frozenset({names.VARIABLE_PRODUCER})
"""On the link from a call's span to the span of a call that it consumes from."""

_CLIENT_SECONDS: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
_TOKENS: Final = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)  # fmt: skip
_FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_OUTPUT_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_AGENT: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6)
_WORKFLOW: Final = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_CALLS: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FINE_OUTPUT_TOKEN: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, *_OUTPUT_TOKEN)
"""A finer view of the time per output token: small models need less than the conventions' first bucket."""

_INFERENCE: Final = {
    names.OPERATION: Level.REQUIRED,
    names.PROVIDER_NAME: Level.REQUIRED,
    names.REQUEST_MODEL: Level.CONDITIONAL,
    names.ERROR_TYPE: Level.CONDITIONAL,
}


def _histogram(
    name: str, unit: str, description: str, buckets: Sequence[float], attributes: Mapping[str, Level] = _INFERENCE
) -> MetricConvention:
    return MetricConvention(name, unit, description, Instrument.HISTOGRAM, attributes, buckets)


def _gauge(name: str, unit: str, description: str, *attributes: str) -> MetricConvention:
    return MetricConvention(name, unit, description, Instrument.GAUGE, dict.fromkeys(attributes, Level.REQUIRED))


def _counter(name: str, unit: str, description: str, *attributes: str) -> MetricConvention:
    return MetricConvention(name, unit, description, Instrument.COUNTER, dict.fromkeys(attributes, Level.REQUIRED))


_WORKFLOW_ATTRIBUTES: Final = {names.WORKFLOW_NAME: Level.REQUIRED, names.ERROR_TYPE: Level.CONDITIONAL}
_AGENT_ATTRIBUTES: Final = {names.AGENT_NAME: Level.REQUIRED, names.ERROR_TYPE: Level.CONDITIONAL}


def _of_programs(
    what: str, duration: Sequence[float], attributes: Mapping[str, Level]
) -> tuple[MetricConvention, MetricConvention, MetricConvention]:
    """The three histograms of programs, or of those that are agents."""
    name = f"gen_ai.{what}"
    return (
        _histogram(f"{name}.duration", "s", "Duration of a program.", duration, attributes),
        _histogram(f"{name}.inference_calls", "{inference_call}", "LLM calls of a program.", _CALLS, attributes),
        _histogram(f"{name}.tool_calls", "{tool_call}", "Function calls of a program.", _CALLS, attributes),
    )


METRICS: Final[Mapping[str, MetricConvention]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            _histogram("gen_ai.client.operation.duration", "s", "Duration of an LLM call.", _CLIENT_SECONDS),
            _histogram(
                "gen_ai.client.token.usage",
                "{token}",
                "Input and output tokens of an LLM call.",
                _TOKENS,
                _INFERENCE | {names.TOKEN_TYPE: Level.REQUIRED},
            ),
            _histogram(
                "gen_ai.client.operation.time_to_first_chunk",
                "s",
                "From the request to its first text.",
                _CLIENT_SECONDS,
            ),
            _histogram("gen_ai.server.request.duration", "s", "Duration of a request in the engine.", _CLIENT_SECONDS),
            _histogram(
                "gen_ai.server.time_to_first_token",
                "s",
                "Waiting and prefill of a request in the engine.",
                _FIRST_TOKEN,
            ),
            _histogram(
                "gen_ai.server.time_per_output_token",
                "s",
                "Seconds per output token after the first.",
                FINE_OUTPUT_TOKEN,
            ),
            _histogram(
                "gen_ai.execute_tool.duration",
                "s",
                "Duration of a function call.",
                _CLIENT_SECONDS,
                {names.TOOL_NAME: Level.REQUIRED, names.ERROR_TYPE: Level.CONDITIONAL},
            ),
            *_of_programs(names.INVOKE_WORKFLOW, _WORKFLOW, _WORKFLOW_ATTRIBUTES),
            *_of_programs(names.INVOKE_AGENT, _AGENT, _AGENT_ATTRIBUTES),
            _gauge("tenuto.programs.live", "{program}", "Programs that have not ended."),
            _gauge("tenuto.calls.live", "{call}", "Calls of programs that have not ended."),
            _gauge("tenuto.queue.calls", "{call}", "LLM calls held back from an engine.", names.ENGINE),
            _gauge("tenuto.tools.running", "{call}", "Function calls that workers have now."),
            _gauge("tenuto.tools.waiting", "{call}", "Function calls that wait for room on the server."),
            _counter("tenuto.tools.early", "{call}", "Calls that a tool had worked for before.", names.TOOL_EARLY),
            _counter("tenuto.speculation.runs", "{run}", "Runs ahead that came to an end.", names.SPECULATION),
            _counter("tenuto.speculation.seconds", "s", "Head start of used runs, cost of others.", names.SPECULATION),
            _gauge("tenuto.kv.blocks", "{block}", "KV blocks of an engine.", names.ENGINE, names.TIER, names.KV_STATE),
            _counter("tenuto.leases", "{lease}", "Leases that ended.", names.LEASE_OUTCOME),
            _counter("tenuto.cache.lookups", "{lookup}", "Lookups.", names.CACHE_CATEGORY, names.CACHE_VERDICT),
            _counter("tenuto.program.seconds", "s", "Seconds of calls of ended programs.", names.CAUSE),
        )
    }
)


def span_faults(name: str, attributes: Mapping[str, Any], *, content: bool = False) -> list[str]:
    """What is wrong with a span of ours by the tables; empty if nothing is. `content`: the user asked for it."""
    operation = str(attributes.get(names.OPERATION, name.partition(" ")[0]))
    convention = SPANS.get(operation)
    if convention is None:
        return [f"{name}: unknown operation {operation!r}"]
    faults = [f"{name}: unknown attribute {key}" for key in attributes if key not in convention.attributes]
    for key, level in convention.attributes.items():
        if level is Level.REQUIRED and key not in attributes:
            faults.append(f"{name}: {key} is missing")
        if level is Level.OPT_IN and key in attributes and not content:
            faults.append(f"{name}: {key} is content, and nobody asked for it")
    expected = f"{convention.operation} {attributes.get(convention.subject)}"
    if name != expected:
        faults.append(f"{name}: should be named {expected!r}")
    return faults


def metric_faults(name: str, unit: str, attributes: Mapping[str, Any], buckets: Sequence[float] = ()) -> list[str]:
    """What is wrong with a data point of a metric by the table; empty if nothing is."""
    convention = METRICS.get(name)
    if convention is None:
        return [f"{name}: unknown metric"]
    faults = [f"{name}: unknown attribute {key}" for key in attributes if key not in convention.attributes]
    faults += [
        f"{name}: {key} is missing"
        for key, level in convention.attributes.items()
        if level is Level.REQUIRED and key not in attributes
    ]
    if unit != convention.unit:
        faults.append(f"{name}: unit {unit!r} should be {convention.unit!r}")
    if convention.instrument is Instrument.HISTOGRAM and tuple(buckets) != tuple(convention.buckets):
        faults.append(f"{name}: the buckets are not those of the table")
    return faults


class Version(StrEnum):
    """Which names are emitted: the newest, or those that back ends of 2025 read."""

    LATEST = "latest"
    V1_36 = "1.36"


_RENAMED: Final[Mapping[Version, Mapping[str, str | None]]] = MappingProxyType(
    {
        Version.LATEST: {},
        # None: the version has no such attribute
        Version.V1_36: {
            names.PROVIDER_NAME: "gen_ai.system",
            names.WORKFLOW_NAME: None,
            names.CACHE_READ_TOKENS: None,
            names.TIME_TO_FIRST_CHUNK: None,
            names.INPUT_MESSAGES: None,
            names.OUTPUT_MESSAGES: None,
            names.SYSTEM_INSTRUCTIONS: None,
            names.TOOL_ARGUMENTS: None,
            names.TOOL_RESULT: None,
        },
    }
)


def translate(attributes: Mapping[str, Any], version: Version) -> Mapping[str, Any]:
    """Attributes by the names of another version; those that it lacks are left out."""
    renamed = _RENAMED[version]
    if not renamed:
        return attributes
    return {new: value for key, value in attributes.items() if (new := renamed.get(key, key)) is not None}
