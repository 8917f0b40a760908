"""What the orchestrator itself costs: seconds per dependent call, calls per second; the engine answers at once.

`python -m benchmarks.overhead --json FILE [--quick] [--seed N]`

- in process: the SDK's client over the in-process transport submits a declared chain; each call starts when the one
  before it has written its variable. Cost of a call = time between two `call.ended` events of the chain.
- over HTTP: a server process of its own, 100 live programs of ten clients, each program an open graph that its client
  extends by one call when it has read the value of the last (the dearest case: every step crosses HTTP twice), with a
  pause of a second between steps. Cost of a hop = time from asking for one more call to having its value, as the
  client sees it: its own work is inside.
- sustained: 100 places, each always with a declared program of 40 calls, for some seconds; every call is journaled.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import graphs
from benchmarks.common import ROOT, Figure, conditions, finish, parser, percentile
from benchmarks.null_engine import NullEngine
from orchestrator.app import assemble, create_app
from orchestrator.cli.server import settle_interpreter
from orchestrator.config import load
from tenuto import AsyncClient
from tenuto.testing import ASGITransport
from tenuto.wire import (
    EventKind,
    Graph,
    GraphExtension,
    InputVariable,
    LLMCall,
    Message,
    ProgramSubmission,
    TextPart,
    VariablePart,
)

LIVE_PROGRAMS = 100
CLIENTS = 10
"""Client objects that share the programs: an agent process rarely runs a hundred."""
PAUSE_S = 1.0
"""Mean time a client thinks between two steps: 100 programs then ask for about 100 calls a second."""


def call(name: str, reads: tuple[str, ...]) -> LLMCall:
    """An LLM call whose prompt has a constant part and holds `reads`."""
    holes = tuple(VariablePart(variable=variable) for variable in reads)
    return LLMCall(id=name, messages=(Message(role="user", parts=(TextPart(text="Go on from: "), *holes)),))


def chain(length: int) -> ProgramSubmission:
    """A declared chain: every call reads the variable of the one before."""
    calls = [call("c0", ("start",))] + [call(f"c{i}", (f"c{i - 1}",)) for i in range(1, length)]
    graph = Graph(inputs={"start": InputVariable(value="x")}, calls=tuple(calls), outputs=(f"c{length - 1}",))
    return ProgramSubmission(workflow="chain", graph=graph)


def lattice(width: int, depth: int) -> ProgramSubmission:
    """`depth` layers of `width` siblings; each call reads two of the layer before."""
    calls = [call(f"c0.{j}", ("start",)) for j in range(width)]
    for i in range(1, depth):
        calls += [call(f"c{i}.{j}", (f"c{i - 1}.{j}", f"c{i - 1}.{(j + 1) % width}")) for j in range(width)]
    outputs = tuple(f"c{depth - 1}.{j}" for j in range(width))
    graph = Graph(inputs={"start": InputVariable(value="x")}, calls=tuple(calls), outputs=outputs)
    return ProgramSubmission(workflow="lattice", graph=graph)


async def in_process(chains: int, length: int, journal: Path) -> list[float]:
    """Seconds between ends of neighbouring calls, over all chains but a first one that warms up."""
    settings = load(model="none", journal=journal)
    app = create_app(settings, assemble=lambda settings: assemble(settings, engines=[NullEngine()]))
    seconds: list[float] = []
    async with AsyncClient("http://in-process", transport=ASGITransport(app)) as client:
        for number in range(chains + 1):
            summary = await client.submit(chain(length))
            ends = [e.at_s async for e in client.events(summary.id) if e.kind is EventKind.CALL_ENDED]
            assert len(ends) == length, f"{len(ends)} of {length} calls ended"
            if number:
                seconds += [after - before for before, after in pairwise(ends)]
    return seconds


@asynccontextmanager
async def server(directory: Path) -> AsyncIterator[str]:
    """URL of a server process with a null engine and a journal on disk."""
    command = [sys.executable, "-m", "benchmarks.null_server", "--journal", str(directory / "journal.db")]
    process = subprocess.Popen(  # noqa: ASYNC220  # nothing is measured yet
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        yield json.loads(line)["url"]
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.to_thread(process.wait, 30)


@asynccontextmanager
async def clients(url: str) -> AsyncIterator[list[AsyncClient]]:
    """`CLIENTS` clients of one server."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(AsyncClient(url)) for _ in range(CLIENTS)]


