"""Programs that share a prefix and pause for tools: the workload, and the loop that drives an engine through it.

Every engine gets the same programs in real time; how an engine is told about programs is its driver's.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Turn:
    """One LLM call of a program: `adds` new prompt ids, `tokens` of output, then a pause for a tool."""

    adds: tuple[int, ...]
    tokens: int
    pause_s: float


@dataclass(frozen=True, slots=True)
class Program:
    """A run: its first turn's `adds` begins with the shared prefix."""

    name: str
    turns: tuple[Turn, ...]

    @property
    def final_tokens(self) -> int:
        """Length of its chain at the end, the shared prefix included."""
        return sum(len(turn.adds) + turn.tokens for turn in self.turns)

    @property
    def mean_tokens(self) -> int:
        """The mean of its chain's length after the first turn and at the end."""
        return (len(self.turns[0].adds) + self.turns[0].tokens + self.final_tokens) // 2


@dataclass(frozen=True, slots=True)
class Load:
    """Sizes in tokens and counts; pauses in seconds."""

    programs: int = 12
    turns: int = 6
    shared: int = 256
    private: int = 256
    tool: int = 32
    output: int = 12
    pause_s: tuple[float, float] = (0.1, 0.5)
    kv_share: float = 1 / 3
    vocab: int = 32_000

    def make(self, seed: int) -> list[Program]:
        rng = random.Random(seed)

        def ids(count: int) -> tuple[int, ...]:
            return tuple(rng.randrange(300, self.vocab) for _ in range(count))

        shared = ids(self.shared)
        out = []
        for index in range(self.programs):
            turns = []
            for turn in range(self.turns):
                adds = ids(self.tool) if turn else shared + ids(self.private)
                turns.append(Turn(adds, self.output, rng.uniform(*self.pause_s)))
            out.append(Program(f"p{index}", tuple(turns)))
        return out

    @property
    def demand(self) -> int:
        """Tokens of KV if all programs were kept whole: the shared prefix once, everything else for each."""
        return self.shared + self.programs * (self.private + (self.turns - 1) * self.tool + self.turns * self.output)

    @property
    def kv_tokens(self) -> int:
        return int(self.demand * self.kv_share)


class Peer(ABC):
    """An engine with `kv_tokens` of KV memory (0: enough for anything)."""

    @abstractmethod
    def submit(self, name: str, prompt: list[int], tokens: int, program: str = "", order: int = 0) -> None:
        """Queue a request for exactly `tokens` greedy tokens."""

    @abstractmethod
    def poll(self, wait_s: float) -> list[tuple[str, list[int]]]:
        """Work, or wait at most `wait_s` for work done elsewhere; requests that ended, with their output."""

    @property
    @abstractmethod
    def busy(self) -> bool: ...

    def pauses(self, program: str, chain: list[int], order: int) -> None:  # noqa: B027 - optional
        """A program's tool has started: its next prompt will begin with `chain`."""

    def ends(self, program: str) -> None:  # noqa: B027 - optional
        """A program is over."""

    def computed_tokens(self) -> int:
        """Prompt tokens computed so far, or -1 if the engine does not tell."""
        return -1

    def close(self) -> None:  # noqa: B027 - optional
        """Stop threads."""


@dataclass(slots=True)
class _Run:
    program: Program
    order: int
    chain: list[int] = field(default_factory=list)
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds from the start to the last output, mean seconds to a program's end, prompt tokens computed.

    `unfinished` programs were cut off by the limit: then seconds are less than the truth.
    """

    makespan_s: float
    mean_completion_s: float
    computed_tokens: int
    unfinished: int = 0


def drive(
    peer: Peer, programs: list[Program], *, hold_tokens: int = 0, shared: int = 0, limit_s: float = math.inf
) -> Outcome:
    """Run all programs, which are here from the start, to their end, or for `limit_s` seconds.

    `hold_tokens`: programs wait outside while the chains of those inside, at their mean length as they are at different
    points of their way, would not fit into so many tokens with one copy of the `shared` prefix. 0: all are let in at
    once, as their clients would.
    """
    before = peer.computed_tokens()
    started_s = time.perf_counter()
    outside = deque(_Run(program, order) for order, program in enumerate(programs))
    inside: dict[str, _Run] = {}
    tools: list[tuple[float, int, _Run]] = []
    ends: list[float] = []
    while outside or inside:
        room = hold_tokens - shared - sum(run.program.mean_tokens - shared for run in inside.values())
        while outside and (not hold_tokens or not inside or outside[0].program.mean_tokens - shared <= room):
            run = outside.popleft()
            inside[run.program.name] = run
            room -= run.program.mean_tokens - shared
            _next_turn(peer, run)
        now_s = time.perf_counter()
        if now_s - started_s > limit_s:
            left = len(inside) + len(outside)
            ends += [now_s - started_s] * left
            return Outcome(max(ends), sum(ends) / len(ends), peer.computed_tokens() - before, left)
        while tools and tools[0][0] <= now_s:
            _next_turn(peer, heapq.heappop(tools)[2])
        wait_s = tools[0][0] - now_s if tools else 1.0
        if not peer.busy:
            time.sleep(wait_s)
            continue
        for name, output in peer.poll(wait_s):
            run = inside[name.partition(":")[0]]
            run.chain += output
            turn = run.program.turns[run.turn]
            assert len(output) == turn.tokens, f"{name}: {len(output)} tokens instead of {turn.tokens}"
            run.turn += 1
            now_s = time.perf_counter()
            if run.turn == len(run.program.turns):
                peer.ends(run.program.name)
                del inside[run.program.name]
                ends.append(now_s - started_s)
            else:
                peer.pauses(run.program.name, run.chain, run.order)
                heapq.heappush(tools, (now_s + turn.pause_s, run.order, run))
    return Outcome(max(ends), sum(ends) / len(ends), peer.computed_tokens() - before)


def _next_turn(peer: Peer, run: _Run) -> None:
    turn = run.program.turns[run.turn]
    run.chain += turn.adds
    peer.submit(f"{run.program.name}:{run.turn}", list(run.chain), turn.tokens, run.program.name, run.order)


def run_batch(peer: Peer, size: int, prompt: int, tokens: int, seed: int, vocab: int) -> tuple[float, list[list[int]]]:
    """(seconds, outputs) of `size` requests that come together, prompts of `prompt` random ids."""
    rng = random.Random(seed)
    started_s = time.perf_counter()
    outputs: dict[str, list[int]] = {}
    for index in range(size):
        ids = [rng.randrange(300, vocab) for _ in range(prompt)]
        peer.submit(f"b{seed}-{index}", ids, tokens)
    while len(outputs) < size:
        outputs.update(peer.poll(1.0))
    seconds = time.perf_counter() - started_s
    return seconds, [outputs[f"b{seed}-{index}"] for index in range(size)]
