"""What each step computes: the budget, the order of keys, shared prefixes, memory, re-keying."""

from __future__ import annotations

import pytest

from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS
from engine.kv.cache import BlockCache, CopyKind
from engine.protocol import QueueFull
from engine.scheduler import Scheduler
from engine.sequence import Sequence, State
from engine.step import Step


def scheduler(blocks: int = 64, budget: int = 64, running: int = 8, queue: int = 100) -> Scheduler:
    cache = BlockCache(blocks, ManualClock(), lease_share=1.0, max_ttl_s=60.0)
    return Scheduler(cache, token_budget=budget, max_running=running, queue_limit=queue)


def sequence(name: str, tokens: list[int] | int, key: float = 0.0, program: str = "") -> Sequence:
    """A prompt of these ids, or of so many ids of its own."""
    if isinstance(tokens, int):
        first = sum(map(ord, name)) * 1_000
        tokens = list(range(first, first + tokens))
    return Sequence(name, program or name, list(tokens), 100, key=(key,))


def run(scheduler: Scheduler, steps: int = 1) -> list[Step]:
    """Do the next steps; every sampled sequence gets the token 1."""
    done = []
    for _ in range(steps):
        step = scheduler.schedule()
        scheduler.check()
        scheduler.advance(step, [1] * len(step.sampled))
        scheduler.check()
        done.append(step)
    return done


def summary(step: Step) -> tuple[list[str], list[tuple[str, int, int]]]:
    return [s.id for s in step.decodes], [(p.sequence.id, p.start, p.count) for p in step.pieces]


def test_a_step_takes_decodes_first_then_prompts_within_the_budget() -> None:
    it = scheduler(budget=40)
    it.add(sequence("a", 10))
    assert summary(run(it)[0]) == ([], [("a", 0, 10)])
    it.add(sequence("b", 100))
    it.add(sequence("c", 5))
    steps = run(it, 4)
    assert [summary(step) for step in steps] == [
        (["a"], [("b", 0, 32), ("c", 0, 5)]),
        (["a", "c"], [("b", 32, 32)]),
        (["a", "c"], [("b", 64, 36)]),
        (["a", "b", "c"], []),
    ]
    assert all(step.tokens <= 40 for step in steps)
    assert [s.id for s in steps[2].sampled] == ["a", "c", "b"]


def test_pieces_that_are_not_the_last_end_with_a_block() -> None:
    it = scheduler(budget=30)
    it.add(sequence("a", 75))
    assert [step.pieces[0].count for step in run(it, 4)] == [16, 16, 16, 27]


def test_keys_decide_who_is_served_and_arrival_breaks_ties() -> None:
    it = scheduler(running=1)
    for name, key in (("late", 2.0), ("first", 1.0), ("second", 1.0), ("urgent", 0.0)):
        it.add(sequence(name, 5, key))
    order = []
    while it.has_work:
        (step,) = run(it)
        order.append(step.sequences[0].id)
        it.end(step.sequences[0])
    assert order == ["urgent", "first", "second", "late"]


def test_a_more_urgent_prompt_goes_before_a_running_one() -> None:
    it = scheduler(budget=32)
    it.add(sequence("slow", 200, 5.0))
    run(it)
    it.add(sequence("urgent", 40, 1.0))
    assert [summary(step)[1] for step in run(it, 2)] == [[("urgent", 0, 32)], [("urgent", 32, 8), ("slow", 32, 16)]]


