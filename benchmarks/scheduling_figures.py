"""The scheduling benchmark's figures from its runs: ratios of means over seeds, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import scheduling_cells as cells
from benchmarks.common import Figure
from benchmarks.scheduling_cells import Plan
from benchmarks.scheduling_micro import Micro
from benchmarks.scheduling_runs import Cell, Result, Setting, Store

SLO_SCALE = 5.0
"""A staged program should end within so many times its time on an idle engine (the mean at the lowest rate)."""
_BOOTSTRAP = 1000
Pick = Callable[[Result], float]


class Runs:
    """Results by cell and setting, over the seeds that have both sides of a comparison."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self._store = plan, store
        self.detail: dict[str, Any] = {}

    def pairs(self, of: Callable[[int], Cell], *settings: Setting) -> list[tuple[Result, ...]]:
        """For each seed with all of them, the results of `settings`."""
        found = []
        for seed in self.plan.seeds:
            results = [self._store.get(of(seed), setting) for setting in settings]
            if all(result is not None for result in results):
                found.append(tuple(result for result in results if result is not None))
        return found

    def ratio(self, name: str, of: Callable[[int], Cell], above: Setting, below: Setting, pick: Pick) -> float:
        """Mean of `pick` over seeds under `above` / under `below`; its 95 % interval goes to the detail."""
        found = [(pick(a), pick(b)) for a, b in self.pairs(of, above, below)]
        return self._stated(name, found, lambda some: _mean(a for a, _ in some) / max(1e-12, _mean(b for _, b in some)))

    def gap(self, name: str, of: Callable[[int], Cell], ours: Setting, start: Setting, end: Setting) -> float:
        """Share of (start - end) in mean completion that `ours` closes."""
        found = [(o.mean_s, s.mean_s, e.mean_s) for o, s, e in self.pairs(of, ours, start, end)]

        def share(some: Sequence[tuple[float, ...]]) -> float:
            start_s, end_s = _mean(s for _, s, _ in some), _mean(e for _, _, e in some)
            if start_s < 1.01 * end_s:
                return math.nan  # memory was not short: there is no gap to close
            return (start_s - _mean(o for o, _, _ in some)) / (start_s - end_s)

        return self._stated(name, found, share)

    def _stated(
        self, name: str, found: Sequence[tuple[float, ...]], of: Callable[[Sequence[tuple[float, ...]]], float]
    ) -> float:
        if not found:
            return math.nan
        rng = Random(name)
        again = (of([rng.choice(found) for _ in found]) for _ in range(_BOOTSTRAP if len(found) > 1 else 0))
        drawn = sorted(value for value in again if not math.isnan(value))
        interval = [drawn[int(q * (len(drawn) - 1))] for q in (0.025, 0.975)] if drawn else None
        value = of(found)
        self.detail[name] = {"value": value, "interval_95": interval, "seeds": len(found)}
        return value


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _geomean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else math.nan


