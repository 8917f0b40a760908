"""Streamed plans in real time: when calls start, and how near a plan's makespan comes to what is possible.

Used by `benchmarks.functions`. The bound is what an executor without any cost would need: each call starts when its
closing parenthesis was written (as the schedule says), its inputs are there and its tool's cap has room, in order of
readiness; the plan ends with its last call or with its text, whichever is later.
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.function_server import Line, PlannerEngine, bench, planned
from tenuto import tool

PIECES = 8  # a line comes in so many pieces
CAP = 2

starts: dict[str, float] = {}
ends: dict[str, float] = {}


async def _work(name: str, seconds: float) -> str:
    loop = asyncio.get_running_loop()
    starts[name] = loop.time()
    await asyncio.sleep(seconds)
    ends[name] = loop.time()
    return name


@tool(effects="read", share=False)
async def search(name: str, seconds: float, given: list[Any]) -> str:
    return await _work(name, seconds)


@tool(effects="read", share=False, max_running=CAP)
async def scarce(name: str, seconds: float, given: list[Any]) -> str:
    return await _work(name, seconds)


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a plan: its tool, how long it takes, and what it needs."""

    number: int
    tool: str
    seconds: float
    needs: tuple[int, ...] = ()


def branches(width: int, unit_s: float) -> list[Step]:
    """LLMCompiler's ParallelQA shape: `width` searches, a math over each pair of them, and one over all."""
    steps = [Step(i + 1, "search", unit_s * (2.0 + 0.3 * i)) for i in range(width)]
    maths = [Step(width + i + 1, "search", unit_s * 1.5, (i + 1, i + 2)) for i in range(width - 1)]
    last = Step(2 * width, "search", unit_s * 1.5, tuple(step.number for step in maths))
    return [*steps, *maths, last]


def random_graph(rng: Random, calls: int, unit_s: float) -> list[Step]:
    """Calls that need up to three earlier ones; a third of them of a tool that two may run at once."""
    steps: list[Step] = []
    for number in range(1, calls + 1):
        needs = rng.sample(range(1, number), min(number - 1, rng.choice((0, 0, 1, 2, 3))))
        name = "scarce" if rng.random() < 0.33 else "search"
        steps.append(Step(number, name, unit_s * rng.uniform(0.5, 3.0), tuple(sorted(needs))))
    return steps


