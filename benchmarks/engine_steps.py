"""What steps cost beside the model, and a long random test: `python -m benchmarks.engine_steps [--json F] [--quick]`.

Owns the engine's figures that need no model: scheduling, prefix lookup, leases, re-keying, and the model-free fuzz.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from benchmarks.common import Figure, conditions, finish, parser
from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.kv.cache import BlockCache
from engine.kv.prefix import extend_chain
from engine.protocol import GenerateRequest, Lease, LeaseOutcome, SamplingParams
from engine.scheduler import Scheduler
from engine.sequence import Sequence
from tests.engine.fakes import fake_engine
from tests.engine.traffic import Tally, Traffic

RUNNING, QUEUED = 256, 10_000
PROMPT, OUTPUT = (200, 1_800), (100, 500)
LOOKUP_TOKENS = 10_000
CHUNK = 2_500
"""Steps of one fuzzed engine: then another of other sizes takes its place."""
METHOD = """\
Steps: {running} sequences decode; prompts of {prompt} and outputs of {output} tokens, uniformly drawn; one that ends is
replaced from the queue. Timed are Scheduler.schedule and .advance of every step, admissions, block tables, hashing and
listing of full blocks included; not the ends' clean-up and not the fake prefill of who was admitted. The value is the
mean over the steps of a repeat, the median of {repeats} repeats; with {queued} queued, all of other keys.
Lookup: hash a prompt of {lookup} tokens that is resident, find its blocks, hold them. Lease: retain, then release a
chain of {lookup} tokens by its request's name; mean of both. Re-key: a new key for each of {queued} queued programs,
and the next step's order. Fuzz: engines of random sizes under random traffic (tests/engine/traffic.py), every invariant
checked after every step, every output against one without a cache."""


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@contextmanager
def no_collector() -> Iterator[None]:
    """Python's cyclic collector would stop whatever happens to run: here it waits."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Steady:
    """A scheduler in steady decode whose ended sequences are replaced."""

    def __init__(self, rng: random.Random, queued: int) -> None:
        self.rng, self.number = rng, 0
        blocks = RUNNING * (PROMPT[1] + OUTPUT[1]) // BLOCK_TOKENS
        cache = BlockCache(blocks, ManualClock())
        limit = RUNNING + queued + 1
        self.scheduler = Scheduler(cache, token_budget=1 << 20, max_running=RUNNING, queue_limit=limit)
        self.ends: dict[int, list[Sequence]] = {}
        self.now = 0
        for _ in range(RUNNING + queued):
            self.add()
        self.queued = queued
        while len(self.scheduler.running) < RUNNING or any(not s.decoding for s in self.scheduler.running):
            self.step()
        self.ends.clear()
        for sequence in self.scheduler.running:  # as if they had begun at different times
            self.schedule_end(sequence, rng.randrange(1, OUTPUT[1]))
        for _ in range(2 * BLOCK_TOKENS):
            self.step()

    def add(self) -> None:
        rng, self.number = self.rng, self.number + 1
        tokens = [rng.randrange(1 << 15) for _ in range(rng.randint(*PROMPT))]
        expected = rng.randint(*OUTPUT)
        key = (0.0, rng.random())
        sequence = Sequence(f"r{self.number}", f"p{self.number}", tokens, OUTPUT[1], key=key, expected=expected)
        self.scheduler.add(sequence)

    def schedule_end(self, sequence: Sequence, steps: int) -> None:
        self.ends.setdefault(self.now + steps, []).append(sequence)

    def step(self) -> float:
        """One step; its seconds of scheduling and bookkeeping."""
        scheduler, clock = self.scheduler, time.perf_counter
        started = clock()
        step = scheduler.schedule()
        scheduled = clock()
        tokens = [7] * len(step.sampled)
        before = clock()
        scheduler.advance(step, tokens)
        spent = clock() - before + scheduled - started
        self.now += 1
        for piece in step.pieces:
            self.schedule_end(piece.sequence, self.rng.randint(*OUTPUT))
        for sequence in self.ends.pop(self.now, ()):
            scheduler.end(sequence)
            self.add()
        return spent


def step_s(seed: int, queued: int, steps: int, repeats: int) -> float:
    """Median over repeats of the mean seconds of a step of `RUNNING` sequences."""
    steady = Steady(random.Random(seed), queued)
    with no_collector():
        means = [statistics.fmean(steady.step() for _ in range(steps)) for _ in range(repeats)]
    return statistics.median(means)


