"""The hold's books: who is inside, how much that is, and who may come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduling import Hold

steps = st.lists(
    st.tuples(st.sampled_from(["begin", "end", "drop"]), st.integers(0, 3), st.integers(0, 50)),
    max_size=80,
)


@given(steps)
def test_the_books_agree_after_every_step(events: list[tuple[str, int, int]]) -> None:
    hold = Hold(100, reserve=0.0)
    running: dict[str, list[int]] = {}
    for what, number, tokens in events:
        program = f"p{number}"
        calls = running.setdefault(program, [])
        if what == "begin":
            hold.began(program, tokens)
            calls.append(tokens)
        elif what == "end" and calls:
            hold.ended(program, calls.pop(), tokens)
        elif what == "drop":
            hold.kept(program, 0)
        hold.check()
        assert hold.at_work == sum(map(bool, running.values()))
        assert all(hold.is_inside(name) for name, of in running.items() if of)
        assert hold.shortage(10) == (max(0, hold.used + 10 - 100) if len(hold) else 0)
    for program, calls in running.items():
        for tokens in calls:
            hold.ended(program, tokens, 0)
        hold.kept(program, 0)
    assert hold.used == 0 and len(hold) == 0


def test_a_call_that_goes_on_with_what_was_kept_needs_it_once() -> None:
    hold = Hold(1000, reserve=0.0)
    hold.began("p", 100)
    hold.ended("p", 100, 110)
    assert hold.used == 110 and hold.is_inside("p") and hold.at_work == 0
    hold.began("p", 130)
    assert hold.used == 130
    hold.ended("p", 130, 140)
    hold.kept("p", 0)
    assert hold.used == 0 and not hold.is_inside("p")


def test_parallel_calls_need_their_sum() -> None:
    hold = Hold(1000, reserve=0.0)
    for _ in range(4):
        hold.began("p", 50)
    assert hold.used == 200 and hold.at_work == 1


def test_newcomers_leave_a_reserve_for_the_growth_of_those_inside() -> None:
    hold = Hold(1000, reserve=0.2)
    assert hold.shortage(5000) == 0  # nobody is inside: it is served as if it were alone
    hold.began("p", 700)
    assert hold.shortage(100) == 0 and hold.shortage(101) == 1
    hold.began("p", 250)
    assert hold.excess == 50


def test_an_unknown_capacity_holds_nobody() -> None:
    hold = Hold()
    hold.began("p", 10**9)
    assert hold.shortage(10**9) == 0 and hold.excess == 0