def _worst(values: Sequence[float], of: Callable[..., float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return of(known) if known else math.nan


def figures_of(plan: Plan, store: Store, micro: Micro) -> tuple[list[Figure], dict[str, Any]]:
    """Every figure that the kept runs allow, and the detail; a figure without runs is left out."""
    runs = Runs(plan, store)
    figures = [*_agents(runs), *_host(runs), *_tails(runs), *_declared(runs), *_mixed(runs), *_robust(runs)]
    figures += [
        Figure("overtaking_bound_violations", float(_violations(runs)), "==", 0),
        Figure("scheduling_event_s", micro.event_s, "<=", 3e-5),
        Figure("random_schedules", float(micro.schedules), ">=", 10_000),
        Figure("deadlocks_or_leaks", float(micro.faults) if micro.schedules else math.nan, "==", 0),
    ]
    return [figure for figure in figures if not math.isnan(figure.value)], runs.detail


def _of(plan: Plan, trace: str, load: float, disturbance: str = "") -> Callable[[int], Cell]:
    return lambda seed: plan.cell(trace, load, seed, disturbance)


def _named(trace: str) -> str:
    return Path(trace).name.removesuffix(".gz").removesuffix(".jsonl")


def _mean_s(result: Result) -> float:
    return result.mean_s


def _agents(runs: Runs) -> list[Figure]:
    """Device memory only."""
    plan, figures = runs.plan, []
    for load, gap_goal, paper_goal, paper_mean, public_mean, oracle_goal in (
        (2.0, 0.90, 1.15, 1.6, 1.8, 1.05),
        (4.0, 0.80, 1.25, 1.5, 2.0, 1.20),
    ):
        gaps, paper, public, oracle, over_fcfs = [], [], [], [], []
        for trace in plan.agents:
            of, name = _of(plan, trace, load), f"{_named(trace)} load {load:g}"
            gaps.append(runs.gap(f"gap {name}", of, cells.OURS, cells.FCFS, cells.INFINITE))
            for rival, label in ((cells.PAPER, "continuum paper"), (cells.PUBLIC, "continuum public")):
                runs.gap(f"gap of {label} {name}", of, rival, cells.FCFS, cells.INFINITE)
            paper.append(runs.ratio(f"vs continuum paper {name}", of, cells.PAPER, cells.OURS, _mean_s))
            public.append(runs.ratio(f"vs continuum public {name}", of, cells.PUBLIC, cells.OURS, _mean_s))
            oracle.append(runs.ratio(f"over oracle {name}", of, cells.OURS, cells.ORACLE, _mean_s))
            over_fcfs.append(runs.ratio(f"vs fcfs {name}", of, cells.FCFS, cells.OURS, _mean_s))
            reached = [one.load for (one,) in runs.pairs(of, cells.INFINITE)]
            runs.detail[f"load reached {name}"] = reached
        at = f"load{load:g}"
        figures += [
            Figure(f"gap_closed_{at}_worst_trace", _worst(gaps, min), ">=", gap_goal),
            Figure(f"jct_vs_continuum_paper_{at}_worst_trace", _worst(paper, min), ">=", paper_goal),
            Figure(f"jct_vs_continuum_paper_{at}_geomean", _geomean(paper), ">=", paper_mean),
            Figure(f"jct_vs_continuum_public_{at}_geomean", _geomean(public), ">=", public_mean),
            Figure(f"jct_over_oracle_{at}", _geomean(oracle), "<=", oracle_goal),
            Figure(f"jct_vs_fcfs_{at}_geomean", _geomean(over_fcfs)),
        ]
    light = [
        runs.ratio(f"vs fcfs {_named(trace)} load 0.5", _of(plan, trace, 0.5), cells.FCFS, cells.OURS, _mean_s)
        for trace in plan.agents
    ]
    figures.append(Figure("jct_vs_fcfs_load05", _geomean(light), ">=", 0.998))
    shares, wasted = [], []
    for trace in plan.agents:
        found = runs.pairs(_of(plan, trace, 2.0), cells.OURS)
        if found:
            shares.append(_mean(one.recomputed_share for (one,) in found))
            wasted.append(_mean(one.wasted_share for (one,) in found))
    figures.append(Figure("recomputed_share_load2", _worst(shares, max), "<=", 0.03))
    figures.append(Figure("wasted_lease_share_load2", _worst(wasted, max), "<=", 0.12))
    return figures


def _host(runs: Runs) -> list[Figure]:
    """A host tier on both sides: as large as the excess demand, or a quarter of it."""
    plan, agents, small, recomputed = runs.plan, [], [], []
    for trace in plan.agents:
        for load in (2.0, 4.0):
            name = f"host {_named(trace)} load {load:g}"
            of = _of(plan, trace, load)
            agents.append(runs.ratio(f"vs fcfs {name}", of, cells.FCFS_HOST, cells.OURS_HOST, _mean_s))
        name = f"small host {_named(trace)} load 4"
        of = _of(plan, trace, 4.0)
        small.append(runs.ratio(f"vs fcfs {name}", of, cells.FCFS_SMALL_HOST, cells.OURS_SMALL_HOST, _mean_s))
        found = runs.pairs(_of(plan, trace, 2.0), cells.OURS_HOST)
        if found:
            recomputed.append(_mean(one.recomputed_share for (one,) in found))
    mixed = [
        runs.ratio(f"vs fcfs host {_named(t)} load 4", _of(plan, t, 4.0), cells.FCFS_HOST, cells.OURS_HOST, _mean_s)
        for t in plan.mixed
    ]
    return [
        Figure("jct_vs_fcfs_with_host_agents_worst", _worst(agents, min), ">=", 1.0),
        Figure("jct_vs_fcfs_with_host_mixed_load4", _geomean(mixed), ">=", 1.3),
        Figure("jct_vs_fcfs_small_host_load4", _geomean(small), ">=", 2.5),
        Figure("recomputed_share_load2_with_host", _worst(recomputed, max), "<=", 0.005),
    ]


def _tails(runs: Runs) -> list[Figure]:
    """p99 of completion (geometric mean over traces) and of the time to first token (worst trace), over fcfs."""
    plan = runs.plan
    figures = []
    for load, goal in ((1.0, 1.0), (2.0, 0.85), (4.0, 0.5)):
        tails = [
            runs.ratio(f"p99 over fcfs {_named(t)} load {load:g}", _of(plan, t, load), cells.OURS, cells.FCFS, _p99_s)
            for t in plan.agents
        ]
        figures.append(Figure(f"p99_jct_over_fcfs_load{load:g}", _geomean(tails), "<=", goal))
    for load, goal in ((2.0, 1.2), (4.0, 3.0)):
        first = [
            runs.ratio(f"ttft p99 over fcfs {_named(t)} {load:g}", _of(plan, t, load), cells.OURS, cells.FCFS, _ttft_s)
            for t in plan.agents
        ]
        figures.append(Figure(f"p99_ttft_over_fcfs_load{load:g}_worst", _worst(first, max), "<=", goal))
    hosts = [
        runs.ratio(f"host ttft {_named(t)} {load:g}", _of(plan, t, load), cells.OURS_HOST, cells.FCFS_HOST, _ttft_s)
        for t in (*plan.agents, *plan.mixed)
        for load in (2.0, 4.0)
    ]
    figures.append(Figure("p99_ttft_over_fcfs_with_host_worst", _worst(hosts, max), "<=", 1.2))
    return figures


def _p99_s(result: Result) -> float:
    return result.p99_s


def _ttft_s(result: Result) -> float:
    return result.ttft_p99_s


def _declared(runs: Runs) -> list[Figure]:
    """Graphs that are declared whole."""
    plan, quick = runs.plan, runs.plan.quick
    few = Setting("fcfs", "lru", max_running=cells.CHAIN_SLOTS)
    ours = Setting("tenuto", "tenuto", max_running=cells.CHAIN_SLOTS)

    def chains(seed: int) -> Cell:
        return plan.made("chains", 0.0, seed, cells.CHAINS)

    def maps(seed: int) -> Cell:
        return plan.made("mapreduce", cells.MAP_REDUCE_RATE, seed, 8 if quick else 20)

    def many(seed: int) -> Cell:
        return plan.made("mapreduce", cells.MAP_REDUCE_SATURATED, seed, 10 if quick else 60)

    capped = Setting("fcfs", "lru", engine_calls=cells.CAPPED_CALLS)
    figures = [
        Figure("chains_8_slots_mean_vs_fcfs", runs.ratio("chains mean", chains, few, ours, _mean_s), ">=", 1.55),
        Figure(
            "chains_8_slots_worst_program_over_fcfs",
            runs.ratio("chains worst program", chains, ours, few, lambda result: max(result.completion_s)),
            "<=",
            1.1,
        ),
        Figure(
            "chains_8_slots_makespan_over_fcfs",
            runs.ratio("chains makespan", chains, ours, few, lambda result: result.makespan_s),
            "<=",
            1.1,
        ),
        Figure("mapreduce_vs_capped", runs.ratio("map-reduce capped", maps, capped, cells.OURS, _mean_s), ">=", 4.0),
        Figure("mapreduce_vs_uncapped", runs.ratio("map-reduce", maps, cells.FCFS, cells.OURS, _mean_s), ">=", 1.0),
        Figure(
            "mapreduce_saturated_vs_uncapped",
            runs.ratio("map-reduce saturated", many, cells.FCFS, cells.OURS, _mean_s),
            ">=",
            1.6,
        ),
    ]
    return [*figures, *_chat(runs, capped), *_sql(runs)]


def _chat(runs: Runs, capped: Setting) -> list[Figure]:
    """Chat + map-reduce: on each of three measures against the best baseline for that measure."""
    plan = runs.plan

    def mixed(seed: int) -> Cell:
        return plan.made("mixed", cells.MIXED_RATE, seed, 98)

    measures: dict[str, Pick] = {
        "chat s/token": lambda result: result.by_workflow["chat"]["s_per_token"],
        "chat ttft": lambda result: result.by_workflow["chat"]["ttft_s"],
        "map-reduce s": lambda result: result.by_workflow["mapreduce"]["mean_s"],
    }
    over = [
        max(
            runs.ratio(f"{name} over {rival.policy} {rival.engine_calls}", mixed, cells.OURS, rival, pick)
            for rival in (cells.FCFS, capped, cells.PLAS)
        )
        for name, pick in measures.items()
    ]
    return [Figure("mixed_worst_over_best_baseline", _worst(over, max), "<=", 1.0)]


def _sql(runs: Runs) -> list[Figure]:
    """Staged text-to-SQL: p95 near saturation, and the highest rate at which 95 % meet the SLO."""
    plan = runs.plan
    ours = Setting("tenuto", "tenuto", shared_prefix=True)
    urgency = Setting("urgency", "lru", shared_prefix=True)

    def at(rate: float) -> Callable[[int], Cell]:
        return lambda seed: plan.made("sql", rate, seed, 60)

    idle = runs.pairs(at(cells.SQL_RATES[0]), cells.FCFS)
    slo_s = SLO_SCALE / 2 * _mean(one.mean_s for (one,) in idle) if idle else math.nan

    def sustained(setting: Setting) -> float:
        """The rate at which attainment falls to 95 %, between measured rates by a straight line."""
        before: tuple[float, float] | None = None
        best = 0.0
        for rate in cells.SQL_RATES:
            found = runs.pairs(at(rate), setting)
            if not found:
                return math.nan
            seconds = [s for (one,) in found for s in one.completion_s]
            share = sum(s <= slo_s for s in seconds) / len(seconds)
            if share < 0.95:
                if before is None:
                    return rate
                known, at_share = before
                return known + (rate - known) * (at_share - 0.95) / max(1e-9, at_share - share)
            before, best = (rate, share), rate
        return best

    def near(sustained_s: float) -> float:
        """Near saturation: the last rate that is at most a quarter above what a side sustains."""
        return max((rate for rate in cells.SQL_RATES if rate <= sustained_s * 1.25), default=cells.SQL_RATES[0])

    fcfs_s, ours_s, urgency_s = sustained(cells.FCFS), sustained(ours), sustained(urgency)
    without, with_it = near(fcfs_s), near(urgency_s)
    runs.detail["sql rates at 95 % SLO"] = {"fcfs": fcfs_s, "tenuto": ours_s, "urgency": urgency_s, "slo_s": slo_s}
    p95: Pick = lambda result: result.p95_s  # noqa: E731
    return [
        Figure(
            "staged_sql_p95_vs_fcfs",
            runs.ratio(f"p95 sql at {without:g}/s", at(without), cells.FCFS, ours, p95),
            ">=",
            1.5,
        ),
        Figure("staged_sql_throughput_at_slo_vs_fcfs", ours_s / fcfs_s if fcfs_s else math.nan, ">=", 1.5),
        Figure(
            "staged_sql_p95_vs_urgency",
            runs.ratio(f"p95 urgency sql at {with_it:g}/s", at(with_it), urgency, ours, p95),
            ">=",
            1.0,
        ),
    ]


def _mixed(runs: Runs) -> list[Figure]:
    plan = runs.plan
    gaps = [
        runs.gap(f"plas to srpt {_named(t)}", _of(plan, t, 2.0), cells.OURS, cells.PLAS, cells.SRPT) for t in plan.mixed
    ]
    return [Figure("plas_to_srpt_gap_closed", _worst(gaps, min), ">=", 0.65)]


def _robust(runs: Runs) -> list[Figure]:
    plan = runs.plan
    over = [
        runs.ratio(f"{how} {_named(t)}", _of(plan, t, 2.0, how), cells.OURS, cells.FCFS, _mean_s)
        for t in plan.agents
        for how in cells.DISTURBANCES
    ]
    return [Figure("robust_worst_over_fcfs", _worst(over, max), "<=", 1.01)]


def _violations(runs: Runs) -> int:
    total = 0
    for cell, settings in runs.plan.groups().items():
        for setting in settings:
            if setting.policy == "tenuto":
                found = runs._store.get(cell, setting)
                total += found.violations if found is not None else 0
    return total