def lookup_s(seed: int, repeats: int) -> float:
    rng = random.Random(seed)
    prompt = [rng.randrange(1 << 15) for _ in range(LOOKUP_TOKENS)]
    cache = BlockCache(4 * LOOKUP_TOKENS // BLOCK_TOKENS, ManualClock())
    digests: list[bytes] = []
    extend_chain(digests, prompt, "tenant")
    table = cache.take(len(digests), may_break_leases=False)
    assert table is not None
    cache.publish(table, digests, 0, len(digests), "p")
    cache.release(table)

    def look() -> None:
        sequence = Sequence("r", "p", prompt, 1, salt="tenant")
        found = cache.find(sequence.hash_blocks(), (LOOKUP_TOKENS - 1) // BLOCK_TOKENS)
        assert len(found) == (LOOKUP_TOKENS - 1) // BLOCK_TOKENS
        cache.device.pool.refer(found)
        sequence.table.extend(found)
        held.append(sequence)

    held: list[Sequence] = []
    seconds = []
    with no_collector():
        for _ in range(repeats):
            seconds.append(timed(look))
            cache.release(held.pop().table)
    return statistics.median(seconds)


def lease_s(repeats: int) -> float:
    clock = ManualClock()
    blocks = 4 * LOOKUP_TOKENS // BLOCK_TOKENS
    context = 2 * LOOKUP_TOKENS
    engine, _ = fake_engine(clock, blocks, context_tokens=context, token_budget=LOOKUP_TOKENS, lease_share=1.0)
    prompt = tuple(1 + index % 997 for index in range(LOOKUP_TOKENS))
    engine.submit(GenerateRequest("r", "p", prompt_ids=prompt, sampling=SamplingParams(max_tokens=20)))
    while engine.has_work:
        engine.step()
    seconds = []
    leases = [Lease(f"l{index}", "p", (), 30.0, request="r") for index in range(20)]

    def retain_and_release() -> None:
        for lease in leases:
            engine.retain(lease)
            engine.release(lease.id, LeaseOutcome.FINAL)

    with no_collector():
        for _ in range(repeats):
            seconds.append(timed(retain_and_release) / (2 * len(leases)))
    assert engine.retain(Lease("last", "p", (), 30.0, request="r")).bytes >= LOOKUP_TOKENS
    return statistics.median(seconds)


def rekey_s(seed: int, repeats: int) -> float:
    rng = random.Random(seed)
    scheduler = Scheduler(BlockCache(1_000, ManualClock()), token_budget=1_024, max_running=1, queue_limit=2 * QUEUED)
    for index in range(QUEUED):
        scheduler.add(Sequence(f"r{index}", f"p{index}", [index % 1_000] * 20, 10, key=(rng.random(), 0.0)))
    scheduler.schedule()
    programs = [f"p{index}" for index in range(1, QUEUED)]

    def rekey(keys: list[tuple[float, float]]) -> None:
        for program, key in zip(programs, keys, strict=True):
            scheduler.reprioritize(program, key)
        scheduler.schedule()

    seconds = []
    with no_collector():
        for _ in range(repeats):
            keys = [(rng.random(), float(index)) for index, _ in enumerate(programs)]
            seconds.append(timed(lambda keys=keys: rekey(keys)))  # type: ignore[misc]
    return statistics.median(seconds)


@dataclass(slots=True)
class Fuzzed:
    """Sums over fuzzed engines, and what went wrong: (seed, message)."""

    total: Tally = field(default_factory=Tally)
    violations: list[tuple[int, str]] = field(default_factory=list)


def fuzz_one(seed: int) -> tuple[int, Tally, str]:
    """One engine; the message of the invariant that broke, or nothing."""
    traffic = Traffic(seed)
    try:
        return seed, traffic.run(CHUNK), ""
    except Exception as error:
        return seed, traffic.tally, f"step {traffic.tally.steps}: {error!r}"


def fuzz(first: int, steps: int) -> Fuzzed:
    """At least `steps` steps over engines with seeds from `first`, on all cores."""
    result = Fuzzed()
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for seed, tally, fault in pool.map(fuzz_one, _seeds(first, steps), chunksize=4):
            if fault:
                result.violations.append((seed, fault))
            for name, value in asdict(tally).items():
                if name == "leases":
                    for outcome, count in value.items():
                        result.total.leases[outcome] = result.total.leases.get(outcome, 0) + count
                else:
                    setattr(result.total, name, getattr(result.total, name) + value)
    return result


def _seeds(first: int, steps: int) -> Iterator[int]:
    yield from range(first, first + -(-steps // CHUNK))


def main() -> int:
    args = parser("engine_steps", "Costs of a step without a model, and the model-free fuzz.").parse_args()
    at_start = conditions(args.seed, args.quick)
    steps, repeats, fuzzed = (200, 3, 20_000) if args.quick else (2_000, 7, 1_000_000)
    alone = step_s(args.seed, 0, steps, repeats)
    crowded = step_s(args.seed, QUEUED, steps, repeats)
    figures = [
        Figure("step_s_per_sequence", alone / RUNNING, "<=", 1e-6),
        Figure("step_s_256_running_10k_queued", crowded, "<=", 300e-6),
        Figure("prefix_lookup_10k_tokens_s", lookup_s(args.seed, 20 * repeats), "<=", 1e-3),
        Figure("lease_s", lease_s(50 * repeats), "<=", 20e-6),
        Figure("rekey_10k_queued_s", rekey_s(args.seed, 5 * repeats), "<=", 5e-3),
    ]
    found = fuzz(1_000_000 * (1 + args.seed), fuzzed)
    figures += [
        Figure("fuzz_steps", found.total.steps, ">=", 1e6),
        Figure("fuzz_violations", len(found.violations), "==", 0),
    ]
    method = METHOD.format(
        running=RUNNING, queued=QUEUED, prompt=PROMPT, output=OUTPUT, lookup=LOOKUP_TOKENS, repeats=repeats
    )
    detail = {"method": method, "fuzz": asdict(found.total), "violations": found.violations}
    finish("engine_steps", figures, args=args, at_start=at_start, detail=detail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
