"""The cap on calls: nothing while the engine is quick, a floor under all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Usage
from orchestrator.scheduling.room import FLOOR, Room


def usage(decode_s: float, tokens: int = 100, prefill_s: float = 0.05, prompt: int = 2000) -> Usage:
    return Usage(prompt, 0, tokens, 0.0, prefill_s, decode_s)


def test_a_quick_engine_takes_all_that_come() -> None:
    room = Room(1000)
    for _ in range(100):
        room.ended(usage(1.0), 900)
    assert room.calls == 1000


def test_past_saturation_calls_are_taken_back_to_the_floor_and_come_again() -> None:
    room = Room(1000)
    inside = 256
    for _ in range(50):
        room.ended(usage(5.0), inside)  # 50 ms a token: 2,000 prompt tokens are read in that time
        inside = min(inside, room.calls)
    assert room.calls == FLOOR
    for _ in range(10):
        room.ended(usage(1.0), FLOOR)
    assert room.calls == FLOOR + 10


def test_short_outputs_and_cached_prompts_say_nothing() -> None:
    room = Room(100)
    room.ended(Usage(2000, 1990, 100, 0.0, 0.05, 50.0), 100)  # nobody knows yet how fast prompts are read
    room.ended(usage(100.0, tokens=3), 100)
    assert room.calls == 100


@given(st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 1000), st.integers(1, 2000)), max_size=100))
def test_it_stays_between_the_floor_and_the_limit(ended: list[tuple[float, int, int]]) -> None:
    room = Room(500)
    for decode_s, tokens, inside in ended:
        room.ended(usage(decode_s, tokens), inside)
        assert FLOOR <= room.calls <= 500
