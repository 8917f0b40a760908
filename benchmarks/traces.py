"""One trace from the SDK to the engine: is it whole, does it say the truth, and what does it cost.

`python -m benchmarks.traces --json FILE [--quick] [--seed N]`

Random declared workflows of 2 to 12 LLM and function calls run through the SDK, the production app (in-process
transport) and a real engine process with the bundled model; the tools run in the client. Every span of SDK and server
is collected, and the engine's requests are overheard on their way into its process.

- unknown_gen_ai_keys: attributes and metrics that the tables of the conventions do not have, and content that nobody
  asked for, over all of it.
- single_trace_share: programs whose SDK span, server spans, engine requests and tools' own spans have one trace id.
- tree_equals_graph_share: programs whose spans are the declared calls, each a child of the program's span, and whose
  links are the declared edges. The declaration is what the SDK sends, not what the server made of it.
- attributed_*_share: the least of all calls (programs): seconds that a cause accounts for, of those from when the call
  could start to its end (of those from the acceptance to the end).
- throughput_cost_*: how much longer the same programs take with telemetry on (spans exported by OTLP encoding, and
  metrics) and off (the default: no exporter, `/metrics` only) than with none at all. The three take turns in many short
  rounds; the cost is the CPU time that a kind needs more, over the time of the round without. Client and orchestrator
  work in one thread, so it bounds what wall-clock time can show, which other work on the machine hides: `detail` has
  that too, and both for an engine that answers at once, where nothing but the orchestrator works.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks.common import Figure, conditions, finish, parser
from benchmarks.null_engine import NullEngine
from engine.protocol import Engine, GenerateRequest, TokenChunk
from orchestrator.app import assemble, create_app
from orchestrator.clock import LoopClock
from orchestrator.config import Settings, load
from orchestrator.engines.local import local_engines
from orchestrator.telemetry import Meters, Metrics, NullMetrics, NullTelemetry, OpenTelemetry, Telemetry, names
from orchestrator.telemetry.conventions import metric_faults, span_faults
from tenuto import AsyncClient, Var, llm, tool, workflow
from tenuto.testing import ASGITransport
from tenuto.wire import Event, EventKind, FunctionCall, Graph, LLMCall, Timeline, VariablePart, references

GOALS = {
    "unknown_gen_ai_keys": ("==", 0),
    "single_trace_share": (">=", 1.0),
    "tree_equals_graph_share": (">=", 1.0),
    "attributed_call_share": (">=", 0.98),
    "attributed_program_share": (">=", 0.98),
    "throughput_cost_on": ("<=", 0.05),
    "throughput_cost_off": ("<=", 0.01),
}
AT_ONCE = 8
"""Programs that run at the same time."""

_tools_seen: dict[int, int] = {}
"""Trace ids by the span ids that were current in the tools that ran."""


@llm(max_tokens=6, cache="off")
def write(first: str, second: str) -> str:
    """<sql> {{first}} {{second}}"""


@tool(effects="read", share=False)
def join(first: str, second: str) -> str:
    context = trace.get_current_span().get_span_context()
    _tools_seen[context.span_id] = context.trace_id
    return f"{first[:20]} {second[:20]}"


@workflow
def random_program(seed: int) -> Var[str]:
    """2 to 12 calls; each reads two of the values before it, the last ones more often."""
    rng = random.Random(seed)
    values: list[Any] = ["how many countries", "in africa"]
    for number in range(rng.randint(2, 12)):
        first, second = (values[max(0, len(values) - 1 - int(rng.expovariate(0.5)))] for _ in range(2))
        step = write.options(seed=number) if rng.random() < 0.5 else join
        values.append(step(first, second))
    last: Var[str] = values[-1]
    return last


def overhear(engine: Engine) -> list[GenerateRequest]:
    """The requests that the engine gets from now on, noted on their way in."""
    requests: list[GenerateRequest] = []
    generate = engine.generate

    def noting(request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        requests.append(request)
        return generate(request)

    engine.generate = noting  # type: ignore[method-assign]
    return requests


class Encoded(SpanExporter):
    """Exports as OTLP does, up to the bytes: what a collector does with them is not our cost."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS


class Kept(MetricExporter):
    """Keeps the metrics of the latest export."""

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


@asynccontextmanager
async def serving(
    settings: Settings, engine: Engine, telemetry: Telemetry, metrics: Metrics
) -> AsyncIterator[AsyncClient]:
    """A client of the production app in this process, whose engine is ready."""
    app = create_app(settings, assemble=lambda s: assemble(s, engines=[engine], telemetry=telemetry, metrics=metrics))
    async with AsyncClient("http://in-process", transport=ASGITransport(app)) as client:
        yield client


