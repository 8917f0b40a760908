"""Is the simulator true, and is it fast? Programs on the real CPU engine beside the same ones on its fitted model.

`figures` gives `sim_vs_real_*` and `sim_seconds_per_second_8_engines`, which belong to `benchmarks.scheduling`.
"""

from __future__ import annotations

import asyncio
import json
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from typing import Any

from benchmarks.common import Figure, conditions, finish, parser, percentile
from engine.client import EngineProcess
from engine.clock import SystemClock
from engine.config import EngineConfig
from engine.costs import EngineProfile, profile
from engine.fit import Fit, fit, measure
from orchestrator.clock import LoopClock
from orchestrator.engines import EnginePool
from orchestrator.engines.local import model_directory
from orchestrator.journal import SqliteJournal
from orchestrator.limits import Limits
from orchestrator.retention import make_rule
from orchestrator.runtime import Runtime
from orchestrator.scheduling import make_policy
from orchestrator.simulation import TraceProgram, read, simulate
from orchestrator.simulation.client import Clients, Tools
from orchestrator.simulation.importers import load_traces
from orchestrator.simulation.synthetic import agents
from orchestrator.simulation.trace import LLMNode
from orchestrator.simulation.workload import Library, is_private, scaled, tool_names, wire_name
from orchestrator.tools import WorkerPool
from tenuto.wire import LLMCall, Message, Sampling, TextPart, Timeline, VariablePart

_BUDGET, _RUNNING = 256, 16
_BUSY = 0.6
"""Share of its time that the engine is at work: programs wait for each other, on a fast machine as on a slow one."""
_WORDS = ("city", "name", "select", "population", "from", "country", "where", "order", "river", "area", "count", "max")


@dataclass(frozen=True, slots=True)
class Validation:
    """Completion times of the same programs, on the real engine and on the simulated one."""

    real_s: tuple[float, ...]
    simulated_s: tuple[float, ...]
    busy_share: float
    fit: Fit

    @property
    def mean_error(self) -> float:
        real = sum(self.real_s)
        return abs(sum(self.simulated_s) - real) / real

    @property
    def p95_error(self) -> float:
        real = percentile(self.real_s, 0.95)
        return abs(percentile(self.simulated_s, 0.95) - real) / real


class _Spelled(Library):
    """Blueprints whose prompts are words that a real engine can read, about one token a word."""

    def _llm(
        self,
        node: LLMNode,
        name: str,
        after: tuple[str, ...],
        key: str,
        origin: str,
        outputs: dict[str, str],
    ) -> LLMCall:
        parts: list[TextPart | VariablePart] = []
        system: tuple[Message, ...] = ()
        for piece in node.prompt:
            call = piece.stream.removeprefix(f"{origin}/").removesuffix(".out")
            if piece.stream == f"{origin}/{call}.out":
                parts.append(VariablePart(variable=f"_{call}"))
                continue
            rng = Random(f"{piece.stream} {piece.start}")
            text = TextPart(text=" ".join(rng.choice(_WORDS) for _ in range(piece.end - piece.start)) + " ")
            if is_private(piece.stream, origin):
                parts.append(text)
            else:
                system = (Message(role="system", parts=(text,)),)
        return LLMCall(
            id=name,
            messages=(*system, Message(role="user", parts=tuple(parts))),
            after=after,
            stage=wire_name(node.stage),
            sampling=Sampling(max_tokens=node.output),
        )


