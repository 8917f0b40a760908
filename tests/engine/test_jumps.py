"""Steps that are alike are counted in advance, and made at once they change what they change one by one."""

from __future__ import annotations

from random import Random

import pytest

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.jumps import JumpingScheduler
from engine.kv.cache import BlockCache
from engine.sequence import Sequence
from engine.streams import StreamTokens

_FAR = 1 << 30


def scheduler(blocks: int = 64, budget: int = 64, running: int = 8, host: int = 0) -> JumpingScheduler:
    cache = BlockCache(blocks, ManualClock(), host_blocks=host, lease_share=1.0, max_ttl_s=60.0)
    return JumpingScheduler(cache, token_budget=budget, max_running=running, queue_limit=100)


def sequence(name: str, *pieces: tuple[int, int, int], most: int = 100) -> Sequence:
    tokens = StreamTokens(pieces, out=1_000 + sum(map(ord, name)), output=most)
    return Sequence(name, name, tokens, most)  # type: ignore[arg-type]


def run(it: JumpingScheduler, steps: int) -> None:
    for _ in range(steps):
        step = it.schedule()
        it.advance(step, [0] * len(step.sampled))
        it.check()


def state(it: JumpingScheduler) -> tuple[object, ...]:
    pool = it.cache.device.pool
    sequences = [(s.id, s.computed, len(s.tokens), len(s.table), s.recomputed_tokens, s.owed) for s in it.running]
    return sequences, it.tables.owed, pool.free, pool.active, pool.cached, sorted(map(str, it.cache.drain_events()))


def test_decodes_are_alike_as_far_as_memory_goes_and_nobody_comes() -> None:
    it = scheduler(blocks=16)
    it.add(sequence("a", (1, 0, 20)))
    it.add(sequence("b", (2, 0, 30)))
    run(it, 2)
    step = it.schedule()
    assert it.alike(step, 5) == 5
    assert it.alike(step, _FAR) < 16 * BLOCK_TOKENS, "memory ends"
    it.advance(step, [0, 0])
    it.add(sequence("c", (3, 0, 30)))
    assert it.alike(it.schedule(), 100) == 1, "a prompt ends in it"


def test_pieces_of_a_long_prompt_are_alike_until_its_last() -> None:
    it = scheduler()
    it.add(sequence("a", (1, 0, 5 * 64 + 1)))
    assert it.alike(it.schedule(), _FAR) == 5
    it = scheduler()
    it.add(sequence("even", (1, 0, 5 * 64)))
    assert it.alike(it.schedule(), _FAR) == 4, "the fifth ends it"


def test_a_prompt_that_follows_on_what_is_computed_is_served_as_it_comes() -> None:
    it = scheduler(budget=72)
    it.add(sequence("a", (1, 0, 500)))
    it.add(sequence("b", (1, 0, 300), (2, 0, 100)))
    assert it.alike(it.schedule(), _FAR) == 1
    it = scheduler(budget=72)
    it.add(sequence("a", (1, 0, 500)))
    it.add(sequence("b", (2, 0, 300)))
    assert it.alike(it.schedule(), _FAR) > 1


def test_memory_bounds_a_prompts_jump_and_a_host_tier_what_is_evicted_in_it() -> None:
    for host, most in ((0, 7), (100, 4)):
        it = scheduler(blocks=32, host=host)
        gone = sequence("gone", (9, 0, 16 * BLOCK_TOKENS), most=1)
        it.add(gone)
        run(it, 4)
        it.end(gone)
        it.add(sequence("a", (1, 0, 31 * BLOCK_TOKENS)))
        assert it.alike(it.schedule(), _FAR) == most


@pytest.mark.parametrize("seed", range(20))
def test_what_is_skipped_is_as_if_it_had_been_stepped(seed: int) -> None:
    """Two schedulers with the same sequences: one goes step by step, the other jumps as far as it may."""
    rng = Random(seed)
    prompts = [(number, 0, rng.randrange(10, 600)) for number in range(6)]
    outputs = [rng.randrange(5, 80) for _ in prompts]
    budget, blocks = rng.choice([40, 64, 100]), rng.randrange(60, 200)
    walks, jumps = scheduler(blocks, budget), scheduler(blocks, budget)
    jumped = 0
    for number in range(len(prompts)):
        for it in (walks, jumps):
            it.add(sequence(f"s{number}", prompts[number], most=outputs[number]))
        for _ in range(rng.randrange(1, 6)):
            step = jumps.schedule()
            if not step:
                break
            left = [s.max_tokens - s.generated for s in step.decodes]
            steps = jumps.alike(step, min(left, default=_FAR))
            if steps > 1:
                jumps.skip(step, steps - 1)
                jumped += steps - 1
            jumps.advance(step, [0] * len(step.sampled))
            run(walks, steps)
            for it in (walks, jumps):
                for one in [one for one in it.running if one.generated >= one.max_tokens]:
                    it.end(one)
                it.check()
            assert state(walks) == state(jumps)
    assert jumped > 0
