"""Do programs end sooner? `python -m benchmarks.scheduling --trace FILE... [--engine h200-8b] [--seeds 10] [--jobs 2]`.

Owns the comparisons and the figures; each run is kept in `--runs FILE`, so that a sweep can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import simulation
from benchmarks.common import ROOT, conditions, finish, parser
from benchmarks.scheduling_cells import Plan
from benchmarks.scheduling_figures import figures_of
from benchmarks.scheduling_micro import Micro, measure
from benchmarks.scheduling_runs import Store, code_key, run_all
from orchestrator.simulation.lines import TraceError

METHOD = """\
Every run is the production runtime on a simulated engine ({engine}: roofline constants, nothing ran on hardware).
Load = peak private KV of live programs under fcfs in infinite memory / device memory, calibrated for each seed to
within 8 %. Programs are drawn with replacement from the measured half of each file (a hash of the name; constants were
chosen on the other half and on other seeds), private streams renamed, Poisson arrivals; waits no tool explains are cut
to 120 s. Gap = share of (fcfs + LRU - infinite memory) in mean completion that a policy closes. A trace's figure is the
ratio of means over seeds; intervals (95 %, bootstrap over seeds) are in `detail`. Prefix caching is on everywhere.
Finite overloaded traces depend on the number of programs: 1.9 times those whose peaks together are the load."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what has no result yet, and report; 2 where a trace cannot be read."""
    args_parser = parser("scheduling", __doc__ or "")
    args_parser.add_argument(
        "--trace", type=Path, nargs="+", default=[], help="agent traces; one named *mixed* counts apart"
    )
    args_parser.add_argument("--engine", default="h200-8b")
    args_parser.add_argument("--seeds", type=int, default=10)
    args_parser.add_argument("--jobs", type=int, default=1, help="processes")
    args_parser.add_argument("--runs", type=Path, default=ROOT / ".scheduling-runs.jsonl", help="where runs are kept")
    args_parser.add_argument(
        "--any-code", action="store_true", help="count kept runs of other versions of the code too"
    )
    args_parser.add_argument("--report-only", action="store_true", help="run nothing: figures of what is kept")
    args_parser.add_argument("--programs", choices=("measured", "tuning", "all"), default="measured")
    args_parser.add_argument("--only", default="", help="only cells whose group begins with this")
    args = args_parser.parse_args(argv)
    at_start = conditions(args.seed, args.quick, [path for path in args.trace if path.exists()])
    plan = _plan(args)
    store = Store(args.runs, code_key(), any_code=args.any_code)
    console = Console(stderr=True)
    try:
        if not args.report_only:
            groups = plan.groups(args.only)
            run_all(
                groups, args.engine, store, jobs=args.jobs, progress=lambda n, of: console.print(f"group {n} of {of}")
            )
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    micro = Micro() if args.only else measure(args.seed, quick=args.quick)
    figures, detail = figures_of(plan, store, micro)
    if not args.only:
        simulator, detail["simulator"] = simulation.figures(args.seed, quick=args.quick)
        figures += simulator
    detail["method"] = METHOD.format(engine=args.engine)
    detail["code"] = sorted(store.codes | {store.code})
    finish("scheduling", figures, args=args, at_start=at_start, detail=detail)
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    measured = {"measured": True, "tuning": False, "all": None}[args.programs]
    first = 1000 * (args.seed + 1)  # seeds below are for tuning
    seeds = tuple(range(first, first + (1 if args.quick else args.seeds)))
    agents = tuple(str(path) for path in args.trace if "mixed" not in path.name)
    mixed = tuple(str(path) for path in args.trace if "mixed" in path.name)
    return Plan(agents, mixed, measured, seeds, quick=args.quick)


if __name__ == "__main__":
    sys.exit(main())
