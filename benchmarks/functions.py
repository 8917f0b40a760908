"""Function calls: what one costs, how early it starts, how near a plan comes to its bound, and what may never happen.

`python -m benchmarks.functions --json FILE [--quick] [--seed N]`

All in one process on the production runtime; tools are the server's own (in process, over HTTP, MCP and in processes of
their own). Dispatch counts everything from a program's submission to its end; peers run the same no-op calls with their
own message handling in the same run. Streams run in real time, conflicting state in virtual time.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from benchmarks import function_cancel, function_dispatch, function_peers, function_state, function_streams
from benchmarks.common import Figure, conditions, finish, parser, percentile
from benchmarks.function_plans import malformed, plan, read, silent_drops
from benchmarks.function_server import Line, PlannerEngine, bench, planned
from dag.plan import PlannedCall
from orchestrator.cli.server import settle_interpreter
from tenuto import tool

HANG_S = 5.0


@tool(effects="read", share=False, name="search")
async def search(query: str = "", k: int = 0, given: int = 0) -> str:
    return query


class Hang(Exception):
    """A plan took longer than HANG_S."""


@contextmanager
def hang_is_told() -> Iterator[None]:
    """Raises Hang inside if it takes too long, even if nothing yields."""

    def told(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, told)
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def splits(plans: int, seed: int) -> dict[str, int]:
    """Every cut of each plan into two pieces, every character alone, and a hundred cuts into many pieces."""
    rng = Random(f"splits:{seed}")
    found = {"plans": plans, "splits": 0, "mismatches": 0, "calls": 0}
    for _ in range(plans):
        text = plan(rng, rng.randrange(3, 8))
        whole = read(text)
        found["calls"] += sum(isinstance(event, PlannedCall) for event in whole)
        cuts: list[tuple[int, ...]] = [(cut,) for cut in range(1, len(text))]
        cuts.append(tuple(range(1, len(text))))
        cuts += [tuple(sorted(rng.sample(range(1, len(text)), rng.randrange(2, 20)))) for _ in range(100)]
        for cut in cuts:
            found["splits"] += 1
            found["mismatches"] += read(text, *cut) != whole
    return found


async def broken_plans(plans: int, seed: int) -> dict[str, int]:
    """Malformed plans: read alone (nothing may be dropped silently), then run by the runtime (nothing may hang)."""
    rng = Random(f"malformed:{seed}")
    texts = [malformed(rng) for _ in range(plans)]
    found = {"plans": plans, "hangs": 0, "silent_drops": 0}
    for text in texts:
        try:
            with hang_is_told():
                found["silent_drops"] += bool(silent_drops(text, read(text)))
        except Hang:
            found["hangs"] += 1
    engine = PlannerEngine({str(i): [Line(0.0, text)] for i, text in enumerate(texts)})
    async with bench([search], engine=engine) as server:
        for index in range(plans):
            try:
                with hang_is_told():
                    await server.run(planned(str(index), ["search"]))
            except Hang:
                found["hangs"] += 1
    return found


def measure(quick: bool, seed: int) -> tuple[list[Figure], dict[str, Any]]:
    """All figures; `quick` measures the same things less often."""
    detail: dict[str, Any] = {}
    few = 5 if quick else 20
    bare = asyncio.run(function_dispatch.bare(few))
    full = asyncio.run(function_dispatch.full(few))
    read_too = asyncio.run(function_dispatch.full(few, follow=True))
    hop = asyncio.run(function_dispatch.hops(3 if quick else 10))
    detail["dispatch"] = {
        "bare": function_dispatch.summary(bare),
        "full": function_dispatch.summary(full),
        "full_and_followed": function_dispatch.summary(read_too),
        "hop": function_dispatch.summary(hop),
    }
    detail["peers"] = peers = asyncio.run(function_peers.measured(1 if quick else 5))
    capped, detail["capped"] = asyncio.run(function_dispatch.capped(160 if quick else 800))
    lost, looked = asyncio.run(function_dispatch.siblings(seed))
    detail["siblings_looked_at"] = looked

    silent = asyncio.run(function_streams.silent(5 if quick else 40))
    first = asyncio.run(function_streams.first_tools(20 if quick else 200))
    rng = Random(f"graphs:{seed}")
    units = {"steady": 0.37, "fast": 0.037}
    makespans: dict[str, list[float]] = {}
    for pace, unit_s in units.items():
        widths = (2, 3) if quick and pace == "steady" else (2, 3, 4, 5)
        plans = [(f"{pace} branch {width}", function_streams.branches(width, unit_s)) for width in widths]
        graphs = (0 if pace == "steady" else 2) if quick else 4 if pace == "steady" else 12
        plans += [(f"{pace} graph {i}", function_streams.random_graph(rng, 10, unit_s)) for i in range(graphs)]
        repeats = 1 if quick or pace == "steady" else 3
        plans = [(f"{name}, {i}", steps) for name, steps in plans for i in range(repeats)]
        makespans[pace] = asyncio.run(function_streams.makespans(plans, unit_s))
        detail[f"makespan_{pace}"] = dict(zip([name for name, _ in plans], makespans[pace], strict=True))
    detail["start"] = {"silent_median_s": statistics.median(silent), "first_median_s": statistics.median(first)}
    detail["early_start"] = gains = asyncio.run(function_streams.early_gains(1 if quick else 3))

    detail["splits"] = cut = splits(12 if quick else 200, seed)
    detail["malformed"] = broken = asyncio.run(broken_plans(500, seed))
    detail["state"] = state = function_state.mismatches(150 if quick else 1000, seed)
    cancels: dict[str, list[float]] = {}
    for kind in function_cancel.KINDS:
        repeats = (3 if kind == "process" else 10) if quick else (30 if kind == "process" else 100)
        cancels[kind] = asyncio.run(function_cancel.latencies(kind, repeats))
    detail["cancel"] = {
        kind: {"p50_s": statistics.median(s), "p99_s": percentile(s, 0.99), "samples": len(s)}
        for kind, s in cancels.items()
    }

    figures = [
        Figure("dispatch_s_bare", statistics.median(bare), "<=", 60e-6),
        Figure("dispatch_s_full", statistics.median(full), "<=", 150e-6),
        Figure("hop_s", statistics.median(hop), "<=", 200e-6),
        Figure("ready_to_start_silent_planner_p99_s", percentile(silent, 0.99), "<=", 5e-3),
        Figure("first_tool_after_close_s", percentile(first, 0.99), "<=", 2e-3),
        Figure("makespan_over_bound_steady", statistics.mean(makespans["steady"]), "<=", 1.005),
        Figure("makespan_over_bound_fast", statistics.mean(makespans["fast"]), "<=", 1.02),
        Figure("chunk_split_mismatches", cut["mismatches"], "==", 0),
        Figure("malformed_plans", broken["plans"], ">=", 500),
        Figure("malformed_hangs", broken["hangs"], "==", 0),
        Figure("malformed_silent_drops", broken["silent_drops"], "==", 0),
        Figure("capped_800_over_bound", capped, "<=", 1.03),
        Figure("siblings_lost", lost, "==", 0),
        Figure("cancel_p99_s", max(row["p99_s"] for row in detail["cancel"].values()), "<=", 0.05),
        Figure("conflicting_state_mismatches", state["mismatches"], "==", 0),
    ]
    for package, row in peers.items():
        if "median_s" in row:
            name = package.removesuffix("-slim").replace("-", "_")
            figures.append(Figure(f"dispatch_vs_{name}", row["median_s"] / statistics.median(bare)))
    for row in gains:
        share = round(100 * row["calls_emitted_before_last_share"])
        figures.append(Figure(f"early_start_over_waiting_calls_in_last_{share}_percent", row["early_over_waiting"]))
    return figures, detail


def main() -> None:
    args = parser("functions", __doc__ or "").parse_args()
    at_start = conditions(args.seed, args.quick)
    settle_interpreter()
    figures, detail = measure(args.quick, args.seed)
    finish("functions", figures, args=args, at_start=at_start, detail=detail)


if __name__ == "__main__":
    main()
