"""Critical path, remaining critical path and slack, against networkx and against their definitions."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag import ProgramGraph, critical_path, expected_seconds, remaining, slack
from tenuto.wire import Call
from tests.dag.strategies import Program, fixed, programs
from tests.dag.test_graph import call


@fixed
@given(programs(), st.data())
def test_the_critical_path_is_the_longest_path(program: Program, data: st.DataObject) -> None:
    durations = {name: float(data.draw(st.integers(0, 9))) for name in program.needs}
    found = critical_path(program.graph(), lambda one: durations[one.id])
    digraph = program.digraph(durations)
    # networkx weighs edges: a last edge out of every sink carries the sink's own seconds.
    digraph.add_edges_from((name, "end", {"weight": durations[name]}) for name in program.needs)
    assert found.seconds == (nx.dag_longest_path_length(digraph) if program.calls else 0.0)
    assert sum(durations[name] for name in found.calls) == found.seconds
    for before, after in zip(found.calls, found.calls[1:], strict=False):
        assert before in program.needs[after]


def delayed(name: str, late: float) -> Callable[[Call], float]:
    return lambda one: expected_seconds(one) + (late if one.id == name else 0.0)


@fixed
@given(programs())
def test_remaining_and_slack_follow_from_their_definitions(program: Program) -> None:
    graph = program.graph()
    rest, spare = remaining(graph), slack(graph)
    assert set(rest) == set(spare) == set(program.needs)
    whole = critical_path(graph)
    assert max(rest.values(), default=0.0) == whole.seconds
    for name in rest:
        after = max((rest[other] for other in graph.successors(name)), default=0.0)
        assert rest[name] == expected_seconds(graph.calls[name]) + after
        assert spare[name] >= 0
        # Later by its slack the call still lets the program end in time; by any more it would not.
        for late, end in ((spare[name], whole.seconds), (spare[name] + 1, whole.seconds + 1)):
            assert critical_path(graph, delayed(name, late)).seconds == pytest.approx(end)
    assert all(spare[name] == 0 for name in whole.calls)


@fixed
@given(programs(), st.data())
def test_what_has_ended_or_is_lost_leaves_the_remaining_path(program: Program, data: st.DataObject) -> None:
    graph = program.graph()
    before = remaining(graph)
    lost = data.draw(st.sampled_from(sorted(program.needs))) if program.calls else None
    if lost is not None:
        graph.fail(lost)
    for name in list(graph.unfinished_calls):
        if not graph.predecessors(name):
            graph.end(name)
    after = remaining(graph)
    assert set(after) == set(graph.unfinished_calls)
    alive = set(after)
    for name, seconds in after.items():
        assert seconds <= before[name]
        kept = [other for other in graph.successors(name) if other in alive]
        assert seconds == expected_seconds(graph.calls[name]) + max((after[other] for other in kept), default=0.0)


def test_a_diamond() -> None:
    graph = ProgramGraph()
    calls: list[Call] = [
        call("join", "slow", "fast", expected_s=1.0),
        call("slow", "root", expected_s=5.0),
        call("fast", "root", expected_s=2.0),
        call("root", expected_s=1.0),
    ]
    graph.extend({}, calls, ("join",))
    assert critical_path(graph) == (("root", "slow", "join"), 7.0)
    assert remaining(graph) == {"root": 7.0, "slow": 6.0, "fast": 3.0, "join": 1.0}
    assert slack(graph) == {"root": 0.0, "slow": 0.0, "fast": 3.0, "join": 0.0}
    graph.end("root")
    assert remaining(graph) == {"slow": 6.0, "fast": 3.0, "join": 1.0}
    measured = {"root": 0.1, "slow": 1.0, "fast": 4.0, "join": 0.1}
    assert critical_path(graph, lambda one: measured[one.id]).calls == ("root", "fast", "join")


def test_an_empty_graph_has_an_empty_path() -> None:
    assert critical_path(ProgramGraph()) == ((), 0.0)
    assert remaining(ProgramGraph()) == slack(ProgramGraph()) == {}
