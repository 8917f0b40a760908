"""Placement by expected finish; and the placement defects of Parrot's public code, which this one lacks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduling.placement import EngineLoad, finish_s, order

READ_S = 1e-4


def place_all(loads: list[EngineLoad], calls: int, work_s: float = 1.0, prompt: int = 1000) -> Counter[str]:
    """One call after the other, each adding to the load where it goes."""
    known = {load.name: load for load in loads}
    placed: Counter[str] = Counter()
    for _ in range(calls):
        name = order(known.values(), work_s, prompt, READ_S)[0]
        placed[name] += 1
        known[name] = replace(known[name], waiting_s=known[name].waiting_s + work_s / known[name].speed)
    return placed


def test_bulk_work_does_not_lie_down_beside_urgent_work_while_engines_idle() -> None:
    busy = EngineLoad("e0", waiting_s=2.0)
    placed = place_all([busy, EngineLoad("e1"), EngineLoad("e2"), EngineLoad("e3")], 6)
    assert placed == {"e1": 2, "e2": 2, "e3": 2}


def test_calls_spread_over_idle_engines() -> None:
    assert set(place_all([EngineLoad(f"e{n}") for n in range(4)], 8).values()) == {2}


def test_a_resident_prefix_draws_until_its_engine_is_busier_than_it_saves() -> None:
    holder, other = EngineLoad("holder", resident_tokens=20_000), EngineLoad("other")
    assert order([other, holder], 1.0, 21_000, READ_S)[0] == "holder"
    assert order([other, replace(holder, waiting_s=1.9)], 1.0, 21_000, READ_S)[0] == "holder"
    assert order([other, replace(holder, waiting_s=2.1)], 1.0, 21_000, READ_S)[0] == "other"


def test_a_faster_engine_gets_more() -> None:
    placed = place_all([EngineLoad("slow"), EngineLoad("fast", speed=3.0)], 16)
    assert placed["fast"] == 3 * placed["slow"]


def test_memory_that_must_come_free_counts() -> None:
    assert order([EngineLoad("full", short_tokens=30_000), EngineLoad("room", waiting_s=2.0)], 1.0, 0, READ_S) == [
        "room",
        "full",
    ]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 10), st.integers(0, 10**5)), min_size=1, max_size=8))
def test_the_first_is_never_later_than_any_other(engines: list[tuple[float, float, int]]) -> None:
    loads = [EngineLoad(f"e{n}", w, s, m) for n, (w, s, m) in enumerate(engines)]
    names = order(loads, 3.0, 5000, READ_S)
    ends = {load.name: finish_s(load, 3.0, 5000, READ_S) for load in loads}
    assert [ends[name] for name in names] == sorted(ends.values())
