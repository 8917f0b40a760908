"""Which prompts go on with which chains, what a graph tells of a pause, and what calls cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag.graph import ProgramGraph
from engine.protocol import ChatMessage, Usage
from orchestrator.retention.chains import Chain, continued, fingerprint
from orchestrator.retention.costs import EngineCosts, Prefill, Returns
from orchestrator.retention.lengths import Lengths
from orchestrator.retention.pauses import shared_share, upcoming
from orchestrator.retention.registry import RULES, UnknownRule, make_rule
from orchestrator.retention.shapes import shape_of
from tenuto.wire import Graph, InputVariable, LLMCall, TextType
from tests.orchestrator.retention.support import agent_call
from tests.orchestrator.runtime.support import Server, function, llm, program, var


def messages(*texts: str) -> list[ChatMessage]:
    roles = ("system", "user", "assistant")
    return [ChatMessage(roles[min(index, 2)], text) for index, text in enumerate(texts)]


def chain(name: str, prompt: list[ChatMessage], tokens: int = 10) -> Chain:
    desk = cast("Any", SimpleNamespace(costs=EngineCosts()))
    return Chain(name, "p", "c", "", fingerprint(prompt), 100, tokens, 0, 0.0, desk)


def test_a_prompt_goes_on_with_the_longest_chain_that_it_begins_with() -> None:
    short, long = chain("short", messages("s", "u"), 10), chain("long", messages("s", "u", "a"), 20)
    assert continued([short, long], messages("s", "u", "a", "b")) is long
    assert continued([short, long], messages("s", "u", "b")) is short
    assert continued([short, long], messages("s")) is None
    assert continued([short, long], messages("x", "u", "a")) is None


def test_the_last_message_may_have_grown() -> None:
    one = chain("one", messages("s", "history: a"))
    assert continued([one], messages("s", "history: a b")) is one
    assert continued([one], messages("s", "history: b")) is None
    assert continued([one], messages("s and more", "history: a")) is None, "only the last one may"


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5), st.lists(st.text(max_size=8), max_size=3))
def test_every_prompt_goes_on_with_its_own_beginning(first: list[str], more: list[str]) -> None:
    assert chain("c", messages(*first)).is_continued_by(messages(*first, *more))


def graph_of(*calls: Any, **inputs: str) -> ProgramGraph:
    graph = ProgramGraph()
    given = {name: InputVariable(type=TextType(), value=value) for name, value in inputs.items()}
    made = Graph(inputs=given, calls=calls, outputs=())
    graph.extend(made.inputs, made.calls, made.outputs)
    return graph


def length(variable: str, path: tuple[str | int, ...] = ()) -> int:
    return 50


def test_of_the_calls_to_come_the_one_with_most_in_common_counts() -> None:
    first = llm("first", "some preamble ", "question")
    graph = graph_of(
        first,
        function("tool", "t", {"x": var("first")}),
        llm("judge", "quite another prompt ", var("first"), after=("tool",)),
        llm("next", "some preamble ", "question", var("first"), var("tool")),
    )
    graph.end("first")
    coming = upcoming(graph, first, False, length, 50)
    assert coming is not None and coming.call == "next" and coming.waits == ("tool",)
    assert coming.share == 1.0


def test_nothing_comes_after_the_last_call_unless_the_program_is_open() -> None:
    first = llm("first", "a")
    graph = graph_of(first, function("tool", "t", {"x": var("first")}))
    graph.end("first")
    assert upcoming(graph, first, False, length, 50) is None
    coming = upcoming(graph, first, True, length, 50)
    assert coming is not None and coming.call is None and coming.waits == ("tool",)


def test_a_pause_waits_for_llm_calls_in_between_too() -> None:
    first = agent_call("say0", 0)
    graph = graph_of(first, llm("critic", "criticise ", var("say0")), function("do0", "t", {"x": var("critic")}),
                     agent_call("say1", 1))  # fmt: skip
    graph.end("say0")
    coming = upcoming(graph, first, False, length, 50)
    assert coming is not None and coming.waits == ("critic", "do0") and coming.after == ((), (0,))


def test_a_wide_graph_costs_no_more_than_a_look() -> None:
    first = llm("first", "a")
    graph = graph_of(first, *(function(f"t{n}", "t", {"x": var("first")}) for n in range(3000)))
    graph.end("first")
    coming = upcoming(graph, first, True, length, 50)
    assert coming is not None and len(coming.waits) < 3000


@pytest.mark.parametrize(
    ("second", "share"),
    [
        (("abcd", "efgh"), 8 / 16),
        (("abcd", "efxx"), 6 / 16),
        (("xbcd",), 0.0),
        (("abcd", "efghij"), 8 / 16),
        (("abcd", "efgh", var("first")), 1.0),
    ],
)
def test_the_share_in_common_is_counted_in_characters(second: tuple[Any, ...], share: float) -> None:
    assert shared_share(llm("first", "abcd", "efgh"), llm("second", *second), length, 8) == pytest.approx(share)


def test_an_output_in_a_message_of_its_own_is_gone_on_with() -> None:
    first, second = agent_call("say0", 0), agent_call("say1", 1)
    assert shared_share(first, second, length, 50) == 1.0
    assert shared_share(second, agent_call("say2", 2), length, 50) == 1.0


def test_prefill_is_learned_with_its_quadratic_part() -> None:
    prefill = Prefill()
    for fresh in (100, 500, 1000, 4000, 8000) * 4:
        for context in (0, 2000):
            prefill.learn(fresh, context, 1e-4 * fresh + 3e-8 * fresh * (context + fresh / 2))
    expected = 1e-4 * 3000 + 3e-8 * 3000 * (1000 + 1500)
    assert prefill.seconds(3000, 1000) == pytest.approx(expected, rel=0.01)
    assert prefill.seconds(0, 1000) == 0.0


def test_prefill_of_one_size_is_learned_by_the_token() -> None:
    prefill = Prefill()
    assert prefill.seconds(1000, 0) > 0, "something is assumed before anything was seen"
    for _ in range(10):
        prefill.learn(1000, 0, 0.5)
    assert prefill.seconds(2000, 0) == pytest.approx(1.0)


def test_what_a_lost_chain_costs_in_the_queue_is_learned() -> None:
    costs = EngineCosts()
    assert costs.queue_loss_s == 0.0
    for _ in range(5):
        costs.learn(Usage(100, 90, 10, 0.5, 0.1, 0.1), 400, True)
        costs.learn(Usage(100, 0, 10, 2.5, 0.1, 0.1), 400, False)
    assert costs.queue_loss_s == pytest.approx(2.0)
    assert costs.tokens(400) == pytest.approx(100, abs=2)


def test_the_chance_of_a_return_is_learned_by_stage() -> None:
    returns = Returns()
    for _ in range(20):
        returns.learn("agent", "act", True)
        returns.learn("agent", "sum up", False)
    assert returns.likely("agent", "act") > 0.9 > 0.2 > returns.likely("agent", "sum up")
    assert 0.2 < returns.likely("agent", "new") < 0.9
    assert returns.likely("other", "") == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, ""),
        ({"b": 1, "a": 2}, "a,b"),
        ({"command": "cd /x && python -m pytest -q secret"}, "command:pytest"),
        ({"command": "FOO=1 timeout 5 /usr/bin/git log"}, "command:git"),
        ({"command": "   "}, "command"),
        ({"cmd": 3}, "cmd"),
    ],
)
def test_shapes_tell_programs_and_never_arguments(arguments: dict[str, Any], shape: str) -> None:
    assert shape_of(arguments) == shape


def test_rules_by_name() -> None:
    assert {make_rule(name).name for name in RULES} == set(RULES)
    with pytest.raises(UnknownRule, match="choose one of"):
        make_rule("belady")
    with pytest.raises(UnknownRule, match="simulations alone"):
        make_rule("oracle")


def test_agents_calls_are_llm_calls() -> None:
    assert isinstance(agent_call("x", 2), LLMCall)


def test_a_part_of_a_variable_counts_as_long_as_it_is() -> None:
    lengths = {("v", ("field",)): 5, ("v", ()): 1_000_000}
    first = llm("first", "a" * 45, var("v", "field"))
    share = shared_share(first, llm("second", "a" * 45, var("w")), lambda *part: lengths.get(part, 0), 50)
    assert share == pytest.approx(0.45)


async def test_lengths_are_measured_once_and_by_path() -> None:
    server = await Server().start()
    id = await server.submit(program(llm("a", "x"), inputs={"v": {"field": "short", "rest": [1] * 100}}, open=True))
    held, lengths = server.program(id), Lengths()
    assert (lengths.of(held, "v", ("field",)), lengths.of(held, "v", ("none",)), lengths.of(held, "later")) == (5, 0, 0)
    whole = lengths.of(held, "v")
    held.values["v"] = "changed"  # nobody changes what is written: so nobody looks
    assert lengths.of(held, "v") == whole > 200
    lengths.program_ended(id)
    assert lengths.of(held, "v") == len("changed")
    await server.close()