async def run_all(client: AsyncClient, seeds: Sequence[int]) -> list[tuple[Timeline, list[Event]]]:
    """Run the programs, `AT_ONCE` at a time; their timelines and events."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(seed: int) -> tuple[Timeline, list[Event]]:
        async with gate:
            run = await random_program.options(client=client).asubmit(seed)
            await run.result()
            events = [event async for event in run.events()]
            return await run.timeline(), events

    return list(await asyncio.gather(*(one(seed) for seed in seeds)))


def edges(graph: Graph) -> dict[str, set[str]]:
    """The declared calls, and which calls each reads from or comes after."""
    producer = {call.variable: call.id for call in graph.calls}

    def reads(call: LLMCall | FunctionCall) -> set[str]:
        if isinstance(call, LLMCall):
            parts = (part for message in call.messages for part in message.parts)
            variables = {part.variable for part in parts if isinstance(part, VariablePart)}
        else:
            variables = {r.variable for argument in call.arguments.values() for r in references(argument)}
        return {producer[name] for name in variables if name in producer} | set(call.after)

    return {call.id: reads(call) for call in graph.calls}


def call_shares(timeline: Timeline, events: Sequence[Event]) -> list[float]:
    """Of each call: attributed seconds ÷ seconds from when it could start to its end."""
    ready = {e.call: e.at_s for e in events if e.kind is EventKind.CALL_READY}
    ended = {e.call: e.at_s for e in events if e.kind is EventKind.CALL_ENDED}
    shares = []
    for call in timeline.calls:
        began_s, ended_s = ready[call.id], ended[call.id]
        told_s = sum(max(0.0, min(span.end_s, ended_s) - max(span.start_s, began_s)) for span in call.spans)
        shares.append(told_s / (ended_s - began_s) if ended_s > began_s else 1.0)
    return shares


async def whole(settings: Settings, seeds: Sequence[int]) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of the traces of random programs."""
    sdk, server, exported = InMemorySpanExporter(), InMemorySpanExporter(), Kept()
    providers = []
    for exporter in (sdk, server):
        providers.append(TracerProvider(shutdown_on_exit=False))
        providers[-1].add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(providers[0])
    engine = local_engines(settings, clock=LoopClock())[0]
    requests = overhear(engine)
    meters = Meters(LoopClock().wall, [exported])
    async with serving(settings, engine, OpenTelemetry(providers[1]), meters) as client:
        ran = await run_all(client, seeds)
        await meters.flush()
    spans, theirs = ([s for s in exporter.get_finished_spans() if ours(s)] for exporter in (server, sdk))
    faults = [f for s in (*spans, *theirs) for f in span_faults(s.name, dict(s.attributes or {}))]
    for metric in exported.metrics:
        for point in metric.data.data_points:
            buckets = point.explicit_bounds if isinstance(point, HistogramDataPoint) else ()
            faults += metric_faults(metric.name, metric.unit or "", dict(point.attributes or {}), buckets)
    made, opened = by_program(spans), by_program(theirs)
    heard: dict[str, list[GenerateRequest]] = defaultdict(list)
    for request in requests:
        heard[request.program].append(request)
    single = [one_trace(t, opened[t.program], made[t.program], heard[t.program]) for t, _ in ran]
    trees = [tree(edges(random_program.graph(s)), made[t.program]) for (t, _), s in zip(ran, seeds, strict=True)]
    calls = [share for t, events in ran for share in call_shares(t, events)]
    programs = [sum(t.causes.values()) / t.seconds for t, _ in ran]
    worst = min(ran, key=lambda one: min(call_shares(*one)))
    figures = {
        "unknown_gen_ai_keys": len(faults),
        "single_trace_share": statistics.fmean(single),
        "tree_equals_graph_share": statistics.fmean(trees),
        "attributed_call_share": min(calls),
        "attributed_program_share": min(programs),
    }
    detail = {
        "programs": len(ran),
        "calls": len(calls),
        "engine_requests": len(requests),
        "tool_spans": len(_tools_seen),
        "faults": sorted(set(faults))[:20],
        "metrics": sorted(metric.name for metric in exported.metrics),
        "worst_call": [
            (share, call.id, [(s.cause, s.start_s, s.end_s) for s in call.spans])
            for share, call in sorted(zip(call_shares(*worst), worst[0].calls, strict=True), key=lambda one: one[0])[:1]
        ],
        "mean_call_share": statistics.fmean(calls),
        "mean_program_share": statistics.fmean(programs),
    }
    return figures, detail


def ours(span: ReadableSpan) -> bool:
    """True for spans of the SDK and the server; FastAPI makes some of its own."""
    return span.instrumentation_scope is not None and span.instrumentation_scope.name == "tenuto"


def by_program(spans: Sequence[ReadableSpan]) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = defaultdict(list)
    for span in spans:
        found[str((span.attributes or {}).get(names.PROGRAM_ID))].append(span)
    return found


