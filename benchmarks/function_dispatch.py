"""What one function call costs: 1,000 in parallel, 1,000 in a chain, 800 under a cap; siblings of failed calls.

Used by `benchmarks.functions`. A call's cost is the time from the submission of its program (validation included) to
the program's end, by the number of calls: everything that the runtime does for it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import statistics
import tempfile
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from benchmarks.common import percentile
from benchmarks.function_server import Line, PlannerEngine, bench, function, planned, program
from orchestrator.limits import Limits
from tenuto import Retry, tool
from tenuto.wire import Reference

CALLS = 1000
CAP = 16
CAPPED_S = 0.2


@tool(effects="read", share=False)
async def noop(x: int) -> int:
    return x


@tool(
    effects="write",
    effect_key="item:{x}",
    idempotent=True,
    timeout=30.0,
    queue_timeout=60.0,
    total_timeout=120.0,
    max_running=256,
    retries=Retry(attempts=3, on=("ConnectionError",)),
)
async def careful(x: int) -> int:
    return x


@tool(effects="read", share=False, max_running=CAP)
async def slow(x: int) -> int:
    await asyncio.sleep(CAPPED_S)
    return x


@tool(effects="read", share=False, timeout=0.2)
async def fragile(x: int, how: str) -> int:
    if how == "raise":
        raise ValueError("it fails")
    if how == "hang":
        await asyncio.sleep(3600)
    if how == "lie":
        return "no number"  # type: ignore[return-value]
    await asyncio.sleep(0.001)
    return x


async def bare(runs: int) -> list[float]:
    """Seconds a call: no-op reads, nothing kept on disk."""
    async with bench([noop]) as server:
        return [await _parallel(server, "noop", {}) for _ in range(runs + 2)][2:]


async def full(runs: int, *, follow: bool = False) -> list[float]:
    """Seconds a call with everything on: journal with intents, keyed writes, three timeouts, four caps, retries by
    name, idempotency keys. `follow`: and a reader of the program's events, who gets them as wire types."""
    with tempfile.TemporaryDirectory() as folder:
        async with bench([careful], journal=Path(folder) / "journal.db") as server:
            options = {"effect": "write", "idempotent": True}
            return [await _parallel(server, "careful", options, follow=follow) for _ in range(runs + 2)][2:]


async def _parallel(server: Any, tool_name: str, options: dict[str, Any], *, follow: bool = False) -> float:
    keys = [{"effect_key": f"item:{i}"} if options else {"effect": "read"} for i in range(CALLS)]
    calls = [function(f"c{i}", tool_name, {"x": i}, **options, **keys[i]) for i in range(CALLS)]
    submission = program(calls)
    gc.collect()
    began = perf_counter()
    summary, _ = await server.runtime.submit(submission, tenant="default")
    if follow:
        async for _ in server.runtime.events(summary.id, tenant="default"):
            pass
    else:
        await server.ended(summary.id, submission.graph.outputs)
    return (perf_counter() - began) / CALLS


async def hops(runs: int) -> list[float]:
    """Seconds a hop of a chain of no-op calls, each reading the one before."""
    async with bench([noop]) as server:
        found: list[float] = []
        for _ in range(runs + 1):
            calls = [
                function(f"c{i}", "noop", {"x": Reference(variable=f"c{i - 1}") if i else 0}, effect="read")
                for i in range(CALLS)
            ]
            gc.collect()
            _, accepted_s, ended_s = await server.run(program(calls))
            found.append((ended_s - accepted_s) / CALLS)
        return found[1:]


async def capped(calls: int = 800) -> tuple[float, dict[str, float]]:
    """One turn of a model with 800 calls of a tool that 16 may run at once: its makespan over the ideal one."""
    message = json.dumps([{"name": "slow", "arguments": {"x": i}} for i in range(calls)])
    engine = PlannerEngine({"go": [Line(0.0, message)]})
    async with bench([slow], engine=engine) as server:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        id, _, ended_s = await server.run(planned("go", ["slow"], format="tool_calls"))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        view = server.view(id)
        done = sum(call.state == "ended" for call in view.call_views)
        took_s = ended_s - engine.written["go"][0]
    assert done == calls + 1, f"{done} of {calls} calls ended"
    bound_s = -(-calls // CAP) * CAPPED_S
    return took_s / bound_s, {"seconds": took_s, "bound_s": bound_s, "memory_growth_kib": float(after - before)}


async def siblings(seed: int) -> tuple[int, int]:
    """Results lost because siblings failed, and siblings looked at: k of 100 fail, for k = 1, 10, 50, 99."""
    lost = looked = 0
    async with bench([fragile], limits=Limits()) as server:
        for failing in (1, 10, 50, 99):
            rng = Random(f"{seed}:{failing}")
            bad = set(rng.sample(range(100), failing))
            how = ["" if i not in bad else rng.choice(("raise", "hang", "lie")) for i in range(100)]
            calls = [function(f"c{i}", "fragile", {"x": i, "how": how[i]}, effect="read") for i in range(100)]
            id, _, _ = await server.run(program(calls, [call.id for call in calls]))
            outputs = server.view(id).outputs
            for i in range(100):
                if i not in bad:
                    looked += 1
                    lost += outputs[f"c{i}"].value != i
                elif outputs[f"c{i}"].error is None:
                    raise AssertionError(f"call {i} ({how[i]}) did not fail")
    return lost, looked


def summary(seconds: list[float]) -> dict[str, float]:
    """Spread of one figure's runs."""
    return {
        "median_s": statistics.median(seconds),
        "best_s": min(seconds),
        "p90_s": percentile(seconds, 0.9),
        "runs": float(len(seconds)),
    }
