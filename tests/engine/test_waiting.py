"""The queue's order under keys that change, one or thousands at a time."""

from __future__ import annotations

import random

import pytest

from engine.sequence import Sequence
from engine.waiting import WaitingQueue


def sequences(count: int) -> list[Sequence]:
    made = [Sequence(f"r{index}", f"p{index % 7}", [1] * (index % 5 + 1), 9) for index in range(count)]
    for arrival, sequence in enumerate(made):
        sequence.arrival = arrival
    return made


@pytest.mark.parametrize("seed", range(4))
def test_the_head_is_always_the_first_in_order(seed: int) -> None:
    rng = random.Random(seed)
    queue, waiting = WaitingQueue(), set[Sequence]()
    everyone = sequences(120)
    for _ in range(600):
        draw = rng.random()
        if draw < 0.4 and len(waiting) < len(everyone):
            sequence = rng.choice([one for one in everyone if one not in waiting])
            waiting.add(sequence)
            queue.add(sequence)
        elif draw < 0.6 and waiting:
            sequence = rng.choice(sorted(waiting, key=lambda one: one.arrival))
            waiting.remove(sequence)
            queue.remove(sequence)
        elif waiting:
            many = rng.choice((1, 2, len(waiting)))
            for sequence in rng.sample(sorted(waiting, key=lambda one: one.arrival), min(many, len(waiting))):
                sequence.key = rng.choice(((float(rng.randrange(3)),), (float(rng.randrange(3)), rng.random())))
                queue.moved(sequence)
        if rng.random() < 0.7:
            expected = min(waiting, key=lambda one: one.order, default=None)
            assert queue.head() is expected
        queue.check()
    assert len(queue) == len(waiting)


def test_entries_that_died_do_not_pile_up() -> None:
    queue = WaitingQueue()
    everyone = sequences(200)
    for sequence in everyone:
        queue.add(sequence)
    for turn in range(2_000):
        sequence = everyone[turn % len(everyone)]
        sequence.key = (float(turn),)
        queue.moved(sequence)
        queue.head()
    assert len(queue._heap) < 3 * len(everyone) + 64
    queue.check()


def test_programs_and_tokens_are_counted() -> None:
    queue = WaitingQueue()
    everyone = sequences(10)
    for sequence in everyone:
        queue.add(sequence)
    assert queue.has("p3") and queue.tokens == sum(len(one.tokens) for one in everyone)
    queue.remove(everyone[3])
    assert not queue.has("p3") and queue.has("p0") and everyone[3] not in queue
    queue.remove(everyone[0])
    assert queue.has("p0"), "p0 has another one"