def one_trace(
    timeline: Timeline, theirs: Sequence[ReadableSpan], made: Sequence[ReadableSpan], heard: Sequence[GenerateRequest]
) -> bool:
    """True if all of a program bears its trace id, and every part was seen: the SDK's spans, the server's, the engine's
    requests, the tools' own."""
    trace_id = int(timeline.trace_id, 16)
    kinds = [call.kind for call in timeline.calls]
    tools = {s.context.span_id for s in made if s.name.startswith(names.EXECUTE_TOOL) and s.context is not None}
    ran = [_tools_seen[span] for span in tools if span in _tools_seen]
    ids = {s.context.trace_id for s in (*theirs, *made) if s.context is not None}
    ids |= {int((r.traceparent or "").split("-")[1], 16) for r in heard} | {*ran}
    complete = len(theirs) == 1 and len(heard) == kinds.count("llm") and len(ran) == kinds.count("function")
    return complete and ids == {trace_id}


def tree(declared: dict[str, set[str]], spans: Sequence[ReadableSpan]) -> bool:
    """True if a program's spans and links are the declared calls and edges."""
    roots = [s for s in spans if s.name.startswith(names.INVOKE_WORKFLOW)]
    calls = {str((s.attributes or {})[names.CALL_ID]): s for s in spans if s not in roots}
    if len(roots) != 1 or calls.keys() != declared.keys() or roots[0].context is None:
        return False
    below = all(s.parent is not None and s.parent.span_id == roots[0].context.span_id for s in calls.values())
    links = {
        name: {str((link.attributes or {})[names.VARIABLE_PRODUCER]) for link in span.links}
        for name, span in calls.items()
    }
    return below and links == declared


async def nothing() -> None:
    """Nothing is left to be exported."""


class Kind(NamedTuple):
    """A kind of telemetry. `flush` ends once everything is exported."""

    telemetry: Telemetry
    metrics: Metrics
    flush: Callable[[], Awaitable[object]] = nothing


def exporting() -> Kind:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Encoded()))
    return Kind(OpenTelemetry(provider), Meters(LoopClock().wall), partial(asyncio.to_thread, provider.force_flush))


class Round(NamedTuple):
    """Seconds that the same programs took: on the clock, and of this process's CPU time."""

    wall_s: float
    cpu_s: float


async def costs(settings: Settings, null: bool, seeds: Sequence[int], rounds: int) -> dict[str, list[Round]]:
    """Rounds with each kind of telemetry, with an engine that answers at once or a real one; the kinds take turns."""
    makers = {
        "none": lambda: Kind(NullTelemetry(random.Random(0)), NullMetrics()),
        "off": lambda: Kind(NullTelemetry(random.Random(0)), Meters(LoopClock().wall)),
        "on": exporting,
    }
    rng = random.Random(len(seeds))
    taken: dict[str, list[Round]] = {name: [] for name in makers}
    async with AsyncExitStack() as stack:
        clients, flushes = {}, {}
        for name, make in makers.items():
            telemetry, metrics, flushes[name] = make()
            engine: Any = NullEngine("geo-sql") if null else local_engines(settings, clock=LoopClock())[0]
            directory = stack.enter_context(tempfile.TemporaryDirectory())
            own = settings.model_copy(update={"journal": Path(directory) / "journal.db"})
            clients[name] = await stack.enter_async_context(serving(own, engine, telemetry, metrics))
            await run_all(clients[name], seeds)
        for _ in range(rounds):
            for name in rng.sample([*makers], len(makers)):
                gc.collect()  # no round pays for another's garbage
                gc.freeze()
                wall_s, cpu_s = perf_counter(), process_time()
                await run_all(clients[name], seeds)
                await flushes[name]()
                taken[name].append(Round(perf_counter() - wall_s, process_time() - cpu_s))
    return taken


def cost(taken: dict[str, list[Round]], kind: str, field: int = 1) -> float:
    """Median over the rounds of the seconds that a kind took more than none, as a share of the round without."""
    pairs = zip(taken[kind], taken["none"], strict=True)
    return statistics.median((one[field] - other[field]) / other.wall_s for one, other in pairs)


async def measure(quick: bool, seed: int, directory: Path) -> tuple[dict[str, float], dict[str, Any]]:
    settings = load(model="bundled", journal=directory / "journal.db")
    programs, rounds = (60, 15) if quick else (1000, 100)
    figures, detail = await whole(settings, range(seed * 10_000, seed * 10_000 + programs))
    some = range(seed * 10_000, seed * 10_000 + AT_ONCE)
    for name, null in (("engine", False), ("null_engine", True)):
        taken = await costs(settings, null, some, rounds)
        detail[name] = {"rounds": taken} | {
            f"{kind}_{what}": cost(taken, kind, i) for kind in ("on", "off") for i, what in enumerate(Round._fields)
        }
        if not null:
            figures |= {f"throughput_cost_{kind}": cost(taken, kind) for kind in ("on", "off")}
    return figures, detail


def main() -> None:
    args = parser("traces", __doc__ or "").parse_args()
    at_start = conditions(args.seed, args.quick)
    with tempfile.TemporaryDirectory() as directory:
        figures, detail = asyncio.run(measure(args.quick, args.seed, Path(directory)))
    finish("traces", [Figure(n, v, *GOALS[n]) for n, v in figures.items()], args=args, at_start=at_start, detail=detail)


if __name__ == "__main__":
    main()
