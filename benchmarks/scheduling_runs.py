"""Runs of the scheduling benchmark: what is simulated, once, and kept in a file so that a sweep can be resumed.

A run is a trace (or a generated workload), a load, a seed and a setting. Owns calibration and the store of results;
judges nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.common import ROOT
from benchmarks.scheduling_rivals import RIVALS
from benchmarks.scheduling_workloads import WORKLOADS, disturbed
from engine.costs import EngineProfile, profile
from orchestrator.simulation import Report, Scenario, Simulation, TraceProgram, read, resample
from orchestrator.simulation.report import quantile
from orchestrator.simulation.trace import LLMNode, ToolNode
from orchestrator.simulation.workload import Library, is_private, scaled

TOLERANCE = 0.08
"""A calibrated load is within this share of the one asked for, unless all programs at once do not reach it."""
_ENOUGH, _FEWEST, _MOST = 1.9, 16, 800
"""Programs of a cell: so many times those whose peaks together are the load, within bounds. Fewer do not reach it even
all at once, since the short ones end before the long ones have grown."""
_CODE = ("dag", "engine", "kv_ttl", "orchestrator/runtime", "orchestrator/retention", "orchestrator/scheduling")


@dataclass(frozen=True, slots=True)
class Cell:
    """Programs and arrivals that settings are compared on. `trace`: a file or `gen:NAME` of a generated workload.

    `load`: peak private KV under fcfs in infinite memory / device memory; 0 = arrivals as they stand. `measured`:
    which half of a file's programs, by a hash of their names. `disturbance`: what is done to the tools (robustness).
    `memory_share`: of the engine's device memory that there is (a quick run has few programs and little memory).
    """

    trace: str
    load: float = 0.0
    seed: int = 0
    programs: int = 0
    measured: bool | None = None
    disturbance: str = ""
    memory_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What serves them. `host_share`: host tier in units of the excess demand (load - 1) x device memory."""

    policy: str
    retention: str
    infinite: bool = False
    host_share: float = 0.0
    max_running: int = 0
    engine_calls: int = 0
    shared_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run. `calls`: of each LLM call (program's place, ready, start, first token, end), s."""

    mean_s: float
    p95_s: float
    p99_s: float
    makespan_s: float
    ttft_p99_s: float
    attainment: float | None
    load: float
    scale: float
    recomputed_share: float
    wasted_share: float
    busy_share: float
    failed: int
    violations: int
    by_workflow: dict[str, dict[str, float]] = field(default_factory=dict)
    completion_s: tuple[float, ...] = ()


def code_key() -> str:
    """Digest of the packages whose behaviour is measured."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Store:
    """Results by (cell, setting), one JSON line each in an append-only file."""

    def __init__(self, file: Path, code: str, *, any_code: bool = False) -> None:
        self.file, self.code = file, code
        self._results: dict[str, Result] = {}
        self.codes: set[str] = set()
        if file.exists():
            for line in file.read_text().splitlines():
                record = json.loads(line)
                if record["code"] == code or any_code:
                    self.codes.add(record["code"])
                    self._results[record["key"]] = Result(**record["result"])

    def get(self, cell: Cell, setting: Setting) -> Result | None:
        """The kept result, if there is one."""
        return self._results.get(run_key(cell, setting))

    def put(self, cell: Cell, setting: Setting, result: Result) -> None:
        """Keep a result. Lines of several processes never mix: each is one small append."""
        self._results[run_key(cell, setting)] = result
        record = {"code": self.code, "key": run_key(cell, setting), "result": asdict(result)}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.file, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)
        try:
            os.write(descriptor, (json.dumps(record) + "\n").encode())
        finally:
            os.close(descriptor)


def run_key(cell: Cell, setting: Setting) -> str:
    """Names a run."""
    return json.dumps({"cell": asdict(cell), "setting": asdict(setting)}, sort_keys=True)


@lru_cache(maxsize=4)
def _programs(trace: str, measured: bool | None) -> tuple[TraceProgram, ...]:
    found = read([Path(trace)])
    if measured is None:
        return tuple(found)
    return tuple(p for p in found if (hashlib.sha256(p.program.encode()).digest()[0] % 2 == 0) == measured)


@lru_cache(maxsize=4)
def _peak_tokens(trace: str, measured: bool | None) -> float:
    """Mean over programs of the most private tokens that one call has."""
    peaks = [
        max((_private_tokens(node, program.program) for node in program.llm_nodes), default=1)
        for program in _programs(trace, measured)
    ]
    return max(1.0, sum(peaks) / len(peaks))


def _private_tokens(node: LLMNode, owner: str) -> int:
    return sum(piece.end - piece.start for piece in node.prompt if is_private(piece.stream, owner)) + node.output


def drawn(cell: Cell, kv_tokens: int) -> list[TraceProgram]:
    """The cell's programs before their arrivals are scaled: as many as it says, else enough to reach the load."""
    if cell.trace.startswith("gen:"):
        return WORKLOADS[cell.trace[4:]](cell.seed, cell.programs, cell.load)
    known = _programs(cell.trace, cell.measured)
    enough = math.ceil(_ENOUGH * cell.load * kv_tokens / _peak_tokens(cell.trace, cell.measured))
    count = cell.programs or min(max(enough, _FEWEST), _MOST)
    programs = resample(known, seed=cell.seed, count=count)
    return disturbed(programs, cell.disturbance, Random(f"disturbed {cell.seed}"))


def run_group(cell: Cell, settings: Sequence[Setting], engine: str, store: Store) -> int:
    """Calibrate the cell if it must be, and run every setting that has no result yet. Returns how many ran."""
    todo = [setting for setting in settings if store.get(cell, setting) is None]
    if not todo:
        return 0
    card = profile(engine)
    card = replace(card, kv_tokens=int(card.kv_tokens * cell.memory_share))
    programs = drawn(cell, card.kv_tokens)
    library = Library()
    infinite = Setting("fcfs", "lru", infinite=True)
    scale = 1.0
    if cell.load and not cell.trace.startswith("gen:"):
        known = store.get(cell, infinite)
        if known is None:
            known = _calibrated(programs, card, cell, library)
            store.put(cell, infinite, known)
        scale = known.scale
    ran = 0
    for setting in todo:
        if store.get(cell, setting) is None:
            report = simulated(programs, card, cell, setting, scale, library)
            store.put(cell, setting, summary(report, card))
            ran += 1
    return ran


def simulated(
    programs: Sequence[TraceProgram], card: EngineProfile, cell: Cell, setting: Setting, scale: float, library: Library
) -> Report:
    """One simulation."""
    host = int(setting.host_share * max(0.0, cell.load - 1) * card.kv_tokens * card.kv_bytes_per_token)
    card = replace(
        card,
        host_bytes=host,
        max_running=setting.max_running or card.max_running,
        shared_prefix_decode=setting.shared_prefix or card.shared_prefix_decode,
    )
    rival = RIVALS.get(setting.policy)
    arriving = sorted(scaled(programs, scale), key=lambda program: program.arrival)
    scenario = Scenario(
        card, 1, setting.policy if rival is None else "fcfs", setting.retention, setting.infinite, cell.seed
    )
    if setting.engine_calls:
        scenario = replace(scenario, engine_calls=setting.engine_calls)
    policy = None if rival is None else rival(arriving, card)
    return Simulation(arriving, scenario, scale=scale, library=library, policy=policy).run()


def _calibrated(programs: Sequence[TraceProgram], card: EngineProfile, cell: Cell, library: Library) -> Result:
    """The infinite-memory run at the arrivals that give the load: a guess without queueing, then at most 3 runs."""
    factor = _guess(programs, card, cell.load)
    best: Result | None = None
    for _ in range(3):
        report = simulated(programs, card, cell, Setting("fcfs", "lru", infinite=True), factor, library)
        found = summary(report, card)
        if best is None or abs(found.load / cell.load - 1) < abs(best.load / cell.load - 1):
            best = found
        if abs(found.load / cell.load - 1) <= TOLERANCE or (found.load < cell.load and factor < 1e-3):
            break
        factor *= found.load / cell.load
        if found.load < cell.load and factor * _span(programs) < 1.0:
            factor = 1e-4  # all at once is the most there is
    assert best is not None
    return best


def _span(programs: Sequence[TraceProgram]) -> float:
    return max(program.arrival for program in programs)


def _guess(programs: Sequence[TraceProgram], card: EngineProfile, load: float) -> float:
    """The factor on arrivals at which the peak would be right if nobody ever queued."""
    lives = [_alone(program, card) for program in programs]

    def peak(factor: float) -> float:
        steps = [
            (program.arrival * factor + at_s, change)
            for program, life in zip(programs, lives, strict=True)
            for at_s, change in life
        ]
        now = most = 0
        for _, change in sorted(steps):
            now += change
            most = max(most, now)
        return most / card.kv_tokens

    low, high = 1e-4, 1e4
    for _ in range(24):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if peak(middle) > load else (low, middle)
    return float((low * high) ** 0.5)


def _alone(program: TraceProgram, card: EngineProfile, wait_cap_s: float = 120.0) -> list[tuple[float, int]]:
    """Changes of a program's private KV, by seconds after its arrival, on an engine of its own at a moderate batch."""
    ends: dict[str, float] = {}
    calls: list[tuple[float, int]] = []
    step_s = 2 * (card.step_s + card.weights_s)
    known = 0
    for node in program.nodes:
        start_s = max((ends[before] for before in node.after), default=0.0)
        if isinstance(node, ToolNode):
            ends[node.id] = start_s + node.duration
            continue
        start_s += min(node.wait, wait_cap_s)
        private = _private_tokens(node, program.origin or program.program)
        prefill_s = card.token_s * max(0, private - known)
        known = max(known, private)
        ends[node.id] = start_s + prefill_s + node.output * step_s
        calls.append((start_s, private))
    changes: list[tuple[float, int]] = []
    before = 0
    for at_s, private in sorted(calls):
        changes.append((at_s, private - before))
        before = private
    changes.append((max(ends.values()), -before))
    return changes


def summary(report: Report, card: EngineProfile) -> Result:
    """What is kept of a report. Programs that fail count too, for as long as they lived: a prompt that no context holds
    fails in every setting."""
    seconds = [program.seconds for program in report.programs]
    workflows: dict[str, list[Any]] = {}
    for program in report.programs:
        workflows.setdefault(program.workflow, []).append(program)
    return Result(
        mean_s=sum(seconds) / len(seconds),
        p95_s=quantile(seconds, 0.95),
        p99_s=quantile(seconds, 0.99),
        makespan_s=report.makespan_s,
        ttft_p99_s=report.ttft_s(0.99),
        attainment=report.attainment,
        load=report.peak_private_tokens / card.kv_tokens,
        scale=report.scale,
        recomputed_share=report.recomputed_tokens / max(1, report.prompt_tokens),
        wasted_share=report.leases.wasted_share,
        busy_share=report.busy_share,
        failed=sum(not program.succeeded for program in report.programs),
        violations=overtakings(report),
        by_workflow={name: _of_workflow(programs) for name, programs in sorted(workflows.items())},
        completion_s=tuple(round(one, 3) for one in seconds),
    )


def _of_workflow(programs: Iterable[Any]) -> dict[str, float]:
    listed = list(programs)
    ttfts = [call.ttft_s for program in listed for call in program.calls]
    per_token = [program.seconds / max(1, sum(call.output_tokens for call in program.calls)) for program in listed]
    return {
        "programs": float(len(listed)),
        "mean_s": sum(program.seconds for program in listed) / len(listed),
        "ttft_s": sum(ttfts) / max(1, len(ttfts)),
        "s_per_token": sum(per_token) / len(per_token),
    }


def overtakings(report: Report) -> int:
    """Calls that started while one waited whose program had arrived more than the window earlier."""
    from orchestrator.scheduling.tenuto import WINDOW_S

    starts = sorted((call.start_s, program.arrival_s) for program in report.programs for call in program.calls)
    if not starts or starts[-1][1] - min(arrival for _, arrival in starts) <= WINDOW_S:
        return 0
    count = 0
    waiting = [(call.ready_s, call.start_s, p.arrival_s) for p in report.programs for call in p.calls]
    for ready_s, start_s, arrival_s in waiting:
        if start_s > ready_s:
            count += any(ready_s < at < start_s and other > arrival_s + WINDOW_S for at, other in starts)
    return count


Progress = Callable[[int, int], None]
_store: Store | None = None


def _open(file: Path, code: str) -> None:
    global _store
    _store = Store(file, code)


def _work(cell: Cell, settings: Sequence[Setting], engine: str) -> list[tuple[Cell, Setting, Result]]:
    assert _store is not None
    run_group(cell, settings, engine, _store)
    wanted = [*settings, Setting("fcfs", "lru", infinite=True)]
    return [(cell, one, found) for one in wanted if (found := _store.get(cell, one)) is not None]


def run_all(
    groups: Mapping[Cell, Sequence[Setting]], engine: str, store: Store, *, jobs: int, progress: Progress
) -> None:
    """Every group, in order; with several processes groups run side by side."""
    todo = {cell: of for cell, of in groups.items() if any(store.get(cell, one) is None for one in of)}
    if jobs <= 1:
        for number, (cell, settings) in enumerate(todo.items()):
            progress(number, len(todo))
            run_group(cell, settings, engine, store)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _open, (store.file, store.code)) as pool:
        futures = [pool.submit(_work, cell, list(settings), engine) for cell, settings in todo.items()]
        for number, future in enumerate(as_completed(futures)):
            progress(number, len(todo))
            for cell, setting, result in future.result():
                store._results[run_key(cell, setting)] = result
