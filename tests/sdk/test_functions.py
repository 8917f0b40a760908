"""Decorators and the graph that they declare: no client, no model."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from tenuto import (
    DefinitionError,
    InvalidArgument,
    Objective,
    Retry,
    Var,
    gather,
    llm,
    mermaid,
    tool,
    workflow,
)
from tenuto.wire import (
    Constant,
    EffectClass,
    GrammarConstraint,
    JsonType,
    ListExpr,
    LLMCall,
    Reference,
    RegexConstraint,
    TextPart,
    TextType,
    VariablePart,
)
from tests.sdk.declared import (
    Mood,
    Sql,
    answer,
    calls_of,
    describe,
    function_call,
    llm_call,
    prompt_of,
    run_sql,
    summarise,
    vote,
    write_sql,
)


def test_a_fan_out_becomes_one_graph_with_shared_inputs() -> None:
    graph = answer.graph("how many?")
    assert list(calls_of(graph)) == [
        *("write_sql", "write_sql.2", "write_sql.3"),
        *("run_sql", "run_sql.2", "run_sql.3"),
        "vote",
    ]
    assert {name: variable.value for name, variable in graph.inputs.items()} == {
        "input.question": "how many?",
        "input.schema": "t(a)",
    }
    assert graph.outputs == ("vote",)
    parts = llm_call(graph, "write_sql").messages[0].parts
    assert parts == (
        TextPart(text="Schema: "),
        VariablePart(variable="input.schema"),
        TextPart(text="\nQuestion: "),
        VariablePart(variable="input.question"),
        TextPart(text="\nSQL:"),
    )
    assert {llm_call(graph, id).messages for id in ("write_sql.2", "write_sql.3")} == {
        llm_call(graph, "write_sql").messages
    }
    assert [llm_call(graph, id).sampling.seed for id in ("write_sql", "write_sql.2", "write_sql.3")] == [0, 1, 2]
    assert function_call(graph, "run_sql.2").arguments == {"query": Reference(variable="write_sql.2", path=("query",))}
    assert function_call(graph, "vote").arguments["rows"] == ListExpr(
        items=tuple(Reference(variable=name) for name in ("run_sql", "run_sql.2", "run_sql.3"))
    )


def test_the_graph_depends_on_nothing_but_the_code() -> None:
    assert answer.graph("q").model_dump_json() == answer.graph("q").model_dump_json()


def test_calls_carry_their_options_and_types() -> None:
    graph = answer.graph("q")
    draft = llm_call(graph, "write_sql")
    assert (draft.stage, draft.category, draft.sampling.max_tokens, draft.sampling.temperature) == (
        *("write_sql", "sql", 120),
        0.5,
    )
    assert isinstance(draft.type, JsonType) and draft.type.json_schema["required"] == ["query"]
    run = function_call(graph, "run_sql")
    assert (run.tool, run.effect, run.timeout_s, run.retry, run.expected_s) == (
        *("run_sql", EffectClass.READ, 5.0),
        *(Retry(attempts=3), 0.1),
    )
    assert function_call(graph, "vote").effect is EffectClass.EXCLUSIVE
    assert function_call(graph, "vote").type == TextType()


def test_options_make_a_copy_and_leave_the_original() -> None:
    @workflow
    def both(question: str) -> list[Sql]:
        objective = Objective(kind="deadline", deadline_s=3)
        changed = write_sql.options(
            model="big", stop="\n", timeout=2, retries=Retry(attempts=2), objective=objective, group="g", top_k=4
        )
        more = changed.options(stop=["a", "b"], category="other")
        return [changed(question, "s"), more(question, "s"), write_sql(question, "s")]

    graph = both.graph("q")
    first, second, third = (llm_call(graph, id) for id in ("write_sql", "write_sql.2", "write_sql.3"))
    assert (first.model, first.sampling.stop, first.timeout_s, first.retry.attempts, first.group) == (
        *("big", ("\n",), 2.0, 2),
        "g",
    )
    assert first.objective == Objective(kind="deadline", deadline_s=3)
    assert (second.sampling.stop, second.category, second.model, second.sampling.top_k) == (
        ("a", "b"),
        "other",
        "big",
        4,
    )
    assert (third.model, third.sampling.stop, third.timeout_s, third.category) == (None, (), None, "sql")


def test_fan_in_into_a_prompt_is_one_text_per_line() -> None:
    @workflow
    def wf(question: str) -> str:
        maps = [summarise([question, str(i)]) for i in range(2)]
        summarise(maps)
        summarise(gather(maps))
        return summarise(["plain", maps[0]])

    graph = wf.graph("q")
    assert prompt_of(graph, "summarise.2") == "Texts:\n<input.texts.2>"
    assert graph.inputs["input.texts.2"].value == "q\n1"
    assert prompt_of(graph, "summarise.3") == prompt_of(graph, "summarise.4") == "Texts:\n<summarise>\n<summarise.2>"
    assert prompt_of(graph, "summarise.5") == "Texts:\n<input.texts.3>\n<summarise>"


def test_structures_around_vars_are_exact_json_in_a_prompt() -> None:
    @workflow
    def wf() -> str:
        rows, draft = run_sql("q"), write_sql("q", "s")
        describe({"rows": rows, "n": [1, "a"], "drafts": [draft, {"x": draft.score}]})
        return describe([rows, 3])

    graph = wf.graph()
    assert prompt_of(graph, "describe") == (
        '{"rows":<run_sql>,"n":[1,"a"],"drafts":[<write_sql>,{"x":<write_sql.score>}]}'
    )
    assert prompt_of(graph, "describe.2") == "[<run_sql>,3]"


def test_a_text_var_inside_a_structure_is_refused() -> None:
    @workflow
    def wf() -> str:
        return describe({"sql": write_sql("q", "s").query})

    with pytest.raises(InvalidArgument, match=r"describe\(data\): <Var write_sql.query: str> may be text.*await"):
        wf.graph()


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("text", "text"),
        (3, 3),
        (None, None),
        (True, True),
        ({"a": [1, None]}, {"a": [1, None]}),
        (Sql(query="q"), {"query": "q", "score": 0.0}),
        (Mood.GOOD, "good"),
        (["a", "b"], "a\nb"),
        ([], []),
        (("a", 1), ["a", 1]),
    ],
)
def test_constants_of_prompts_become_inputs(value: Any, stored: Any) -> None:
    @workflow
    def wf() -> str:
        return describe(value)

    graph = wf.graph()
    assert [variable.value for variable in graph.inputs.values()] == [stored]
    assert isinstance(graph.inputs["input.data"].type, TextType if isinstance(stored, str) else JsonType)


def test_equal_contents_share_an_input_and_unequal_types_do_not() -> None:
    @workflow
    def wf() -> list[str]:
        return [describe("1"), describe(1), describe("1"), describe(True), describe(1.0), describe({"a": 1, "b": 2})]

    graph = wf.graph()
    assert [prompt_of(graph, id) for id in calls_of(graph)] == [
        *("<input.data>", "<input.data.2>", "<input.data>", "<input.data.3>", "<input.data.4>", "<input.data.5>"),
    ]


def test_parameters_may_have_letters_that_the_servers_names_lack() -> None:
    @llm
    def draw(größe: int) -> str:
        """{{größe}}"""

    @workflow
    def wf() -> str:
        return draw(3)

    assert list(wf.graph().inputs) == ["input.gr__e"]


def test_system_prompts_and_text_constraints() -> None:
    @llm(system="Speak {{language}}.", prompt="Name a {{thing}}.", regex="[a-z]+")
    def name(thing: str, language: str = "French") -> str: ...

    @llm(grammar='start: "a"')
    def letter(thing: str) -> str:
        """{{thing}}"""

    @workflow
    def wf() -> list[str]:
        return [name("river"), letter("a")]

    graph = wf.graph()
    call = llm_call(graph, "name")
    assert [message.role for message in call.messages] == ["system", "user"]
    assert graph.inputs["input.language"].value == "French"
    assert call.constraint == RegexConstraint(pattern="[a-z]+")
    assert llm_call(graph, "letter").constraint == GrammarConstraint(lark='start: "a"')


def test_arguments_of_tools_are_literals_references_lists_and_objects() -> None:
    @dataclasses.dataclass
    class Plan:
        first: Any
        note: str

    @tool(effects="read")
    def carry(plan: Any, amount: int = 1, mood: Mood = Mood.GOOD) -> None: ...

    @workflow
    def wf() -> None:
        rows = run_sql("q")
        carry(Plan(rows, "n"), mood=Mood.BAD)
        carry({"a": (rows, 1)}, amount=True)

    graph = wf.graph()
    one, two = function_call(graph, "carry").arguments, function_call(graph, "carry.2").arguments
    assert one["plan"].model_dump(exclude_defaults=True)["items"]["first"] == {"variable": "run_sql"}
    assert one["mood"] == Constant(value="bad")
    assert "amount" not in one
    assert two["amount"] == Constant(value=1)
    assert function_call(graph, "carry").type == JsonType(json_schema={"type": "null"})


def test_effects_and_their_keys() -> None:
    def of_table(table: str, row: Any) -> str:
        return f"table/{table}"

    @tool(effects="write", effect_key=of_table, idempotent=True)
    def insert(table: str, row: Any) -> None: ...

    @workflow
    def wf(table: str) -> None:
        rows = run_sql("q")
        one = insert(table, rows)
        insert.options(effects="exclusive", effect_key=None, after=[one, rows])(table, 1)
        insert.options(effect_key="all")(table, 1)

    with pytest.raises(InvalidArgument, match="effect_key says what a write changes"):
        wf.graph("t")

    @workflow
    def good(table: str) -> None:
        rows = run_sql("q")
        one = insert(table, rows)
        insert.options(after=[one, rows], effect_key="all")(table, 1)

    graph = good.graph("t")
    first, second = function_call(graph, "insert"), function_call(graph, "insert.2")
    assert (first.effect, first.effect_key, first.idempotent, first.after) == (EffectClass.WRITE, "table/t", True, ())
    assert (second.effect_key, second.after) == ("all", ("insert", "run_sql"))

    @workflow
    def unknown_key() -> None:
        insert(run_sql("q")[0], 1)

    with pytest.raises(TypeError, match="needs the value of <Var run_sql"):
        unknown_key.graph()


def test_a_tool_says_what_the_server_must_know() -> None:
    spec = run_sql.spec
    assert (spec.name, spec.description, spec.effect, spec.timeout_s) == ("run_sql", "Run one SELECT.", "read", 5.0)
    assert spec.parameters == {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["query"],
        "additionalProperties": False,
    }
    assert spec.returns == {"type": "array", "items": {"type": "integer"}}
    assert run_sql.raw("q", limit=3) == [3]
    assert run_sql.__name__ == "run_sql" and run_sql.__doc__ == "Run one SELECT."


def test_parameters_may_be_called_like_methods_of_pydantic() -> None:
    @tool
    def odd(schema: str, copy: int, model_config: list[int], /, json: bool = False, *, self: str = "") -> str:
        return schema

    assert set(odd.spec.parameters["properties"]) == {"schema", "copy", "model_config", "json", "self"}
    args, kwargs = odd.signature.load({"schema": "s", "copy": 1, "model_config": [1], "self": "x"})
    assert (args, kwargs) == (["s", 1, [1]], {"self": "x"})
    with pytest.raises(InvalidArgument, match=r"odd: copy: Input should be a valid integer"):
        odd.signature.load({"schema": "s", "copy": "x", "model_config": []})
    with pytest.raises(InvalidArgument, match=r"odd: more: Extra inputs are not permitted"):
        odd.signature.load({"schema": "s", "copy": 1, "model_config": [], "more": 1})


def test_what_is_known_until_the_first_await() -> None:
    ran: list[str] = []

    @workflow
    async def dynamic(question: str) -> str:
        async def branch(text: str) -> Sql:
            return await write_sql(text, "s")

        tries = await asyncio.gather(branch("a"), branch("b"))
        ran.append("never")
        return vote(tries, [])

    graph = dynamic.graph("q")
    assert list(calls_of(graph)) == ["write_sql", "write_sql.2"]
    assert graph.outputs == () and ran == []


async def test_a_graph_is_drawn_inside_a_running_loop_too() -> None:
    assert answer.graph("q").outputs == ("vote",)
    source = answer.mermaid("q")
    assert source == mermaid(answer.graph("q"))
    assert 'n2["write_sql"]' in source and 'n5[["run_sql"]]' in source and "n2 --> n5" in source
    assert source.endswith("class n8 output\n")


def test_exceptions_of_the_workflow_come_out_of_graph() -> None:
    @workflow
    async def broken() -> str:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        broken.graph()


def test_a_constraint_can_depend_on_values() -> None:
    @llm(prompt="Quote one of {{lines}}.", regex="nothing")
    def quote(lines: str) -> str: ...

    @llm(prompt="How many of {{lines}}?")
    def count(lines: str) -> int: ...

    @workflow
    def wf(lines: str) -> Var[str]:
        quote(lines)
        return quote.options(grammar='start: "a" | "b"', temperature=0.5)(lines)

    kept, changed = wf.graph("x").calls
    assert isinstance(kept, LLMCall) and isinstance(changed, LLMCall)
    assert kept.constraint == RegexConstraint(pattern="nothing")
    assert changed.constraint == GrammarConstraint(lark='start: "a" | "b"') and changed.sampling.temperature == 0.5
    with pytest.raises(DefinitionError, match=r"quote\.options: give either regex or grammar"):
        quote.options(regex="a", grammar="b")
    with pytest.raises(DefinitionError, match=r"count\.options: regex and grammar constrain text"):
        count.options(regex="a")
