"""What is wrong with a definition or a call is told where it stands, before anything runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import BaseModel

from tenuto import (
    DefinitionError,
    ForeignVar,
    InvalidArgument,
    OutsideWorkflow,
    llm,
    planner,
    tool,
    workflow,
)
from tenuto.wire import (
    JsonType,
)

if TYPE_CHECKING:
    from decimal import Decimal
from tests.sdk.declared import Sql, answer, describe, llm_call, run_sql, vote, write_sql


def test_calls_outside_a_workflow_name_the_fix() -> None:
    with pytest.raises(OutsideWorkflow, match="write_sql was called outside a workflow: call it in a @workflow"):
        write_sql("q", "s")
    with pytest.raises(OutsideWorkflow, match=r"run_sql was called outside.*the bare function is `run_sql.raw`"):
        run_sql("q")


async def test_a_workflow_as_a_function_needs_a_workflow_around_it() -> None:
    with pytest.raises(
        OutsideWorkflow, match=r"answer was called outside a workflow: run it with `answer.run\(\.\.\.\)`"
    ):
        await answer("q")


def test_a_var_of_another_program_is_refused() -> None:
    kept: list[Any] = []

    @workflow
    def one() -> str:
        kept.append(run_sql("q"))
        return vote([], kept)

    one.graph()
    with pytest.raises(ForeignVar, match=r"vote: <Var run_sql: list\[int\]> belongs to another program"):
        one.graph()


def test_calls_in_another_thread_are_refused() -> None:
    @workflow
    async def threaded() -> list[int]:
        return await asyncio.to_thread(lambda: run_sql("q"))

    with pytest.raises(ForeignVar, match="run_sql was called in a thread that the workflow started"):
        threaded.graph()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: write_sql(3, "s"), r"write_sql\(question\): Input should be a valid string"),
        (
            lambda: write_sql("q"),
            r"write_sql: missing a required argument: 'schema'; its signature is write_sql\(quest",
        ),
        (lambda: write_sql("q", "s", "t"), "write_sql: too many positional arguments"),
        (lambda: run_sql("q", limit="x"), r"run_sql\(limit\): Input should be a valid integer"),
        (lambda: run_sql(object()), r"run_sql\(query\)"),
        (lambda: describe({"a": object()}), r"describe\(data\): dict cannot be written as JSON.*object"),
        (lambda: describe([run_sql("q"), object()]), r"describe\(data\): object cannot be written as JSON"),
        (lambda: vote([run_sql("q"), object()], []), r"vote\(tries\): object cannot be written as JSON"),
    ],
)
def test_wrong_arguments_are_told_where_they_are_given(call: Any, message: str) -> None:
    @workflow
    def wf() -> None:
        call()

    with pytest.raises(InvalidArgument, match=message):
        wf.graph()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_token": 3}, "unknown option 'max_token'; did you mean 'max_tokens'?"),
        ({"effects": "read"}, "unknown option 'effects'"),
        ({"wat": 1}, "unknown option 'wat'; the options are: adapter, .*, grammar, .*, regex, "),
        ({"grammer": "x"}, "unknown option 'grammer'; did you mean 'grammar'?"),
        ({"temperature": -1}, "option temperature=-1: Input should be greater than or equal to 0"),
        ({"max_tokens": "many"}, "option max_tokens='many'"),
        ({"seed": -1}, "option seed=-1"),
        ({"stop": ["x", ""]}, "option stop=.*: String should have at least 1 character"),
        ({"timeout": 0}, "option timeout=0: Input should be greater than 0"),
        ({"retries": -1}, "option retries=-1: give a whole number from 0 to 19"),
        ({"retries": True}, "option retries=True"),
        ({"objective": "fast"}, "objective='fast'"),
        ({"group": "a b"}, "option group='a b'"),
    ],
)
def test_wrong_options_are_told_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=r"write_sql\.options: .*" + message.replace("?", r"\?")):
        write_sql.options(**options)
    with pytest.raises(InvalidArgument, match=message.replace("?", r"\?")):
        llm(**options)(write_sql._function)


def test_the_options_of_a_declaration_are_all_told() -> None:
    for decorate, missed in (
        (llm(wat=1), {"system", "prompt", "regex", "max_tokens"}),  # type: ignore[call-overload]
        (tool(wat=1), {"name", "share", "partial", "effects"}),  # type: ignore[call-overload]
        (planner(tools=[run_sql], wat=1), {"rounds", "system", "tools", "model"}),  # type: ignore[call-arg]
    ):
        with pytest.raises(InvalidArgument, match="unknown option 'wat'") as error:
            decorate(write_sql._function)
        assert missed <= set(str(error.value).partition("the options are: ")[2].split(", "))


def test_faulty_definitions_are_told_at_import() -> None:
    def undocumented(a: str) -> str: ...

    def untyped(a: str):  # type: ignore[no-untyped-def]
        """{{a}}"""

    def active(a: str) -> str:
        """{{a}}"""
        return a.upper()

    def starred(*a: str) -> str:
        """{{a}}"""

    def unknown_name(a: Decimal) -> str:
        """{{a}}"""

    def generator(a: str) -> Any:
        yield a

    def opaque(a: asyncio.Queue[int]) -> str:
        return str(a)

    def typed(a: str) -> int:
        """{{a}}"""

    faults: list[tuple[Any, str]] = [
        (lambda: llm(undocumented), "undocumented: give the prompt as docstring or as @llm"),
        (lambda: llm(untyped), "untyped: annotate the return type"),
        (lambda: llm(active), "active: the body of an @llm function never runs"),
        (lambda: llm(starred), r"starred: \*a has no name of its own"),
        (lambda: llm(unknown_name), "name 'Decimal', which is not defined here"),
        (lambda: llm(name="two words")(typed), "'two words' is no name for the server"),
        (lambda: llm(regex="a", grammar="b")(typed), "typed: give either regex or grammar"),
        (lambda: llm(regex="a")(typed), "typed: regex and grammar constrain text"),
        (lambda: llm(prompt="{{b}}")(typed), r"typed: prompt: \{\{b\}\} is not among"),
        (lambda: tool(generator), "generator: a tool returns one value"),
        (lambda: workflow(generator), "generator: a workflow returns one value"),
        (lambda: tool(opaque), r"opaque\(a\): .*Queue.* has no JSON form"),
        (lambda: tool(concurrency=0)(opaque), "opaque: concurrency=0"),
        (lambda: tool(lambda: 1), "'<lambda>' is no name for the server"),
        (lambda: llm(3), "@llm decorates a function, not 3"),  # type: ignore[call-overload]
    ]
    for make, message in faults:
        with pytest.raises(DefinitionError, match=message):
            make()


def test_two_tools_of_one_name_cannot_be_in_one_program() -> None:
    def make(result: int) -> Any:
        @tool(name="same")
        def one() -> int:
            return result

        return one

    @workflow
    def wf(both: bool) -> list[int]:
        a, b = make(1), make(2)
        return [a(), a.options(timeout=1)(), *([b()] if both else [])]

    assert len(wf.graph(False).calls) == 2
    with pytest.raises(InvalidArgument, match=r"two tools are named 'same'.*rename one"):
        wf.graph(True)


def test_local_classes_resolve_where_the_decorator_stands() -> None:
    class Local(BaseModel):
        value: Literal["x"]

    @llm
    def make(seed: str) -> Local:
        """{{seed}}"""

    @workflow
    def wf() -> Local:
        return make("s")

    call = llm_call(wf.graph(), "make")
    assert isinstance(call.type, JsonType) and call.type.json_schema["properties"]["value"]["const"] == "x"


def test_pydantic_models_cannot_hold_a_var_and_say_what_to_do() -> None:
    @workflow
    async def wf() -> Sql:
        return Sql(query=write_sql("q", "s").query)

    with pytest.raises(ValueError, match="Sql") as refused:
        wf.graph()
    assert "Sql.model_construct(...)" in refused.value.__notes__[0]
