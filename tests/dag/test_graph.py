"""Readiness: each call is ready once, when and only when all that it needs has ended."""

from __future__ import annotations

import copy
import random
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag import CallState, CallStateError, GraphLimits, InvalidGraph, ProgramGraph
from tenuto.wire import Call, FunctionCall, InputVariable, Objective, Reference
from tests.dag.strategies import INPUTS, Program, fixed, growths, programs, ready_by_definition


def call(name: str, *reads: str, after: tuple[str, ...] = (), **more: Any) -> FunctionCall:
    arguments = {f"a{index}": Reference(variable=variable) for index, variable in enumerate(reads)}
    return FunctionCall(id=name, tool="t", arguments=arguments, after=after, **more)


def snapshot(graph: ProgramGraph) -> Any:
    """Everything that can be seen of a graph, by value."""
    return copy.deepcopy(
        {
            "calls": dict(graph.calls),
            "unfinished": list(graph.unfinished_calls),
            "variables": dict(graph.variables),
            "producers": {name: graph.producer(name) for name in graph.variables},
            "consumers": {name: graph.consumers(name) for name in graph.variables},
            "outputs": graph.outputs,
            "edges": {name: (graph.predecessors(name), graph.successors(name)) for name in graph.calls},
            "states": {
                name: (graph.state(name), graph.cause(name), graph.depth(name), graph.read_by_client(name))
                for name in graph.calls
            },
            "order": [name for name, _ in graph.topological()],
        }
    )


@fixed
@given(programs(), st.randoms(use_true_random=False))
def test_a_call_is_ready_once_and_only_after_all_its_inputs(program: Program, rng: random.Random) -> None:
    graph = ProgramGraph()
    ready = list(graph.extend(INPUTS, program.calls, program.outputs))
    seen, ended = set(ready), set[str]()
    assert seen == ready_by_definition(program.needs, ended)
    while ready:
        name = ready.pop(rng.randrange(len(ready)))
        ended.add(name)
        woken = graph.end(name)
        assert not seen.intersection(woken)
        seen.update(woken)
        ready.extend(woken)
        assert seen == ready_by_definition(program.needs, ended)
        assert graph.unfinished == len(program.calls) - len(ended)
    assert ended == set(program.needs)


@fixed
@given(growths(), st.randoms(use_true_random=False))
def test_growing_in_any_order_while_running_gives_the_graph_declared_whole(
    grown: tuple[Program, list[list[Call]]], rng: random.Random
) -> None:
    program, slices = grown
    graph = ProgramGraph()
    ready = list(graph.extend(INPUTS, (), ()))
    seen, ended = set[str](), set[str]()
    declared: dict[str, frozenset[str]] = {}
    for some in slices:
        woken = graph.extend({}, some, ())
        declared.update((new.id, program.needs[new.id]) for new in some)
        seen.update(woken)
        ready.extend(woken)
        while ready and rng.random() < 0.7:
            name = ready.pop(rng.randrange(len(ready)))
            ended.add(name)
            woken = graph.end(name)
            assert not seen.intersection(woken)
            seen.update(woken)
            ready.extend(woken)
        assert seen == ready_by_definition(declared, ended)
    whole = program.graph()
    for name in whole.calls:
        assert set(graph.predecessors(name)) == set(whole.predecessors(name)) == program.needs[name]
        assert set(graph.successors(name)) == set(whole.successors(name))
        assert graph.depth(name) == whole.depth(name)


@fixed
@given(programs(), st.data())
def test_failing_skips_exactly_the_descendants(program: Program, data: st.DataObject) -> None:
    if not program.calls:
        return
    graph = program.graph()
    digraph = program.digraph()
    lost: set[str] = set()
    for name in data.draw(st.lists(st.sampled_from(sorted(program.needs)), min_size=1, max_size=3, unique=True)):
        if name in lost:
            with pytest.raises(CallStateError):
                graph.fail(name)
            continue
        skipped = graph.fail(name)
        assert set(skipped) == nx.descendants(digraph, name) - lost
        assert list(skipped) == [other for other in graph.calls if other in set(skipped)]  # declaration order
        assert all(graph.cause(other) == name and graph.state(other) is CallState.SKIPPED for other in skipped)
        lost |= {name, *skipped}
    assert set(graph.unfinished_calls) == set(program.needs) - lost
    # What is left runs to its end as if the lost had never been.
    ended: set[str] = set()
    while runnable := [name for name in graph.unfinished_calls if graph.state(name) is CallState.READY]:
        graph.end(runnable[0])
        ended.add(runnable[0])
    assert ended == set(program.needs) - lost
    assert graph.unfinished == 0


