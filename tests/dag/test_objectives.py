"""Objective deduction: from the readers back; a stricter reader that comes later upgrades its ancestors."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dag import CallObjective, ProgramGraph, expected_seconds, objectives
from tenuto.wire import Call, Objective
from tests.dag import strategies
from tests.dag.strategies import Program, fixed, programs
from tests.dag.test_graph import call

LATENCY, THROUGHPUT = Objective(kind="latency"), Objective(kind="throughput")


def by(seconds: float) -> Objective:
    return Objective(kind="deadline", deadline_s=seconds)


@fixed
@given(programs(tagged=True))
def test_no_ancestor_is_judged_more_loosely_than_its_readers(program: Program) -> None:
    graph = program.graph()
    found = objectives(graph)
    assert set(found) == set(program.needs)
    for name, mine in found.items():
        one = graph.calls[name]
        assert (mine.deadline_s is not None) == (mine.kind == "deadline")
        if one.objective is not None:
            assert mine.strictness <= CallObjective(one.objective.kind, one.objective.deadline_s).strictness
        for other in graph.successors(name):
            theirs = found[other]
            if theirs.deadline_s is not None:
                theirs = CallObjective("deadline", theirs.deadline_s - expected_seconds(graph.calls[other]))
            assert mine.strictness <= theirs.strictness


@fixed
@given(programs(tagged=True), st.data())
def test_added_readers_never_loosen_an_objective(program: Program, data: st.DataObject) -> None:
    graph = program.graph()
    before = objectives(graph)
    names = list(graph.variables)
    for index in range(data.draw(st.integers(1, 4))):
        reads = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
        objective = data.draw(st.none() | strategies.objectives())
        group = data.draw(st.sampled_from([None, "g"]))
        reader = call(f"reader{index}", *reads, objective=objective, group=group, expected_s=2.0)
        outputs = data.draw(st.lists(st.sampled_from(names), max_size=1))
        graph.extend({}, [reader], outputs)
        names.append(reader.variable)
        after = objectives(graph)
        assert all(after[name].strictness <= judged.strictness for name, judged in before.items())
        before = after


@fixed
@given(programs(tagged=True))
def test_declared_whole_or_call_by_call_only_changes_who_the_client_reads(program: Program) -> None:
    """Grown call by call every call had no reader once, so it is at least as strict as when declared whole."""
    grown = ProgramGraph(program.objective)
    grown.extend(strategies.INPUTS, (), ())
    for one in program.calls:
        grown.extend({}, [one], ())
    grown.extend({}, (), program.outputs)
    whole = objectives(program.graph())
    assert all(judged.strictness <= whole[name].strictness for name, judged in objectives(grown).items())


def test_throughput_at_the_end_is_throughput_all_the_way() -> None:
    graph = ProgramGraph(THROUGHPUT)
    graph.extend({}, [call("a"), call("b", "a"), call("c", "b")], ("c",))
    assert {judged.kind for judged in objectives(graph).values()} == {"throughput"}


def test_a_later_stricter_reader_upgrades_ancestors_that_have_not_ended() -> None:
    graph = ProgramGraph(THROUGHPUT)
    graph.extend({}, [call("a"), call("b", "a"), call("c", "b"), call("other", "a")], ("c",))
    graph.end("a")
    graph.extend({}, [call("now", "b", objective=LATENCY)], ())
    found = objectives(graph)
    assert "a" not in found
    assert {name: judged.kind for name, judged in found.items()} == {
        "b": "latency",
        "c": "throughput",
        "other": "throughput",
        "now": "latency",
    }


def test_a_deadline_leaves_each_reader_its_expected_seconds() -> None:
    graph = ProgramGraph(by(10))
    calls: list[Call] = [
        call("a", expected_s=1.0),
        call("quick", "a", expected_s=1.0),
        call("slow", "a", expected_s=6.0),
        call("end", "quick", "slow", expected_s=2.0),
    ]
    graph.extend({}, calls, ("end",))
    latest = {name: judged.deadline_s for name, judged in objectives(graph).items()}
    assert latest == {"end": 10.0, "quick": 8.0, "slow": 8.0, "a": 2.0}
    hopeless = {name: judged.deadline_s for name, judged in objectives(graph, lambda _: 5.0).items()}
    assert hopeless == {"end": 10.0, "quick": 5.0, "slow": 5.0, "a": 0.0}


def test_a_deadline_is_stricter_than_latency_and_an_earlier_one_than_a_later() -> None:
    graph = ProgramGraph(LATENCY)
    graph.extend({}, [call("a"), call("b", "a", objective=by(50)), call("c", "a", objective=by(20))], ("a",))
    assert objectives(graph)["a"] == CallObjective("deadline", 20.0)
    assert objectives(graph)["b"] == CallObjective("deadline", 50.0)


def test_siblings_get_the_same_from_their_consumer_and_another_reader_upgrades_only_his_own() -> None:
    graph = ProgramGraph(THROUGHPUT)
    maps = [call(f"map{index}") for index in range(4)]
    graph.extend({}, [*maps, call("reduce", *[one.id for one in maps])], ("reduce",))
    graph.extend({}, [call("peek", "map2", objective=LATENCY)], ())
    found = objectives(graph)
    assert [found[f"map{index}"].kind for index in range(4)] == ["throughput", "throughput", "latency", "throughput"]


def test_a_declared_group_shares_its_strictest_members_objective_and_hands_it_to_its_ancestors() -> None:
    graph = ProgramGraph(THROUGHPUT)
    calls: list[Call] = [
        call("seed"),
        call("m1", "seed", group="drafts"),
        call("other"),
        call("m2", "other", group="drafts", objective=by(30)),
        call("apart", "other"),
    ]
    graph.extend({}, calls, ())
    found = objectives(graph)
    assert found["m1"] == found["m2"] == CallObjective("deadline", 30.0)
    assert found["seed"] == CallObjective("deadline", 30.0)
    assert found["apart"].kind == "throughput"


def test_a_group_declared_along_a_chain_does_not_chase_its_own_deadline() -> None:
    graph = ProgramGraph(by(10))
    graph.extend({}, [call(f"c{i}", *([f"c{i - 1}"] if i else []), group="g", expected_s=1.0) for i in range(4)], ())
    assert [objectives(graph)[f"c{i}"].deadline_s for i in range(4)] == [7.0, 8.0, 9.0, 10.0]


def test_a_relaxed_side_branch_stays_relaxed_unless_an_output_reads_it() -> None:
    graph = ProgramGraph(LATENCY)
    graph.extend({}, [call("main"), call("log0"), call("log", "log0", objective=THROUGHPUT)], ("main",))
    assert {name: judged.kind for name, judged in objectives(graph).items()} == {
        "main": "latency",
        "log0": "throughput",
        "log": "throughput",
    }
    graph.extend({}, (), ("log",))
    assert objectives(graph)["log0"].kind == "latency"


def test_a_reader_that_was_skipped_judges_no_longer() -> None:
    graph = ProgramGraph(THROUGHPUT)
    graph.extend({}, [call("a"), call("bad"), call("strict", "a", "bad", objective=LATENCY), call("b", "a")], ())
    assert objectives(graph)["a"].kind == "latency"
    graph.fail("bad")
    assert {name: judged.kind for name, judged in objectives(graph).items()} == {"a": "throughput", "b": "throughput"}
    graph.fail("b")
    assert objectives(graph)["a"].kind == "throughput"
