"""The peak of a batch's memory: checked against playing the batch through, token by token."""

from __future__ import annotations

import random

from engine.admission import peak_blocks
from engine.config import BLOCK_TOKENS
from engine.sequence import Sequence


def sequence(prompt: int, expected: int) -> Sequence:
    return Sequence("r", "p", [1] * prompt, 10_000, expected=expected)


def played(lengths: list[tuple[int, int]]) -> float:
    """The most tokens that sequences of (tokens now, tokens to come) hold while all decode in step."""
    peak, step = 0.0, 0
    while any(step <= more for _, more in lengths):
        peak = max(peak, sum(now + step for now, more in lengths if step <= more))
        step += 1
    return peak


def test_the_formula_is_the_worst_moment_of_the_batch_played_through() -> None:
    rng = random.Random(0)
    for _ in range(200):
        lengths = [(16 * rng.randrange(1, 40) - 1, rng.randrange(16, 600)) for _ in range(rng.randrange(1, 12))]
        batch = [sequence(now, more) for now, more in lengths]
        blocks = peak_blocks(batch[0], 0, batch[1:])
        exact = played([(now + 1, more) for now, more in lengths]) / BLOCK_TOKENS
        assert exact - 1 <= blocks <= exact + 2


def test_short_ones_leave_before_long_ones_are_at_their_longest() -> None:
    long, short = sequence(160, 1_600), [sequence(1_600, 16) for _ in range(4)]
    peak = peak_blocks(long, 0, short)
    assert peak < (160 + 1_600 + 4 * 1_616) / BLOCK_TOKENS * 0.85


def test_what_is_found_needs_no_room_of_its_own() -> None:
    one = sequence(1_600, 16)
    assert peak_blocks(one, 90, []) == peak_blocks(one, 0, []) - 90