@fixed
@given(growths(), st.sampled_from(["unknown", "cycle", "duplicate", "value", "output"]))
def test_a_rejected_extension_leaves_the_graph_unchanged(grown: tuple[Program, list[list[Call]]], fault: str) -> None:
    program, slices = grown
    graph = ProgramGraph()
    first = graph.extend(INPUTS, (call("root", "question"), call("root2")), ("root",))
    graph.end(first[0])
    before = snapshot(graph)
    inputs: dict[str, InputVariable] = {}
    outputs: tuple[str, ...] = ()
    bad: list[Call] = []
    if fault == "unknown":
        bad = [call("bad", "nowhere")]
    elif fault == "cycle":
        bad = [call("bad", "worse"), call("worse", "bad")]
    elif fault == "duplicate":
        bad = [call("root")]
    elif fault == "value":
        inputs = {"late": InputVariable(value=3)}
    else:
        outputs = ("nowhere",)
    with pytest.raises(InvalidGraph):
        graph.extend(inputs, [*program.calls, *bad], outputs)
    assert snapshot(graph) == before
    for some in slices:  # and it goes on as if nothing had been asked
        graph.extend({}, some, ())
    assert set(graph.calls) == {"root", "root2", *program.needs}


def test_ready_calls_come_in_declaration_order() -> None:
    graph = ProgramGraph()
    calls = [call("z", "root"), call("b", "root"), call("root"), call("a", "root"), call("free")]
    assert graph.extend({}, calls, ()) == ("root", "free")
    assert graph.end("root") == ("z", "b", "a")


def test_after_is_an_edge_without_a_value() -> None:
    graph = ProgramGraph()
    assert graph.extend({}, [call("b", after=("a",)), call("a")], ()) == ("a",)
    assert graph.consumers("a") == ()
    assert graph.predecessors("b") == ("a",)
    assert graph.end("a") == ("b",)


def test_reading_a_variable_twice_is_one_edge() -> None:
    graph = ProgramGraph()
    graph.extend({}, [call("a"), call("b", "a", "a", after=("a",))], ())
    assert graph.predecessors("b") == ("a",)
    assert graph.consumers("a") == ("b",)
    assert graph.end("a") == ("b",)


def test_new_calls_on_ended_ones_are_ready_at_once_and_on_failed_ones_skipped_at_once() -> None:
    graph = ProgramGraph()
    graph.extend({}, [call("good"), call("bad"), call("lost", "bad"), call("slow")], ())
    graph.end("good")
    graph.fail("bad")
    new = [call("late", "good"), call("deep", "lost2"), call("lost2", "lost"), call("direct", "good", "bad")]
    assert graph.extend({}, new, ()) == ("late",)
    assert {name: graph.state(name) for name in ("deep", "lost2", "direct")} == dict.fromkeys(
        ("deep", "lost2", "direct"), CallState.SKIPPED
    )
    assert {graph.cause(name) for name in ("deep", "lost2", "direct")} == {"bad"}
    assert graph.unfinished == 2
    assert graph.extend({}, [call("both", "slow", "bad"), call("rest", "slow")], ()) == ()
    assert graph.end("slow") == ("rest",)  # never "both", although nothing it needs is left to end
    assert graph.state("both") is CallState.SKIPPED


def test_producers_consumers_and_outputs() -> None:
    graph = ProgramGraph()
    graph.extend(INPUTS, [call("a", "question", output="x"), call("b", "x", "question")], ("b", "x"))
    assert graph.producer("question") is None
    assert graph.producer("x") == "a"
    assert graph.consumers("question") == ("a", "b")
    graph.extend({}, [call("c", "question")], ("c", "b"))
    assert graph.outputs == ("b", "x", "c")
    assert graph.consumers("question") == ("a", "b", "c")
    with pytest.raises(KeyError):
        graph.producer("nothing")
    with pytest.raises(KeyError, match="no call 'nothing'"):
        graph.successors("nothing")


@pytest.mark.parametrize("step", ["end_waiting", "end_twice", "end_failed", "fail_ended", "fail_twice"])
def test_what_cannot_have_happened_is_refused(step: str) -> None:
    graph = ProgramGraph()
    graph.extend({}, [call("a"), call("b", "a")], ())
    act = graph.fail if step.startswith("fail") else graph.end
    if step in ("end_twice", "fail_ended"):
        graph.end("a")
    if step in ("end_failed", "fail_twice"):
        graph.fail("a")
    with pytest.raises(CallStateError):
        act("b" if step == "end_waiting" else "a")


def test_the_views_cannot_be_written_through() -> None:
    graph = ProgramGraph()
    graph.extend({}, [call("a")], ())
    with pytest.raises(TypeError):
        graph.calls["b"] = call("b")  # type: ignore[index]
    with pytest.raises(TypeError):
        del graph.unfinished_calls["a"]  # type: ignore[attr-defined]


def test_an_empty_graph_is_a_graph() -> None:
    graph = ProgramGraph(Objective(kind="throughput"), GraphLimits(max_calls=1))
    assert graph.extend({}, (), ()) == ()
    assert graph.unfinished == 0
