"""Programs with tool pauses for `benchmarks.retention`: from workflow traces, or from a generator of stated mixtures.

Owns their reading, making, and replay in virtual time. Decides nothing and measures nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common import sha256
from kv_ttl.durations import ToolCall
from kv_ttl.rules import Pause

COLLECTIONS = {"swe-haiku": "swe-hosted", "swe-18tasks": "swe-hosted"}
"""Environments that one public collection recorded with the same kind of agent; any other stands for itself."""
TUNED_ON = {"8da97a662019f692da502f89c5a65f77c6fa5a43bf9d710895b9d3c45d527fe2"}
"""Digests of trace files on whose tuning half constants were chosen: only their other half may be measured."""
PREFILL_TOKENS_PER_S, OUTPUT_TOKENS_PER_S, LONGEST_WAIT_S = 8000.0, 50.0, 120.0
"""Nominal times of calls between pauses: they only set how programs interleave."""


class TraceError(ValueError):
    """A trace that cannot be read; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Node:
    """A call of a recorded program. `tool`: None for an LLM call. `after`: indices of the nodes it waits for."""

    after: tuple[int, ...]
    seconds: float
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A recorded program. `pauses`: the tool calls that it waits for after an LLM call, by that call.

    `measured`: whether it may count in a figure (False: constants were chosen on it).
    """

    name: str
    environment: str
    tenant: str
    nodes: tuple[Node, ...]
    successors: tuple[tuple[int, ...], ...]
    pauses: Mapping[int, tuple[int, ...]]
    measured: bool = True

    @staticmethod
    def of(name: str, environment: str, tenant: str, nodes: Sequence[Node]) -> Program:
        """The program with these nodes, each standing after all that it waits for."""
        follow: list[list[int]] = [[] for _ in nodes]
        for at, node in enumerate(nodes):
            for before in node.after:
                follow[before].append(at)
        successors = tuple(map(tuple, follow))
        return Program(name, environment, tenant, tuple(nodes), successors, _pauses(nodes, successors))

    @property
    def collection(self) -> str:
        """The set it is measured in."""
        return COLLECTIONS.get(self.environment, self.environment)


@dataclass(slots=True)
class Waiting:
    """A pause during the replay: the rule's view of it, and what really happens: how long it and its calls take."""

    program: Program
    pause: Pause
    durations: tuple[float, ...]
    seconds: float
    open: int