def test_a_new_key_reorders_queue_and_running_from_the_next_step() -> None:
    it = scheduler(budget=24, running=2)
    a, b, c = sequence("a", 100, 1.0, "p"), sequence("b", 100, 2.0, "q"), sequence("c", 20, 3.0, "r")
    for one in (a, b, c):
        it.add(one)
    assert summary(run(it)[0])[1] == [("a", 0, 16)]
    it.reprioritize("q", (0.0,))
    assert summary(run(it)[0])[1] == [("b", 0, 16)]
    it.reprioritize("r", (-1.0,))
    it.reprioritize("nobody", (-9.0,))
    assert summary(run(it)[0])[1] == [("c", 0, 20)]
    assert a.state is State.WAITING and len(a.table) == 1, "the last of those that run pauses, and keeps its blocks"
    it.reprioritize("p", (-2.0,))
    assert summary(run(it)[0])[1] == [("a", 16, 16)]
    assert a.preemptions == 0 and [s.id for s in it.running] == ["a", "c"]


def test_a_key_that_changes_back_and_forth_counts_once() -> None:
    it = scheduler(running=1)
    first = sequence("first", 5, 0.0)
    it.add(first)
    run(it)
    it.add(sequence("a", 5, 1.0))
    it.add(sequence("b", 5, 2.0))
    for key in (3.0, 1.0, 3.0, 1.0) * 100:
        it.reprioritize("a", (key,))
        it.check()
        it.schedule()
    assert len(it.queue._heap) + len(it.queue._unplaced) < 100, "stale entries pile up"
    it.end(first)
    assert summary(run(it)[0])[1] == [("a", 0, 5)]
    assert len(it.queue) == 1


def test_siblings_in_one_step_share_what_is_being_computed() -> None:
    it = scheduler(budget=200)
    shared = list(range(50))
    for index in range(4):
        it.add(sequence(f"s{index}", [*shared, 900 + index], program="p"))
    (step,) = run(it)
    assert summary(step)[1] == [("s0", 0, 51), ("s1", 48, 3), ("s2", 48, 3), ("s3", 48, 3)]
    tables = [piece.sequence.table for piece in step.pieces]
    assert len({tuple(table[:3]) for table in tables}) == 1
    assert len({table[3] for table in tables}) == 4
    assert [piece.sequence.cached_tokens for piece in step.pieces] == [0, 48, 48, 48]