async def _replay(programs: Sequence[TraceProgram], engine: EngineProcess, journal: Path) -> dict[str, float]:
    """Run the programs on a real engine, in real time; seconds of each from its arrival to its last call's end."""
    seconds: dict[str, float] = {}
    clock, limits, rng, library = LoopClock(), Limits(), Random(0), _Spelled()

    def ended(program: TraceProgram, timeline: Timeline, lasted_s: float) -> None:
        seconds[timeline.program] = lasted_s

    workers = WorkerPool(limits=limits, rng=rng)
    runtime = Runtime(
        clock=clock,
        engines=EnginePool([engine]),
        workers=workers,
        journal=SqliteJournal(journal, clock=clock),
        policy=make_policy("fcfs"),
        limits=limits,
        rng=rng,
        retention=make_rule("lru"),
    )
    await runtime.start()
    tools = Tools(workers, library, lambda key, lasts_s: lasts_s)
    tools.serve("default", tool_names(programs))
    await asyncio.sleep(0)
    clients = Clients(
        runtime,
        library,
        clock,
        wait_cap_s=120.0,
        ended=ended,
        progress=lambda *_: None,
    )
    start_s = asyncio.get_running_loop().time()
    shifted = [_at(program, start_s + program.arrival) for program in programs]
    await asyncio.gather(*(clients.run(program) for program in shifted))
    await tools.close()
    await runtime.close()
    return seconds


def _at(program: TraceProgram, arrival: float) -> TraceProgram:
    return replace(program, arrival=arrival)


async def _measure(
    programs: Sequence[TraceProgram], others: Sequence[TraceProgram], folder: Path, rounds: int
) -> tuple[Fit, dict[str, float]]:
    """Fit the engine before and after the programs run on it, as far apart as it takes: a machine's speed drifts.

    `others` run first: oneDNN compiles a kernel for each number of rows that it has not seen, 2 to 6 ms a step.
    """
    directory = model_directory("bundled")
    assert directory is not None
    config = EngineConfig(str(directory), token_budget=_BUDGET, max_running=_RUNNING, threads=1)
    async with await EngineProcess.start(config) as engine:
        await _replay(others, engine, folder / "others.db")
        samples = await measure(engine, SystemClock(), budget=_BUDGET, rounds=rounds, seed=1)
        known = fit(samples, engine, name="cpu", budget=_BUDGET, max_running=_RUNNING)
        paced = await asyncio.to_thread(_paced, programs, known.profile)
        seconds = await _replay(paced, engine, folder / "journal.db")
        samples += await measure(engine, SystemClock(), budget=_BUDGET, rounds=rounds, seed=2)
        return fit(samples, engine, name="cpu", budget=_BUDGET, max_running=_RUNNING), seconds


def _paced(programs: Sequence[TraceProgram], card: EngineProfile) -> list[TraceProgram]:
    """The programs, arriving so far apart that such an engine is at work for `_BUSY` of the time."""
    factor = 1.0
    for _ in range(4):
        factor *= simulate(scaled(programs, factor), engine=card, drawn=False).busy_share / _BUSY
    return scaled(programs, factor)