def read(paths: Sequence[Path]) -> list[Program]:
    """The programs of workflow traces (format version 1) that pause for tools. Raises `TraceError`."""
    programs: list[Program] = []
    for path in paths:
        tuned_on = path.exists() and sha256(path) in TUNED_ON
        opened = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(path, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    try:
                        program = _program(json.loads(line))
                    except (KeyError, TypeError, ValueError) as error:
                        raise TraceError(f"{path}:{number}: not a program of trace format 1: {error!r}") from error
                    unseen = not tuned_on or hashlib.sha256(program.name.encode()).digest()[0] % 2 == 0
                    programs.append(replace(program, measured=unseen))
        except OSError as error:
            raise TraceError(f"{path}: {error}") from error
    return [program for program in programs if program.pauses]


def _program(record: dict[str, Any]) -> Program:
    index: dict[str, int] = {}
    nodes: list[Node] = []
    longest = 0
    for node in record["nodes"]:
        after = tuple(index[name] for name in node["after"])
        if node["kind"] == "tool":
            seconds, tool = float(node["duration"]), str(node["name"])
        else:
            tokens = sum(end - start for _, start, end in node["prompt"])
            fresh = max(0, tokens - longest)
            longest = max(longest, tokens)
            wait = min(LONGEST_WAIT_S, float(node.get("wait", 0.0)))
            seconds, tool = wait + fresh / PREFILL_TOKENS_PER_S + node["output"] / OUTPUT_TOKENS_PER_S, None
        if not 0 <= seconds < math.inf:
            raise ValueError(f"node {node['id']!r} takes {seconds!r} seconds")
        index[node["id"]] = len(nodes)
        nodes.append(Node(after, seconds, tool))
    environment = record.get("environment") or record["workflow"]
    return Program.of(record["program"], environment, record.get("tenant", "default"), nodes)


def _pauses(nodes: Sequence[Node], successors: Sequence[Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Each LLM call with the tool calls its program then waits for: those that follow from it through tools alone."""
    out: dict[int, tuple[int, ...]] = {}
    for at, node in enumerate(nodes):
        if node.tool is not None:
            continue
        tools: set[int] = set()
        heap = list(successors[at])
        heapq.heapify(heap)
        while heap:
            later = heapq.heappop(heap)
            if nodes[later].tool is None or later in tools:
                continue
            # Nodes stand after all that they wait for, so everything before this one is decided.
            if all(before == at or before in tools for before in nodes[later].after):
                tools.add(later)
                for follower in successors[later]:
                    heapq.heappush(heap, follower)
        if tools:
            out[at] = tuple(sorted(tools))
    return out


def replay(
    programs: Sequence[Program],
    slots: int,
    on_pause: Callable[[Waiting], None],
    on_return: Callable[[Waiting], None],
    saved_s: float,
) -> None:
    """Run the programs `slots` at a time in virtual time and tell of each pause and its end, in order of time.

    A pause begins when its LLM call ends and is over when the last of its tools has returned.
    """
    queue: list[tuple[float, int, int, int]] = []
    state = [_Replayed(program) for program in programs]
    sequence = 0

    def start(number: int, node: int, now: float) -> None:
        nonlocal sequence
        sequence += 1
        heapq.heappush(queue, (now + programs[number].nodes[node].seconds, sequence, number, node))

    waiting = iter(range(len(programs)))

    def admit(now: float) -> None:
        number = next(waiting, None)
        if number is not None:
            for node in state[number].ready():
                start(number, node, now)

    for _ in range(slots):
        admit(0.0)
    while queue:
        now, _, number, node = heapq.heappop(queue)
        one = state[number]
        ended = one.end(node)
        if node in one.program.pauses:
            one.pause(node, now, saved_s, on_pause)
        pause = one.pause_of.get(node)
        if pause is not None:
            pause.open -= 1
            if not pause.open:
                on_return(pause)
        for successor in ended:
            start(number, successor, now)
        if one.left == 0:
            admit(now)


class _Replayed:
    """A program under replay."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.left = len(program.nodes)
        self.missing = [len(node.after) for node in program.nodes]
        self.pause_of: dict[int, Waiting] = {}

    def ready(self) -> list[int]:
        return [at for at, missing in enumerate(self.missing) if not missing]

    def end(self, node: int) -> list[int]:
        self.left -= 1
        started: list[int] = []
        for successor in self.program.successors[node]:
            self.missing[successor] -= 1
            if not self.missing[successor]:
                started.append(successor)
        return started

    def pause(self, node: int, now: float, saved_s: float, on_pause: Callable[[Waiting], None]) -> None:
        tools, program = self.program.pauses[node], self.program
        calls = tuple(
            ToolCall(str(program.nodes[tool].tool), program.environment, program.tenant, program.name) for tool in tools
        )
        after = tuple(tuple(tools.index(one) for one in program.nodes[tool].after if one != node) for tool in tools)
        finish: list[float] = []
        for tool, waits_for in zip(tools, after, strict=True):
            finish.append(program.nodes[tool].seconds + max((finish[one] for one in waits_for), default=0.0))
        pause = Pause(f"{program.name}/{node}", now, calls, saved_s, after=after if any(after) else ())
        durations = tuple(program.nodes[tool].seconds for tool in tools)
        waiting = Waiting(program, pause, durations, max(finish), len(tools))
        self.pause_of.update(dict.fromkeys(tools, waiting))
        on_pause(waiting)


def generate(seed: int) -> list[Program]:
    """Two synthetic sets of agent programs, 40 each, 30-80 turns, 10 % of the turns with 2-3 parallel calls.

    `local`: reads, edits and searches lognormal around 15 ms (sigma 0.6); half of the shell calls around 20 ms and
    half around 7 s, drawn by tool (tests 90 %, python 80 %, version control 15 % slow), the slow ones scaled by a
    factor of the program (sigma 0.4). `hosted`: the same tools around 50 ms; shell calls around 1 s (sigma 0.7) times
    the program's factor (sigma 0.8); 3 % of all calls lognormal around 30 s (sigma 1).
    """
    rng = random.Random(seed)
    slow = {"shell:test": 0.9, "shell:python": 0.8, "shell:vcs": 0.15}
    weights = {"read": 5, "edit": 3, "search": 3, "shell:test": 3, "shell:python": 2, "shell:vcs": 2}
    programs: list[Program] = []
    for environment, fast_s, slow_s, spread, own_spread, rare in (
        ("local", 0.015, 7.0, 0.15, 0.4, 0.003),
        ("hosted", 0.05, 1.0, 0.7, 0.8, 0.03),
    ):
        for number in range(40):
            own = rng.lognormvariate(0, own_spread)
            nodes: list[Node] = [Node((), 3.0)]
            for _ in range(rng.randrange(30, 81)):
                turn = len(nodes) - 1
                count = rng.choice((2, 3)) if rng.random() < 0.1 else 1
                for tool in rng.choices(list(weights), list(weights.values()), k=count):
                    seconds = rng.lognormvariate(math.log(fast_s), 0.6)
                    if rng.random() < slow.get(tool, 0.0):
                        seconds = own * rng.lognormvariate(math.log(slow_s), spread)
                    if rng.random() < rare:
                        seconds = rng.lognormvariate(math.log(30.0), 1.0)
                    nodes.append(Node((turn,), seconds, tool))
                nodes.append(Node(tuple(range(turn + 1, len(nodes))), rng.lognormvariate(1.0, 0.5)))
            programs.append(Program.of(f"{environment}-{number}", environment, "default", nodes))
    return programs
