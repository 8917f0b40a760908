"""HexGen-Flow's rule, and the defects of its public code that this one lacks."""

from __future__ import annotations

import pytest

from dag.graph import ProgramGraph
from orchestrator.scheduling import EndedCall, ProgramArrival, ReadyCall
from orchestrator.scheduling.urgency import Urgency
from tenuto.wire import Objective
from tests.orchestrator.runtime.support import llm


def chain(deadline_s: float, *seconds: float) -> ProgramGraph:
    graph = ProgramGraph(Objective(kind="deadline", deadline_s=deadline_s))
    calls = [
        llm(f"c{n}").model_copy(update={"expected_s": s, "stage": f"s{n}", "after": (f"c{n - 1}",) if n else ()})
        for n, s in enumerate(seconds)
    ]
    graph.extend({}, calls, [])
    return graph


def arrive(policy: Urgency, name: str, graph: ProgramGraph, now: float = 0.0) -> None:
    policy.program_arrived(ProgramArrival(name, "t", name, graph.objective, graph), now)


def ready(policy: Urgency, name: str, graph: ProgramGraph, call: str, now: float) -> float:
    return policy.call_ready(ReadyCall(name, graph.calls[call]), now)[0]


def test_a_stage_gets_its_share_of_the_time_that_is_left() -> None:
    policy, graph = Urgency(), chain(100.0, 10.0, 30.0)
    arrive(policy, "p", graph)
    # budget 100 * 10 / 40 = 25 s, of which 10 s are work: it may start 15 s late
    assert ready(policy, "p", graph, "c0", 0.0) == pytest.approx(15.0)
    graph.end("c0")
    # 40 s are left for the last stage's 30 s
    assert ready(policy, "p", graph, "c1", 60.0) == pytest.approx(70.0)


def test_the_least_slack_goes_first() -> None:
    policy, tight, loose = Urgency(), chain(12.0, 10.0), chain(100.0, 10.0)
    arrive(policy, "loose", loose)
    arrive(policy, "tight", tight)
    assert ready(policy, "tight", tight, "c0", 0.0) < ready(policy, "loose", loose, "c0", 0.0)


def test_budgets_do_not_shrink_with_the_number_of_programs_served() -> None:
    """The public code shares one list of stages among all programs and empties it."""
    policy = Urgency()
    keys = []
    for number in range(20):
        graph = chain(100.0, 10.0, 30.0)
        arrive(policy, f"p{number}", graph)
        keys.append(ready(policy, f"p{number}", graph, "c0", 0.0))
        graph.end("c0")
        ready(policy, f"p{number}", graph, "c1", 10.0)
    assert keys == pytest.approx([15.0] * 20)


def test_expectations_come_from_calls_of_the_stage() -> None:
    policy, graph = Urgency(), chain(100.0, 10.0, 30.0)
    arrive(policy, "p", graph)
    for _ in range(100):
        policy.call_ended(EndedCall("p", graph.calls["c0"], 50.0, None, True), 0.0)
    other = chain(100.0, 10.0, 30.0)
    policy.program_arrived(ProgramArrival("q", "t", "p", other.objective, other), 0.0)
    own_s, after_s = policy._seconds.mean("p", "s0", 10.0), policy._seconds.mean("p", "s1", 30.0)
    expected = 100.0 * own_s / (own_s + after_s) - own_s
    assert own_s == pytest.approx(50.0, rel=0.1)
    assert ready(policy, "q", other, "c0", 0.0) == pytest.approx(expected)