def test_a_sibling_waits_for_a_prefix_that_takes_several_steps() -> None:
    it = scheduler(budget=64)
    shared = list(range(150))
    it.add(sequence("first", [*shared, 1, 2, 3], program="p"))
    run(it)
    it.add(sequence("second", [*shared, 7, 8, 9], program="p"))
    computed = [piece for step in run(it, 4) for piece in step.pieces]
    positions = [(p.start + i) // BLOCK_TOKENS for p in computed for i in range(p.count) if p.start + i < 144]
    assert len(positions) == 144 - 64, "a position of the shared prefix was computed twice"
    second = [piece for piece in computed if piece.sequence.id == "second"]
    assert [(piece.start, piece.count) for piece in second] == [(144, 9)]


def test_a_sibling_goes_on_alone_when_the_first_is_aborted() -> None:
    it = scheduler(budget=64)
    shared = list(range(150))
    first, second = sequence("first", [*shared, 1], program="p"), sequence("second", [*shared, 2], program="p")
    it.add(first)
    it.add(second)
    run(it)
    it.end(first)
    pieces = [piece for step in run(it, 3) for piece in step.pieces]
    assert [(piece.sequence.id, piece.start, piece.count) for piece in pieces] == [
        ("second", 64, 64),
        ("second", 128, 23),
    ]


def test_generated_blocks_are_found_again() -> None:
    it = scheduler()
    a = sequence("a", 30)
    it.add(a)
    run(it, 20)
    tokens = list(a.tokens)
    it.end(a)
    b = sequence("b", [*tokens, 5, 6, 7])
    it.add(b)
    run(it)
    assert b.cached_tokens == (len(tokens) - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def test_a_salt_keeps_prefixes_apart() -> None:
    it = scheduler(budget=200)
    tokens = list(range(50))
    one, other = sequence("one", tokens), sequence("other", tokens)
    other.salt = "tenant"
    it.add(one)
    it.add(other)
    run(it)
    assert not set(one.table) & set(other.table) and other.cached_tokens == 0


def test_the_last_in_order_is_preempted_when_blocks_run_out() -> None:
    it = scheduler(blocks=8, running=3)
    a, b, c = (sequence(name, 15, key) for name, key in (("a", 1.0), ("b", 3.0), ("c", 2.0)))
    for one in (a, b, c):
        it.add(one)
    run(it, 40)
    assert (a.preemptions, c.preemptions) == (0, 0) and b.preemptions > 0
    assert a.state is c.state is State.RUNNING and b.state is State.WAITING
    assert len(a.tokens) == len(c.tokens) == 15 + 40
    it.end(a)
    run(it, 2)
    assert b.state is State.RUNNING and b.cached_tokens == 0, "what it had computed itself is not a cache hit"


def test_the_first_in_order_always_gets_memory() -> None:
    it = scheduler(blocks=4)
    a = sequence("a", 15)
    it.add(a)
    run(it)
    it.add(sequence("b", 10, -1.0))
    for _ in range(45):
        (step,) = run(it)
        assert step, "there is work and nothing is done"


def test_a_head_that_does_not_fit_lets_nobody_pass() -> None:
    it = scheduler(blocks=8)
    running, big, small = sequence("running", 60, 0.0), sequence("big", 100, 1.0), sequence("small", 5, 2.0)
    it.add(running)
    run(it)
    it.add(big)
    it.add(small)
    run(it, 3)
    assert big.state is small.state is State.WAITING
    it.end(running)
    run(it)
    assert big.state is State.RUNNING


def test_a_full_queue_refuses() -> None:
    it = scheduler(queue=2)
    it.add(sequence("a", 5))
    it.add(sequence("b", 5))
    with pytest.raises(QueueFull, match="limit is 2"):
        it.add(sequence("c", 5))
    run(it)
    it.add(sequence("c", 5))
    it.check()


def test_ending_is_idempotent_and_gives_everything_back() -> None:
    it = scheduler()
    a, b = sequence("a", 40), sequence("b", 40)
    it.add(a)
    run(it)
    it.add(b)
    for one in (a, a, b, b):
        it.end(one)
        it.check()
    assert not it.has_work and it.queue.tokens == 0
    assert it.cache.device.pool.active == 0 and it.cache.device.pool.cached == 3, "the partial block is kept, too"


def drive(it: Scheduler, tokens: int = 1, steps: int = 1) -> list[tuple[CopyKind, list[tuple[int, int]]]]:
    """Do steps as `run` does; the copies that they would have made."""
    copies: list[tuple[CopyKind, list[tuple[int, int]]]] = []
    for _ in range(steps):
        step = it.schedule()
        copies += it.cache.copies
        it.cache.copies = []
        it.check()
        it.advance(step, [tokens] * len(step.sampled))
        it.check()
    return copies


def with_host(blocks: int, host: int, running: int = 8) -> Scheduler:
    cache = BlockCache(blocks, ManualClock(), host_blocks=host, lease_share=1.0, max_ttl_s=60.0)
    cache.spills = False
    return Scheduler(cache, token_budget=64, max_running=running, queue_limit=100)


def test_who_must_leave_the_device_goes_to_the_host_and_comes_back() -> None:
    it = with_host(9, 20)
    first, last = sequence("first", 60, 0.0), sequence("last", 40, 1.0)
    it.add(first)
    it.add(last)
    copies = drive(it, steps=24)
    assert last.preemptions == 1 and len(last.saved) == -(-(len(last.tokens) - 1) // BLOCK_TOKENS)
    assert [(kind, len(pairs)) for kind, pairs in copies] == [(CopyKind.DEVICE_TO_HOST, len(last.saved))]
    computed = len(last.tokens) - 1
    it.end(first)
    others = it.cache.device.take(9)  # whatever was still cached on the device is gone
    assert others is not None
    it.cache.release(others)
    copies = drive(it)
    assert last.state is State.RUNNING and last.recomputed_tokens == 0
    assert [kind for kind, _ in copies] == [CopyKind.HOST_TO_DEVICE] and not last.saved
    assert last.computed == computed + 1, "only the last token was run again"


def test_what_is_cheaper_to_compute_is_not_copied() -> None:
    it = with_host(9, 20)
    it.tables.copy_s_per_block, it.tables.prefill_s_per_token = 1.0, 1e-6
    it.add(sequence("first", 60, 0.0))
    last = sequence("last", 40, 1.0)
    it.add(last)
    assert drive(it, steps=24) == [] and last.preemptions == 1 and not last.saved


def test_a_full_host_means_computing_again() -> None:
    it = with_host(9, 2)
    it.add(sequence("first", 60, 0.0))
    last = sequence("last", 40, 1.0)
    it.add(last)
    assert drive(it, steps=24) == [] and last.preemptions == 1 and not last.saved


def test_an_urgent_prompt_takes_memory_from_decodes_that_are_not() -> None:
    it = scheduler(blocks=8, running=4)
    patient = [sequence(f"patient{index}", 40, 5.0) for index in range(2)]
    for one in patient:
        it.add(one)
    run(it, 3)
    equal, urgent = sequence("equal", 40, 5.0), sequence("urgent", 60, 1.0)
    it.add(equal)
    run(it, 2)
    assert equal.state is State.WAITING, "who is no more urgent waits"
    it.add(urgent)
    run(it, 1)
    assert urgent.state is State.RUNNING and urgent.computed == 60
    assert [one.state for one in patient] == [State.RUNNING, State.WAITING] and patient[1].preemptions == 1


def test_expected_lengths_decide_how_many_are_admitted() -> None:
    for expected, admitted in ((16, 6), (160, 2)):
        it = scheduler(blocks=24, budget=1_000, running=8)
        for index in range(8):
            one = sequence(f"{index}", 40)
            one.expected = expected
            it.add(one)
        run(it)
        assert len(it.running) == admitted


def test_a_lower_limit_pauses_the_last_and_a_higher_one_lets_them_go_on() -> None:
    it = scheduler(running=4)
    everyone = [sequence(f"{index}", 20, float(index)) for index in range(4)]
    for one in everyone:
        it.add(one)
    run(it, 4)
    it.limit_running(2)
    run(it, 2)
    assert [s.id for s in it.running] == ["0", "1"] and everyone[3].table, "their KV stays"
    it.limit_running(100)
    (step,) = run(it)
    assert {s.id for s in step.decodes} == {"0", "1", "2", "3"}, "nobody computes anything again"
    assert all(one.preemptions == 0 for one in everyone)


def test_drafts_are_verified_within_budget_and_memory() -> None:
    it = scheduler(blocks=4, budget=40)
    a = sequence("a", 20)
    it.add(a)
    run(it, 2)
    it.draft(a, (7, 8, 9))
    step = it.schedule()
    assert not step.decodes and [(p.count, p.draft) for p in step.pieces] == [(4, (7, 8, 9))]
    it.advance(step, [(7, 8, 5)])
    it.check()
    assert a.tokens[-3:] == [7, 8, 5] and a.computed == len(a.tokens) - 1
    (step,) = run(it)
    assert step.decodes == [a]
    it.draft(a, tuple(range(1, 99)))
    step = it.schedule()
    assert step.pieces[0].start + step.pieces[0].count <= 4 * BLOCK_TOKENS
    assert step.tokens <= 40


def test_the_list_of_decodes_stays_the_same_while_its_members_do() -> None:
    it = scheduler()
    it.add(sequence("a", 20))
    it.add(sequence("b", 20))
    first, second, third = run(it, 3)
    assert second.decodes is third.decodes and second.version == third.version != first.version
    it.end(second.decodes[0])
    (fourth,) = run(it)
    assert fourth.version != third.version and [s.id for s in fourth.decodes] == ["b"]
