"""Task groups and prefix groups, against their definitions."""

from __future__ import annotations

from itertools import combinations

import networkx as nx
from hypothesis import given

from dag import PrefixGroup, ProgramGraph, constant_prefix_groups, task_groups
from tenuto.wire import Call, LLMCall, Message, TextPart, VariablePart
from tests.dag.strategies import INPUTS, Program, fixed, programs
from tests.dag.test_graph import call


@fixed
@given(programs(tagged=True))
def test_a_task_group_is_a_set_of_siblings(program: Program) -> None:
    graph = program.graph()
    groups = task_groups(graph)
    digraph = program.digraph()
    assert len({group.members for group in groups}) == len(groups)
    for index, group in enumerate(groups):
        assert len(set(group.members)) == len(group.members) >= 2
        assert {graph.depth(name) for name in group.members} == {group.depth}
        assert not any(nx.has_path(digraph, one, other) for one, other in combinations(group.members, 2))
        if group.consumer is not None:
            assert set(group.members) <= program.needs[group.consumer]
        if group.declared is not None:
            assert {graph.calls[name].group for name in group.members} == {group.declared}
        if group.parent is not None:
            assert group.parent < index
            assert group.consumer in groups[group.parent].members
    for name, before in program.needs.items():  # and none is missing
        for depth in {graph.depth(other) for other in before}:
            siblings = tuple(other for other in graph.calls if other in before and graph.depth(other) == depth)
            assert len(siblings) < 2 or siblings in {group.members for group in groups}, name


def test_the_groups_of_a_nested_map_reduce() -> None:
    graph = ProgramGraph()
    calls: list[Call] = []
    for half in "ab":
        calls.extend(call(f"{half}{index}") for index in range(3))
        calls.append(call(half, *[f"{half}{index}" for index in range(3)]))
    calls.append(call("all", "a", "b"))
    graph.extend({}, calls, ("all",))
    outer, left, right = task_groups(graph)
    assert (outer.members, outer.consumer, outer.parent) == (("a", "b"), "all", None)
    assert (left.members, left.consumer, left.parent) == (("a0", "a1", "a2"), "a", 0)
    assert (right.members, right.consumer, right.parent) == (("b0", "b1", "b2"), "b", 0)


def test_producers_of_one_consumer_at_two_depths_are_two_groups() -> None:
    """Candidates and their runs both feed the vote: the candidates' joint end is not the runs' joint end."""
    graph = ProgramGraph()
    tries: list[Call] = [call(f"sql{index}") for index in range(3)]
    runs: list[Call] = [call(f"run{index}", f"sql{index}") for index in range(3)]
    graph.extend({}, [*tries, *runs, call("vote", *[one.id for one in (*tries, *runs)])], ("vote",))
    assert [(group.depth, group.members) for group in task_groups(graph)] == [
        (1, ("run0", "run1", "run2")),
        (0, ("sql0", "sql1", "sql2")),
    ]


def test_outputs_end_the_program_jointly_and_a_declared_group_that_is_also_deduced_is_one() -> None:
    graph = ProgramGraph()
    graph.extend({}, [call("x"), call("y"), call("m1", group="g"), call("m2", group="g"), call("r", "m1", "m2")], ())
    groups = {group.members: group for group in task_groups(graph)}
    assert set(groups) == {("x", "y"), ("m1", "m2")}
    assert groups["x", "y"].consumer is None
    assert (groups["m1", "m2"].declared, groups["m1", "m2"].consumer) == ("g", "r")


def llm(name: str, *parts: TextPart | VariablePart, model: str | None = None, role: str = "user") -> LLMCall:
    return LLMCall(id=name, model=model, messages=(Message(role=role, parts=parts),))


def steps(one: LLMCall) -> list[object]:
    return [step for message in one.messages for step in (message.role, *message.parts)]


def shared_parts(one: LLMCall, other: LLMCall) -> int:
    """By definition: parts before the first difference, roles included in the comparison."""
    count = 0
    for mine, theirs in zip(steps(one), steps(other), strict=False):
        if mine != theirs:
            break
        count += not isinstance(mine, str)
    return count if one.model == other.model else 0


def path_to_root(groups: tuple[PrefixGroup, ...], index: int | None) -> list[int]:
    path: list[int] = []
    while index is not None:
        path.append(index)
        index = groups[index].parent
    return path


@fixed
@given(programs(max_calls=20))
def test_two_calls_share_exactly_the_deepest_group_above_both(program: Program) -> None:
    graph = program.graph()
    groups = constant_prefix_groups(graph)
    home = {name: index for index, group in enumerate(groups) for name in group.calls}
    assert sum(len(group.calls) for group in groups) == len(home)  # each call is at home in one group at most
    prompts = [one for one in graph.calls.values() if isinstance(one, LLMCall)]
    for one, other in combinations(prompts, 2):
        above = set(path_to_root(groups, home.get(one.id)))
        common = [index for index in path_to_root(groups, home.get(other.id)) if index in above]
        assert (groups[common[0]].parts if common else 0) == shared_parts(one, other)
    for index, group in enumerate(groups):
        assert group.parts > 0
        assert group.parent is None or (group.parent < index and groups[group.parent].parts < group.parts)
        below = [other for other in range(len(groups)) if index in path_to_root(groups, other)]
        assert sum(len(groups[other].calls) for other in below) >= 2


def test_candidates_share_all_of_their_prompt_and_repairs_its_beginning() -> None:
    rules, schema, question = (
        TextPart(text="Write SQL."),
        VariablePart(variable="table"),
        VariablePart(variable="question"),
    )
    graph = ProgramGraph()
    tries: list[Call] = [llm(f"try{index}", rules, schema, question) for index in range(3)]
    repair = llm("repair", rules, schema, TextPart(text="Mend:"), VariablePart(variable="try0"))
    again = llm("again", rules, schema, TextPart(text="Mend:"), VariablePart(variable="try1"))
    strangers: list[Call] = [
        llm("bigger", rules, schema, question, model="big"),
        llm("system", rules, schema, question, role="system"),
        llm("apart", TextPart(text="Hello")),
    ]
    graph.extend(INPUTS, [*tries, repair, again, *strangers], ())
    assert constant_prefix_groups(graph) == (
        PrefixGroup(None, (), 2, 10, ("table",)),
        PrefixGroup(None, ("try0", "try1", "try2"), 3, 10, ("table", "question"), parent=0),
        PrefixGroup(None, ("repair", "again"), 3, 15, ("table",), parent=0),
    )


def test_a_long_conversation_is_a_chain_of_groups_found_in_linear_work() -> None:
    parts: list[TextPart | VariablePart] = []
    calls: list[Call] = []
    for turn in range(300):
        parts.append(TextPart(text=f"turn {turn}"))
        calls.append(llm(f"c{turn}", *parts))
    graph = ProgramGraph()
    graph.extend({}, calls, ())
    groups = constant_prefix_groups(graph)
    assert [group.calls for group in groups[:2]] == [("c0",), ("c1",)]
    assert groups[-1].calls == ("c298", "c299")
    assert [group.parent for group in groups] == [None, *range(298)]