async def hops(url: str, steps: int, seed: int) -> list[float]:
    """Seconds from asking for one more call to having its value, for 100 programs side by side."""
    rng = random.Random(seed)
    seconds: list[float] = []

    async def program(client: AsyncClient, number: int) -> None:
        await asyncio.sleep(rng.uniform(0, PAUSE_S * 2))
        graph = Graph(inputs={"start": InputVariable(value="x")})
        summary = await client.submit(ProgramSubmission(workflow="steps", graph=graph, open=True))
        before = "start"
        for step in range(steps):
            began = perf_counter()
            await client.extend(summary.id, GraphExtension(calls=(call(f"c{step}", (before,)),)))
            view = await client.variable(summary.id, f"c{step}", wait_s=30.0)
            seconds.append(perf_counter() - began)
            assert view.value == "x", view
            before = f"c{step}"
            await asyncio.sleep(rng.uniform(0.5, 1.5) * PAUSE_S)
        await client.extend(summary.id, GraphExtension(outputs=(before,), seal=True))

    async with clients(url) as some:
        await asyncio.gather(*(program(some[number % CLIENTS], number) for number in range(LIVE_PROGRAMS)))
    return seconds


async def sustained(url: str, for_s: float) -> float:
    """Ended calls per second of declared programs of 40 calls, 100 of them live all the time."""
    submission = lattice(4, 10)
    ended = 0
    stop_at = perf_counter() + for_s

    async def place(client: AsyncClient) -> None:
        nonlocal ended
        while perf_counter() < stop_at:
            summary = await client.submit(submission)
            view = await client.variable(summary.id, "c9.3", wait_s=30.0)
            assert view.value == "x", view
            ended += len(submission.graph.calls)

    async with clients(url) as some:
        began = perf_counter()
        await asyncio.gather(*(place(some[number % CLIENTS]) for number in range(LIVE_PROGRAMS)))
        return ended / (perf_counter() - began)


async def measure(args: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """All figures; each part alone, one after the other."""
    chains, length, steps, for_s = (5, 200, 8, 4.0) if args.quick else (30, 500, 60, 20.0)
    settle_interpreter()  # as `tenuto serve` does
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        inside = await in_process(chains, length, directory / "inside.db")
        async with server(directory) as url:
            outside = await hops(url, steps, args.seed)
            rate = await sustained(url, for_s)
    gc.collect()
    graph = graphs.measure(10_000, args.seed, repeats=3)
    figures = [
        Figure("inproc_call_p50_s", percentile(inside, 0.5), "<=", 0.002),
        Figure("inproc_call_p99_s", percentile(inside, 0.99), "<=", 0.005),
        Figure("http_hop_p50_s_100_programs", percentile(outside, 0.5), "<=", 0.010),
        Figure("http_hop_p99_s_100_programs", percentile(outside, 0.99), "<=", 0.025),
        Figure("calls_per_s", rate, ">=", 1500),
        Figure("graph_10k_build_s", graph["parse_s"] + graph["build_s"], "<=", 1.0),
    ]
    detail = {
        "inproc_calls": len(inside),
        "http_hops": len(outside),
        "live_programs": LIVE_PROGRAMS,
        "clients": CLIENTS,
        "pause_s": PAUSE_S,
        "graph": graph,
    }
    return figures, detail


def main() -> None:
    args = parser("overhead", "Seconds per call and calls per second of the orchestrator itself.").parse_args()
    at_start = conditions(args.seed, args.quick)
    figures, detail = asyncio.run(measure(args))
    finish("overhead", figures, args=args, at_start=at_start, detail=detail)


if __name__ == "__main__":
    main()
