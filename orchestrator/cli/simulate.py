"""`tenuto simulate TRACE…`: what a workload would see on engines that one does not have yet."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import check_output, fail, memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.simulation import Report, TraceProgram
    from orchestrator.simulation.sweep import Setting, Slo, SweepPoint

_LOADS = (0.5, 1.0, 2.0, 4.0)


def simulate(
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE…", help="Trace files (.jsonl, .jsonl.gz, .csv, .db).")],
    engine: Annotated[
        str, typer.Option("--engine", help="A profile (h200-8b, a100-70b, …) or a file of `tenuto bench --fit`.")
    ] = "h200-8b",
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="How many such engines.")] = 1,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="Scheduling policy; with --sweep any number.")
    ] = None,
    retention: Annotated[
        list[str] | None, typer.Option("--retention", help="Retention rule; with --sweep any number.")
    ] = None,
    load: Annotated[
        list[float] | None,
        typer.Option("--load", help="Peak private KV of live programs over memory. Default: arrivals as traced."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws programs and arrivals.")] = 0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="So many seeds, from --seed on.")] = 1,
    programs: Annotated[int | None, typer.Option("--programs", min=1, help="Draw so many programs.")] = None,
    as_traced: Annotated[
        bool, typer.Option("--as-traced", help="The programs and arrivals of the trace itself: draw nothing.")
    ] = False,
    host_gb: Annotated[float | None, typer.Option("--host-gb", min=0, help="Host memory for KV, an engine.")] = None,
    wait_cap: Annotated[float, typer.Option("--wait-cap", min=0, help="Longest pause of a person, in s.")] = 120.0,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Compare settings over loads; find where an SLO breaks.")
    ] = False,
    slo: Annotated[float, typer.Option("--slo", min=0, max=1, help="Share of deadlines to be met.")] = 0.95,
    slo_ttft: Annotated[
        float | None, typer.Option("--slo-ttft", min=0, help="Longest p99 time to first token, s.")
    ] = None,
    slo_completion: Annotated[
        float | None, typer.Option("--slo-completion", min=0, help="Longest p95 completion time, s.")
    ] = None,
    format: Annotated[
        str, typer.Option("--format", help="tenuto, mooncake, azure, otel, journal; auto: by the file.")
    ] = "auto",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Processes side by side.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw completion times, or the sweep, as SVG.")] = None,
) -> None:
    """Replay a trace on simulated engines, through the real scheduler, and say how long programs take."""
    from engine.costs import UnknownProfile, profile
    from orchestrator.retention import UnknownRule
    from orchestrator.scheduling import UnknownPolicy
    from orchestrator.simulation import TraceError
    from orchestrator.simulation.importers import load_traces
    from orchestrator.simulation.sweep import Slo

    if as_traced and programs is not None:
        fail("--as-traced draws nothing: leave --programs out, or draw so many without it")
    for given in load or ():
        if not 0 < given < math.inf:
            fail(f"--load: must be a number above 0, got {given:g}")
    host_bytes = memory(host_gb, "--host-gb")
    check_output(json_file, "--json")
    check_output(plot, "--plot")
    try:
        card = profile(engine)
        trace = load_traces(traces, format)
        common: dict[str, Any] = {
            "engine": card,
            "replicas": replicas,
            "programs": programs,
            "drawn": not as_traced,
            "host_bytes": host_bytes,
            "wait_cap_s": wait_cap,
        }
        command = _Command(trace, common, list(range(seed, seed + seeds)), jobs, json_file, plot)
        if sweep:
            command.sweep(policy, retention, load or list(_LOADS), Slo(slo, slo_ttft, slo_completion))
        else:
            command.simulate(_one(policy, "--policy", "fcfs"), _one(retention, "--retention", "lru"), _load(load))
    except (TraceError, UnknownProfile, UnknownPolicy, UnknownRule) as fault:
        fail(str(fault))


def _one(given: list[str] | None, option: str, default: str) -> str:
    if given is not None and len(given) > 1:
        fail(f"{option}: give one, or compare several with --sweep")
    return given[0] if given else default


def _load(given: list[float] | None) -> float | None:
    if given is not None and len(given) > 1:
        fail("--load: give one, or compare several with --sweep")
    return given[0] if given else None


class _Command:
    """What both ways to run share."""

    def __init__(
        self,
        trace: Sequence[TraceProgram],
        common: dict[str, Any],
        seeds: list[int],
        processes: int,
        json_file: Path | None,
        plot: Path | None,
    ) -> None:
        self._trace, self._common, self._seeds, self._processes = trace, common, seeds, processes
        self._json, self._plot = json_file, plot

    def simulate(self, policy: str, retention: str, load: float | None) -> None:
        from orchestrator.simulation.plot import distributions
        from orchestrator.simulation.sweep import run_jobs

        jobs = [
            {**self._common, "policy": policy, "retention": retention, "load": load, "seed": seed}
            for seed in self._seeds
        ]
        with _progress(len(jobs)) as step:
            reports = run_jobs(self._trace, jobs, processes=self._processes, done=lambda place: step())
        for report in reports:
            show(report)
            _tell_load(load, report)
            _tell_cut([report])
        if self._json:
            self._json.write_text(json.dumps([report.document() for report in reports], indent=1) + "\n")
        if self._plot:
            named = [(f"{policy} + {retention}, seed {seed}", r) for seed, r in zip(self._seeds, reports, strict=True)]
            self._plot.write_text(distributions(named))

    def sweep(self, policies: list[str] | None, retentions: list[str] | None, loads: list[float], slo: Slo) -> None:
        from orchestrator.scheduling import POLICIES
        from orchestrator.simulation.plot import curves
        from orchestrator.simulation.sweep import Setting, best, breaking_load, sweep

        settings = [
            Setting(policy, rule) for policy in policies or sorted(POLICIES) for rule in retentions or ["lru", "tenuto"]
        ]
        loads = sorted(set(loads))
        with _progress(len(settings) * len(loads) * len(self._seeds)) as step:
            points = sweep(
                self._trace, settings, loads, self._seeds,
                processes=self._processes, done=lambda place: step(), **self._common,
            )  # fmt: skip
        _show_sweep(points)
        for point in points[: len(loads)]:
            _tell_load(point.load, min(point.reports, key=lambda report: report.load or math.inf))
        _tell_cut([report for point in points for report in point.reports])
        winners = best(points)
        for load, point in winners.items():
            print(f"load {load:g}: best is {point.setting}, mean {point.mean_s:.4g} s")
        chosen = winners[max(winners)].setting
        breaking = breaking_load(self._trace, chosen, slo, points, processes=self._processes, **self._common)
        if breaking.breaks is None:
            print(f"{chosen}: the SLO holds at every load up to {breaking.holds:g}")
        elif breaking.holds is None:
            print(f"{chosen}: the SLO is broken at load {breaking.breaks:g} already: {breaking.why}")
        else:
            between = f"holds at load {breaking.holds:.3g} and breaks at {breaking.breaks:.3g}"
            print(f"{chosen}: the SLO {between}: {breaking.why}")
        if self._json:
            self._json.write_text(
                json.dumps(_document(points, chosen, breaking.holds, breaking.breaks), indent=1) + "\n"
            )
        if self._plot:
            self._plot.write_text(curves(points))


def _document(
    points: Sequence[SweepPoint], chosen: Setting, holds: float | None, breaks: float | None
) -> dict[str, Any]:
    return {
        "best": str(chosen),
        "slo_holds_at": holds,
        "slo_breaks_at": breaks,
        "points": [
            {
                "policy": point.setting.policy,
                "retention": point.setting.retention,
                "load": point.load,
                "runs": [report.summary() for report in point.reports],
            }
            for point in points
        ],
    }


def show(report: Report) -> None:
    """Print what a user asks before buying GPUs."""
    from rich.console import Console
    from rich.table import Table

    summary = report.summary()
    table = Table()
    for column in ("seconds", "mean", "p50", "p95", "p99"):
        table.add_column(column, justify="left" if column == "seconds" else "right")
    for name, key, values in (
        ("completion", "completion_s", report.seconds),
        ("first token", "ttft_s", report.ttfts),
    ):
        table.add_row(name, *(f"{value:.4g}" if values else "-" for value in summary[key].values()))
    console = Console()
    console.print(_title(report), highlight=False, soft_wrap=True)
    console.print(table)
    attained = "none declared" if report.attainment is None else f"{report.attainment:.1%} met"
    leases = ", ".join(f"{count} {name}" for name, count in report.leases.ended.items() if count) or "none"
    waited = ", ".join(f"{cause} {seconds:.4g} s" for cause, seconds in report.causes.items())
    recomputed = report.recomputed_tokens / report.prompt_tokens if report.prompt_tokens else 0.0
    for line in (
        f"programs     {len(report.programs)}, {summary['failed']} failed; {summary['calls']} LLM calls "
        f"in {report.makespan_s:.5g} s",
        f"deadlines    {attained}; goodput {report.goodput:.4g} programs/s",
        f"KV           {report.hit_rate:.1%} of prompt tokens found, {recomputed:.1%} computed again; "
        f"{report.preemptions} preemptions; engines busy {report.busy_share:.1%}",
        f"leases       {leases}; {report.leases.wasted_share:.1%} of their byte-seconds unused",
        f"time went to {waited}",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _title(report: Report) -> str:
    scenario = report.scenario
    return (
        f"{scenario['replicas']} x {scenario['engine']}, {scenario['policy']} + {scenario['retention']}, "
        f"seed {scenario['seed']}, arrivals {1 / report.scale:.4g} times as fast"
        + (f", load {report.load:.3g}" if report.load is not None else "")
    )


def _tell_load(asked: float | None, report: Report) -> None:
    """Say so if the programs do not reach the load that was asked for."""
    if asked and report.load is not None and report.load < 0.9 * asked:
        print(f"note: {len(report.programs)} programs reach load {report.load:.3g} at most, not {asked:g}: draw more")


def _tell_cut(reports: Sequence[Report]) -> None:
    """Say so if outputs are shorter than in the trace."""
    from orchestrator.simulation.workload import MAX_TOKENS

    cut = sum(report.cut_calls for report in reports)
    if cut:
        calls = sum(len(program.calls) for report in reports for program in report.programs)
        print(
            f"note: {cut} of {calls} LLM calls ended before their traced output did: a call generates at most "
            f"{MAX_TOKENS:,} tokens, and no more than the engine's context has room for"
        )


def _show_sweep(points: Sequence[SweepPoint]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="completion and first token in seconds, means over seeds")
    for column in ("setting", "load", "mean", "p99", "ttft p99", "deadlines"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for point in points:
        attained = "" if point.attainment is None else f"{point.attainment:.1%}"
        table.add_row(
            str(point.setting), f"{point.load:g}", f"{point.mean_s:.4g}", f"{point.p99_s:.4g}",
            f"{point.ttft_p99_s:.3g}", attained,
        )  # fmt: skip
    Console().print(table)


class _progress:
    """A progress bar on stderr while it is entered; gives a function that counts one run."""

    def __init__(self, runs: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("simulating", total=runs)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda: self._bar.advance(self._task)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
