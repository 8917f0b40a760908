"""`@planner` and `@agent` end to end: the real server reads the model's text, the client's tools run, doubles write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from tenuto import AsyncClient, DefinitionError, InvalidArgument, agent, planner, tool
from tenuto.testing import ScriptedModel, override
from tenuto.wire import ProgramStatus
from tests.sdk.flows import only_program

pytestmark = pytest.mark.usefixtures("client")


class City(BaseModel):
    name: str
    people: int


ran: list[str] = []


@tool(effects="read")
async def find_city(name: str) -> City:
    """Looks a city up."""
    ran.append(f"find {name}")
    if name == "Atlantis":
        raise LookupError("no such city")
    return City(name=name, people=len(name))


@tool(effects="read")
async def add(numbers: list[int]) -> int:
    ran.append(f"add {numbers}")
    return sum(numbers)


@tool(effects="read")
async def essay(words: int) -> str:
    return "word " * words


@tool
async def note(text: str) -> None:
    ran.append(f"note {text}")


class Answer(BaseModel):
    total: int


@planner(tools=[find_city, add, essay, note], rounds=3, result_chars=100, max_tokens=500)
async def people(question: str) -> Answer:
    """Question: {{question}}"""
    ...


@agent(tools=[find_city, add, essay], steps=4)
async def helper(question: str) -> str:
    """Question: {{question}}"""
    ...


@agent(tools=[add], steps=2)
async def counter(question: str) -> Answer:
    """Count: {{question}}"""
    ...


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


def _join(total: int | None, replan: str | None = None) -> dict[str, Any]:
    answer = None if total is None else {"total": total}
    return {"thought": "", "answer": answer, "replan": replan}


async def test_a_plan_runs_in_parallel_with_typed_results_and_is_joined(client: AsyncClient) -> None:
    plan = '1. find_city("Rome")\n2. find_city("Oslo")\n3. add([$1.people, $2.people])\njoin()'
    model = ScriptedModel({"people.plan": plan, "people.join": _join(8)})
    with override(model):
        assert await people.arun("Rome and Oslo?") == Answer(total=8)
    assert sorted(ran) == ["add [4, 4]", "find Oslo", "find Rome"]
    (prompt,) = model.prompts("people.plan")
    assert prompt == "Question: Rome and Oslo?"
    rules = model.calls[0].messages[0].content
    assert "find_city(name: string) -> {name: string, people: integer}: Looks a city up." in rules
    assert "beginning with 1." in rules
    (joined,) = model.prompts("people.join")
    assert '$1 = find_city: {"name":"Rome","people":4}' in joined and "$3 = add: 8" in joined
    view = await only_program(client)
    assert view.status is ProgramStatus.SUCCEEDED
    timeline = await client.timeline(view.id)
    assert [call.stage for call in timeline.calls] == ["people.plan", "find_city", "find_city", "add", "people.join"]


async def test_replanning_keeps_results_and_tells_what_failed(client: AsyncClient) -> None:
    plans = [
        'Thought: both\n1. find_city("Rome")\n2. find_city("Atlantis")\njoin()',
        "3. add([$1.people, 10])\n4. add([$2.people])\njoin()",
    ]
    model = ScriptedModel({"people.plan": plans, "people.join": [_join(None, "Atlantis is a myth"), _join(14)]})
    with override(model):
        assert await people.arun("?") == Answer(total=14)
    assert ran == ["find Rome", "find Atlantis", "add [4, 10]"]
    first, second = model.prompts("people.join")
    assert "$2 = find_city: failed: tool_error: LookupError: no such city" in first
    assert "call 2" in second and "$3 = add: 14" in second
    replanned = model.prompts("people.plan")[1]
    assert "What was missing: Atlantis is a myth" in replanned and '$1 = find_city (both): {"name":"Rome"' in replanned
    assert "beginning with 3." in model.calls[2].messages[0].content


async def test_a_plan_that_cannot_be_used_goes_back_with_its_faults_and_without_a_joiner() -> None:
    model = ScriptedModel(
        {"people.plan": ['1. find_town("Rome")\njoin()', "1. add([1])\njoin()"], "people.join": _join(1)}
    )
    with override(model):
        assert await people.arun("?") == Answer(total=1)
    assert (
        "line 1, column 1, call 1: there is no tool 'find_town'. did you mean 'find_city'?"
        in (model.prompts("people.plan")[1])
    )
    assert len(model.prompts("people.join")) == 1


async def test_the_last_round_must_answer_and_join_waits_for_what_it_names() -> None:
    model = ScriptedModel(
        {
            "people.plan": ["1. add([1])\njoin()", "2. add([2])\njoin()", '3. essay(50)\n4. note("x")\njoin($3)'],
            "people.join": [_join(None, "more"), _join(None, "more"), {"thought": "", "answer": {"total": 3}}],
        }
    )
    with override(model):
        assert await people.arun("?") == Answer(total=3)
    last = model.calls[-1]
    assert "replan" not in (last.json_schema or {})["properties"]
    assert "Give the answer, as good as these results allow." in last.messages[-1].content
    assert "… (250 characters, cut; pass $3 on to use all of it)" in last.messages[-1].content
    assert "$4" not in last.messages[-1].content


async def test_an_agent_calls_many_tools_at_once_and_answers() -> None:
    both = asyncio.Barrier(2)
    seen: list[str] = []

    @tool(effects="read")
    async def meet(name: str) -> str:
        await both.wait()
        seen.append(name)
        return f"{name} was here"

    @agent(tools=[meet, add])
    async def asker(question: str) -> str:
        """{{question}}"""
        ...

    step = 'I ask both.<tool_call>{"name": "meet", "arguments": {"name": "a"}}</tool_call>'
    step += '<tool_call>{"name": "meet", "arguments": {"name": "b"}}</tool_call>'
    model = ScriptedModel({"asker.step": [step, '<tool_call>{"name": "add", "arguments": {"numbers": "x"}}', "Both."]})
    with override(model):
        assert await asker.arun("who?") == "Both."
    assert sorted(seen) == ["a", "b"]
    second, third = model.calls[1].messages, model.calls[2].messages
    assert [m.role for m in second] == ["system", "user", "assistant", "user"]
    assert second[2].content == step
    assert second[3].content == "Result 1, of meet: a was here\nResult 2, of meet: b was here\n"
    assert third[: len(second)] == second  # each step continues the prompt of the one before
    assert "Not done:" in third[-1].content and "argument 'numbers'" in third[-1].content


async def test_an_agent_that_has_used_its_steps_must_answer() -> None:
    call = '{"name": "add", "arguments": {"numbers": [1]}}'
    model = ScriptedModel({"helper.step": call, "helper.answer": "One."})
    with override(model):
        assert await helper.arun("?") == "One."
    assert len(model.prompts("helper.step")) == 3 and ran == ["add [1]"] * 3
    assert model.prompts("helper.answer") == ["Make no more calls: answer now, with what you have."]


async def test_an_agents_typed_answer_is_written_in_its_type() -> None:
    model = ScriptedModel({"counter.step": "It is 7.", "counter.answer": {"total": 7}})
    with override(model):
        assert await counter.arun("?") == Answer(total=7)


def test_declarations_that_cannot_be_used_are_told_where_they_stand() -> None:
    def answer(question: str) -> str:
        """{{question}}"""
        ...

    def untyped(question: str):  # type: ignore[no-untyped-def]
        """{{question}}"""

    with pytest.raises(DefinitionError, match="at least one tool"):
        planner(tools=[])(answer)
    with pytest.raises(DefinitionError, match="is no tool"):
        agent(tools=[len])(answer)  # type: ignore[list-item]
    with pytest.raises(DefinitionError, match="two tools are named 'add'"):
        agent(tools=[add, add])(answer)
    with pytest.raises(InvalidArgument, match="rounds=0"):
        planner(tools=[add], rounds=0)(answer)
    with pytest.raises(InvalidArgument, match="unknown option"):
        planner(tools=[add], tokens=3)(answer)  # type: ignore[call-arg]
    with pytest.raises(DefinitionError, match="return type"):
        agent(tools=[add])(untyped)
