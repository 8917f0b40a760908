"""Many simulations side by side, and what they are for: the best setting, and the load at which a promise breaks.

Owns no simulation itself. Results come in the order of the jobs, whatever the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from orchestrator.simulation.report import Report
from orchestrator.simulation.run import simulate
from orchestrator.simulation.trace import TraceProgram

Job = Mapping[str, Any]
"""Keyword arguments of `simulate`."""

Done = Callable[[int], None]
"""Told of each job that has ended: its place."""

_trace: Sequence[TraceProgram] = ()


def _remember(trace: Sequence[TraceProgram]) -> None:
    global _trace
    _trace = trace


def _run(job: Job) -> Report:
    return simulate(_trace, **job)


def run_jobs(
    trace: Sequence[TraceProgram], jobs: Sequence[Job], *, processes: int = 1, done: Done = lambda place: None
) -> list[Report]:
    """A report for each job, in their order. With several processes each one is sent the trace once."""
    if processes <= 1 or len(jobs) <= 1:
        reports = []
        for place, job in enumerate(jobs):
            reports.append(simulate(trace, **job))
            done(place)
        return reports
    context = get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(jobs)), context, _remember, (tuple(trace),)) as pool:
        futures = [pool.submit(_run, job) for job in jobs]
        for place, future in enumerate(futures):
            future.add_done_callback(lambda _, place=place: done(place))  # type: ignore[misc]  # mypy: python/mypy#12557
        return [future.result() for future in futures]


@dataclass(frozen=True, slots=True)
class Slo:
    """What must hold: a share of deadlines met, a p99 time to first token, a p95 completion time. None: no promise."""

    attainment: float | None = 0.95
    ttft_s: float | None = None
    completion_s: float | None = None

    def broken(self, report: Report) -> str | None:
        """The first promise that `report` breaks, with its value; None if all hold."""
        attained = report.attainment
        if self.attainment is not None and attained is not None and attained < self.attainment:
            return f"{attained:.1%} of deadlines met, promised {self.attainment:.1%}"
        if self.ttft_s is not None and (ttft_s := report.ttft_s(0.99)) > self.ttft_s:
            return f"p99 time to first token {ttft_s:.3g} s, promised {self.ttft_s:g} s"
        if self.completion_s is not None and (seconds := report.quantile_s(0.95)) > self.completion_s:
            return f"p95 completion {seconds:.4g} s, promised {self.completion_s:g} s"
        return None


@dataclass(frozen=True, slots=True)
class Setting:
    """What a sweep chooses between."""

    policy: str
    retention: str

    def __str__(self) -> str:
        return f"{self.policy} + {self.retention}"


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One setting at one load, over all seeds."""

    setting: Setting
    load: float
    reports: tuple[Report, ...]

    @property
    def mean_s(self) -> float:
        """Mean completion time, over seeds."""
        return sum(report.mean_s for report in self.reports) / len(self.reports)

    @property
    def p99_s(self) -> float:
        return sum(report.quantile_s(0.99) for report in self.reports) / len(self.reports)

    @property
    def ttft_p99_s(self) -> float:
        return sum(report.ttft_s(0.99) for report in self.reports) / len(self.reports)

    @property
    def attainment(self) -> float | None:
        shares = [share for report in self.reports if (share := report.attainment) is not None]
        return sum(shares) / len(shares) if shares else None

    def broken(self, slo: Slo) -> str | None:
        """What most seeds break, in the words of the first of them; None if at most half do."""
        faults = [fault for report in self.reports if (fault := slo.broken(report)) is not None]
        return faults[0] if 2 * len(faults) > len(self.reports) else None


def sweep(
    trace: Sequence[TraceProgram],
    settings: Sequence[Setting],
    loads: Sequence[float],
    seeds: Sequence[int],
    *,
    processes: int = 1,
    done: Done = lambda place: None,
    **common: Any,
) -> list[SweepPoint]:
    """Every setting at every load with every seed. Arrivals of a load and a seed are calibrated once."""
    cells = [(load, seed) for load in loads for seed in seeds]
    first = run_jobs(
        trace,
        [{**common, "policy": settings[0].policy, "retention": settings[0].retention, "load": load, "seed": seed}
         for load, seed in cells],
        processes=processes,
        done=done,
    )  # fmt: skip
    found = {(settings[0], *cell): report for cell, report in zip(cells, first, strict=True)}
    rest = [(setting, load, seed) for setting in settings[1:] for load, seed in cells]
    jobs = [
        {**common, "policy": setting.policy, "retention": setting.retention, "seed": seed,
         "scale": found[settings[0], load, seed].scale}
        for setting, load, seed in rest
    ]  # fmt: skip
    reports = run_jobs(trace, jobs, processes=processes, done=lambda place: done(place + len(first)))
    found.update(zip(rest, reports, strict=True))
    return [
        SweepPoint(setting, load, tuple(found[setting, load, seed] for seed in seeds))
        for setting in settings
        for load in loads
    ]


def best(points: Sequence[SweepPoint]) -> dict[float, SweepPoint]:
    """The setting with the least mean completion time, by load."""
    winners: dict[float, SweepPoint] = {}
    for point in points:
        if point.load not in winners or point.mean_s < winners[point.load].mean_s:
            winners[point.load] = point
    return dict(sorted(winners.items()))


@dataclass(frozen=True, slots=True)
class Breaking:
    """The load at which a promise breaks: it holds at `holds` (None: never seen to), is broken at `breaks` (None:
    never seen to be), for the reason `why`."""

    holds: float | None
    breaks: float | None
    why: str = ""


def breaking_load(
    trace: Sequence[TraceProgram],
    setting: Setting,
    slo: Slo,
    points: Sequence[SweepPoint],
    *,
    refinements: int = 3,
    processes: int = 1,
    **common: Any,
) -> Breaking:
    """Where the setting begins to break `slo`: between two loads of `points`, narrowed by `refinements` bisections."""
    mine = sorted((p for p in points if p.setting == setting), key=lambda p: p.load)
    holds: float | None = None
    breaks: float | None = None
    why = ""
    for point in mine:
        fault = point.broken(slo)
        if fault is not None:
            breaks, why = point.load, fault
            break
        holds = point.load
    if holds is None or breaks is None:
        return Breaking(holds, breaks, why)
    seeds = [report.scenario["seed"] for report in mine[0].reports]
    for _ in range(refinements):
        middle = math.sqrt(holds * breaks)
        (point,) = sweep(trace, [setting], [middle], seeds, processes=processes, **common)
        fault = point.broken(slo)
        if fault is None:
            holds = middle
        else:
            breaks, why = middle, fault
    return Breaking(holds, breaks, why)