def script(steps: list[Step], prompt: str, line_s: float, silence_s: float = 0.0) -> tuple[list[Line], list[float]]:
    """The plan's text, a line every `line_s` seconds in pieces, and when each call's parenthesis is written."""
    lines: list[Line] = []
    closes: list[float] = []
    for step in steps:
        given = ", ".join(f"${need}" for need in step.needs)
        text = f'{step.number}. {step.tool}("{prompt}.{step.number}", {step.seconds!r}, [{given}])\n'
        began_s = line_s * (step.number - 1)
        size = -(-len(text) // PIECES)
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        for index, piece in enumerate(pieces):
            at_s = began_s + line_s * (index + 1) / len(pieces)
            lines.append(Line(at_s, piece))
            if ")" in piece.rpartition("]")[2]:
                closes.append(at_s)
    lines.append(Line(line_s * len(steps) + silence_s, "join()"))
    return lines, closes


def bound(steps: list[Step], closes: list[float], text_s: float) -> float:
    """Makespan of an executor without cost, by a simulation of it."""
    ended: dict[int, float] = {}
    caps: dict[str, list[float]] = {}  # ends of what runs
    ready: list[tuple[float, int]] = []
    waiting = {step.number: step for step in steps}
    while waiting or ready:
        for number, step in list(waiting.items()):
            if all(need in ended for need in step.needs):
                at_s = max([closes[number - 1], *(ended[need] for need in step.needs)])
                heapq.heappush(ready, (at_s, number))
                del waiting[number]
        at_s, number = heapq.heappop(ready)
        step = steps[number - 1]
        if step.tool == "scarce":
            running = caps.setdefault(step.tool, [])
            if len(running) >= CAP:
                at_s = max(at_s, heapq.heappop(running))
            heapq.heappush(running, at_s + step.seconds)
        ended[number] = at_s + step.seconds
    return max(text_s, *ended.values())


async def makespans(plans: list[tuple[str, list[Step]]], line_s: float) -> list[float]:
    """Each plan's makespan over its bound, one after the other."""
    engine = PlannerEngine({})
    found: list[float] = []
    async with bench([search, scarce], engine=engine) as server:
        await _warm(server, engine)
        for prompt, steps in plans:
            lines, closes = script(steps, prompt, line_s)
            engine.scripts[prompt] = lines
            _, _, ended_s = await server.run(planned(prompt, ["search", "scarce"]))
            found.append((ended_s - engine.began[prompt]) / bound(steps, closes, lines[-1].at_s))
    return found


async def silent(repeats: int) -> list[float]:
    """Seconds from the end of a call's last input to its start, while the planner says nothing."""
    engine = PlannerEngine({})
    found: list[float] = []
    async with bench([search, scarce], engine=engine) as server:
        await _warm(server, engine)
        for index in range(repeats):
            prompt = f"silent{index}"
            steps = [Step(1, "search", 0.02), *(Step(n, "search", 0.005, (n - 1,)) for n in range(2, 11))]
            lines, _ = script(steps, prompt, 0.0005, silence_s=0.25)
            engine.scripts[prompt] = lines
            await server.run(planned(prompt, ["search"]))
            for step in steps[1:]:
                needed_s = max(ends[f"{prompt}.{need}"] for need in step.needs)
                found.append(starts[f"{prompt}.{step.number}"] - needed_s)
    return found


async def first_tools(repeats: int) -> list[float]:
    """Seconds from the piece that closes the first call to the start of its tool."""
    engine = PlannerEngine({})
    found: list[float] = []
    async with bench([search, scarce], engine=engine) as server:
        await _warm(server, engine)
        for index in range(repeats):
            prompt = f"first{index}"
            engine.scripts[prompt] = [
                Line(0.0, f'1. search("{prompt}", 0.0, ['),
                Line(0.01, "])"),
                Line(0.02, "\njoin()"),
            ]
            await server.run(planned(prompt, ["search"]))
            found.append(starts[prompt] - engine.written[prompt][1])
    return found


async def early_gains(repeats: int) -> list[dict[str, float]]:
    """End to end with early start over waiting for the whole message, and where in the text the calls stood."""
    rows: list[dict[str, float]] = []
    for name, thinking, after in (("calls first", 0, 40), ("calls in the middle", 20, 20), ("calls last", 40, 0)):
        engine = PlannerEngine({})
        took: dict[bool, list[float]] = {True: [], False: []}
        share = 0.0
        async with bench([search, scarce], engine=engine) as server:
            await _warm(server, engine)
            for index in range(repeats):
                for early in (True, False):
                    prompt = f"{name}{index}{early}"
                    words = [f"Thought: word {i}\n" for i in range(thinking)]
                    words += [f'{n}. search("{prompt}.{n}", 0.2, [])\n' for n in (1, 2, 3)]
                    words += [f"Thought: word {i}\n" for i in range(after)] + ["join()"]
                    engine.scripts[prompt] = [Line(0.01 * (i + 1), word) for i, word in enumerate(words)]
                    id, accepted_s, ended_s = await server.run(planned(prompt, ["search"], early=early))
                    took[early].append(ended_s - accepted_s)
                    outcome: Any = server.view(id).outputs["plan"].value
                    share = 1.0 - outcome["first_close"]
        rows.append({
            "calls_emitted_before_last_share": share,
            "early_s": min(took[True]),
            "waiting_s": min(took[False]),
            "early_over_waiting": min(took[True]) / min(took[False]),
        })  # fmt: skip
    return rows


async def _warm(server: Any, engine: PlannerEngine) -> None:
    """The first program pays for what is made once."""
    engine.scripts["warm"] = [Line(0.0, '1. search("warm", 0.0, [])\njoin()')]
    for _ in range(3):
        await server.run(planned("warm", ["search"]))