def validate(seed: int = 0, *, quick: bool = False) -> Validation:
    """Fit the bundled model's engine, run agents on it, and simulate what its journal tells of them."""
    programs, others = (_short_agents(16 if quick else 40, one) for one in (seed, seed + 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fitted, real = asyncio.run(_measure(programs, others, folder, 1 if quick else 6))
        trace = load_traces([folder / "journal.db"], "journal")
    report = simulate(trace, engine=fitted.profile, drawn=False)
    pairs = [(real[program.program], program.seconds) for program in report.programs]
    return Validation(tuple(a for a, _ in pairs), tuple(b for _, b in pairs), report.busy_share, fitted)


def _short_agents(count: int, seed: int) -> list[TraceProgram]:
    """Agents whose prompts fit the bundled model."""
    return agents(
        count, seed=seed, turns=(2, 5), system=60, grows_by=(10, 30), outputs=(10, 30), pause_s=0.1, gap_s=0.08
    )


def sessions(count: int, seed: int) -> list[TraceProgram]:
    """Coding sessions as public recordings have them: up to a hundred thousand tokens, pauses of some ten seconds."""
    return agents(
        count,
        seed=seed,
        turns=(10, 40),
        system=16_000,
        grows_by=(500, 4000),
        outputs=(50, 800),
        pause_s=15.0,
        gap_s=1.0,
    )


@dataclass(frozen=True, slots=True)
class Speed:
    """Virtual seconds of eight engines at work, and the real ones that they took."""

    virtual_s: float
    real_s: float
    calls: int
    load: float

    @property
    def ratio(self) -> float:
        return self.virtual_s / self.real_s


def speed(seed: int = 0, *, quick: bool = False, trace: Sequence[TraceProgram] | None = None) -> Speed:
    """Eight h200-8b engines under long agent sessions, or a trace's programs, as many at once as need twice the memory.

    The sessions arrive within some minutes and last longer than that. Quick: a sixth of them, on a sixth of the memory.
    """
    card = profile("h200-8b")
    if trace is not None:
        scale = simulate(trace, engine=card, replicas=8, seed=seed, load=2.0).scale
    else:
        count = 60 if quick else 360
        trace, scale = sessions(count, seed), 1.0
        card = replace(card, kv_tokens=card.kv_tokens * count // 360)
    start = perf_counter()
    report = simulate(trace, engine=card, replicas=8, seed=seed, scale=scale)
    real_s = perf_counter() - start
    calls = sum(len(program.calls) for program in report.programs)
    return Speed(report.makespan_s, real_s, calls, report.peak_private_tokens / (8 * card.kv_tokens))


def live(count: int, seed: int = 0) -> dict[str, float]:
    """What `count` programs that are live at once take: peak resident memory of this process, and processor time."""
    trace = agents(
        count, seed=seed, turns=(1, 2), system=2000, grows_by=(500, 2000), outputs=(50, 200), pause_s=30.0, gap_s=0.001
    )
    start_s = process_time()
    report = simulate(trace, policy="tenuto", retention="tenuto", drawn=False)
    edges = sorted([(p.arrival_s, 1) for p in report.programs] + [(p.end_s, -1) for p in report.programs])
    return {
        "live_at_once": max(accumulate(change for _, change in edges)),
        "calls": sum(len(program.calls) for program in report.programs),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "cpu_s": process_time() - start_s,
    }


def figures(
    seed: int = 0, *, quick: bool = False, trace: Sequence[TraceProgram] | None = None
) -> tuple[list[Figure], Any]:
    """The three figures, and what is behind them."""
    fast, true = speed(seed, quick=quick, trace=trace), validate(seed, quick=quick)
    found = [
        Figure("sim_vs_real_mean_error", true.mean_error, "<=", 0.10),
        Figure("sim_vs_real_p95_error", true.p95_error, "<=", 0.10),
        Figure("sim_seconds_per_second_8_engines", fast.ratio, ">=", 100.0),
    ]
    detail = {
        "real_s": true.real_s,
        "simulated_s": true.simulated_s,
        "busy_share": true.busy_share,
        "fit_error": true.fit.error,
        "profile": asdict(true.fit.profile),
        "samples": [asdict(sample) for sample in true.fit.samples],
        "speed": {"virtual_s": fast.virtual_s, "real_s": fast.real_s, "calls": fast.calls, "load": fast.load},
    }
    return found, detail


def main() -> None:
    arguments = parser("simulation", __doc__ or "")
    arguments.add_argument("--trace", type=Path, help="measure the speed on this trace instead of made-up agents")
    arguments.add_argument("--live", type=int, help="only this: memory and time of so many programs live at once")
    args = arguments.parse_args()
    if args.live:
        print(json.dumps(live(args.live, args.seed)))
        return
    at_start = conditions(args.seed, args.quick, [args.trace] if args.trace else [])
    trace = read([args.trace]) if args.trace else None
    found, detail = figures(args.seed, quick=args.quick, trace=trace)
    finish("simulation", found, args=args, at_start=at_start, detail=detail)


if __name__ == "__main__":
    main()
