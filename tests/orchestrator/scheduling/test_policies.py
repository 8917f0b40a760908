"""Policies are pure: the order is a function of the events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag.graph import ProgramGraph
from orchestrator.scheduling import POLICIES, EndedCall, Policy, ProgramArrival, ReadyCall, UnknownPolicy, make_policy
from tenuto.wire import Objective
from tests.orchestrator.runtime.support import llm


def arrive(policy: Policy, program: str, now: float = 0.0) -> None:
    policy.program_arrived(ProgramArrival(program, "t", "w", Objective(), ProgramGraph()), now)


def ready(policy: Policy, program: str, call: str = "c", now: float = 0.0) -> tuple[float, ...]:
    return policy.call_ready(ReadyCall(program, llm(call)), now)


def test_fcfs_goes_by_the_moment_a_call_became_ready() -> None:
    policy = make_policy("fcfs")
    arrive(policy, "late")
    arrive(policy, "early")
    keys = [ready(policy, program) for program in ("early", "late", "early")]
    assert keys == sorted(keys) and len(set(keys)) == 3


def test_program_fcfs_goes_by_the_arrival_of_the_program_then_by_readiness() -> None:
    policy = make_policy("program_fcfs")
    for program in ("first", "second"):
        arrive(policy, program)
    of_second = ready(policy, "second")
    of_first = [ready(policy, "first", "a"), ready(policy, "first", "b")]
    assert of_first[0] < of_first[1] < of_second


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=40))
def test_program_fcfs_never_lets_a_later_program_overtake(calls: list[tuple[int, int]]) -> None:
    policy = make_policy("program_fcfs")
    for program in range(5):
        arrive(policy, str(program))
    keys = [(program, ready(policy, str(program), f"c{call}")) for program, call in calls]
    for program, key in keys:
        assert all(key < other_key for other, other_key in keys if other > program)
    assert len({key for _, key in keys}) == len(keys)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_is_a_function_of_its_events_and_forgets_ended_programs(name: str) -> None:
    def play(policy: Policy) -> list[object]:
        told: list[object] = []
        for n in range(50):
            arrive(policy, f"p{n}", n)
            told.append(ready(policy, f"p{n}", now=n))
            told.append(dict(policy.tokens_made(f"p{n}", "c", 3, n + 0.5)))
            told.append(dict(policy.call_ended(EndedCall(f"p{n}", llm("c"), 1.0, None, True), n + 1.0)))
            told.append(dict(policy.program_ended(f"p{n}", n + 1.0)))
        return told

    first, second = make_policy(name), make_policy(name)
    assert play(first) == play(second)
    assert first.name == name
    assert not any(isinstance(state, dict) and state for state in vars(first).values())


def test_an_unknown_policy_lists_the_names_there_are() -> None:
    with pytest.raises(UnknownPolicy, match="fcfs, plas, program_fcfs, tenuto, urgency"):
        make_policy("best")
