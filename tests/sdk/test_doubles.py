"""`tenuto.testing`: the doubles answer as promised."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter

from orchestrator.app import assemble, create_app
from orchestrator.config import Settings
from tenuto import AsyncClient, CallFailed, RealEngineCall, llm, workflow
from tenuto.testing import (
    ASGITransport,
    EchoModel,
    EngineModel,
    NoisyModel,
    RecordedModel,
    ScriptedModel,
    minimal_value,
    no_real_engine,
    override,
)
from tenuto.testing.models import as_text
from tenuto.wire import GraphExtension, ModelTask, ProgramSubmission, RegexConstraint, RenderedMessage, Sampling
from tests.orchestrator.api.support import EchoEngine


class Kind(enum.Enum):
    A = "a"
    B = "b"


class Node(BaseModel):
    name: Annotated[str, Field(min_length=2)]
    kind: Kind
    weight: Annotated[float, Field(gt=1, lt=2)]
    count: Annotated[int, Field(ge=3, multiple_of=4)]
    pair: tuple[int, str]
    tags: Annotated[list[Literal["t"]], Field(min_length=1)]
    children: list[Node] = []
    parent: Node | None
    note: str = "n"


class Answer(BaseModel):
    sql: str
    sure: bool


@llm
def say(text: str) -> str:
    """{{text}}"""


@llm
def answer(text: str) -> Answer:
    """{{text}}"""


@workflow
async def both(text: str) -> tuple[str, Answer]:
    return (say(text), answer(text))


@workflow
async def many(count: int) -> list[str]:
    return [say.options(seed=index)(f"text {index}") for index in range(count)]


def task(text: str = "hello", *, stage: str = "say", schema: Any = None, **fields: Any) -> ModelTask:
    given: dict[str, Any] = {
        "task": "t",
        "program": "p",
        "call": stage,
        "model": "m",
        "stage": stage,
        "messages": (RenderedMessage(role="user", content=text),),
        "sampling": Sampling(seed=1),
        "constraint": None,
        "json_schema": schema,
        "attempt": 1,
    }
    return ModelTask(**{**given, **fields})


# -- minimal values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "annotation",
    [Node, list[Node], Answer, Kind, int, float, bool, str, None, Any, dict[str, int], tuple[int, Node], int | None],
)
def test_minimal_values_satisfy_their_schema(annotation: Any) -> None:
    schema = TypeAdapter(annotation).json_schema()
    value = minimal_value(schema)
    jsonschema_rs.validate(schema, value)
    TypeAdapter(annotation).validate_python(value)


def test_minimal_values_are_minimal() -> None:
    value = minimal_value(Node.model_json_schema())
    assert value == {
        "name": "xx",
        "kind": "a",
        "weight": 1.000001,
        "count": 4,
        "pair": [0, ""],
        "tags": ["t"],
        "parent": None,
    }
    assert minimal_value({"const": [1]}) == [1]
    assert minimal_value({"type": ["string", "null"]}) is None
    assert minimal_value({"allOf": [{"type": "integer"}, {"minimum": 2}]}) == 2
    assert minimal_value({"type": "integer", "maximum": -3}) == -3
    assert minimal_value(True) is None


@given(st.integers(-50, 50), st.integers(0, 50), st.integers(1, 9))
def test_minimal_numbers_are_in_their_bounds(low: int, width: int, step: int) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": low + width, "multipleOf": step}
    possible = [n for n in range(low, low + width + 1) if n % step == 0]
    if possible:
        assert abs(minimal_value(schema)) == min(map(abs, possible))
    else:
        with pytest.raises(ValueError, match="no number"):
            minimal_value(schema)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "admits no value"),
        ({"type": "string", "pattern": "a+"}, r"a\+"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}, "contains itself without end"),
    ],
)
def test_impossible_minimal_values_say_why(schema: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimal_value(schema)


# -- doubles in programs ---------------------------------------------------------------------------


@pytest.mark.usefixtures("client")
async def test_echo_gives_prompts_back_and_the_smallest_values() -> None:
    with override(EchoModel()):
        assert await both.arun("hi") == ("hi", Answer(sql="", sure=False))
    with pytest.raises(LookupError, match="EchoModel cannot make a sentence of a regex"):
        EchoModel()(task(constraint=RegexConstraint(pattern="a")))


@pytest.mark.usefixtures("client")
async def test_scripts_answer_by_stage_list_and_function() -> None:
    script: dict[str, Any] = {"say": ["one", "two"], "answer": lambda task: {"sql": task.call, "sure": True}}
    with override(ScriptedModel(script)) as model:
        assert await both.arun("a") == ("one", Answer(sql="answer", sure=True))
        assert await both.arun("b") == ("two", Answer(sql="answer", sure=True))
        with pytest.raises(CallFailed, match="has 2 answers for stage 'say', and was asked once more"):
            await both.arun("c")
    assert model.prompts("say") == ["a", "b", "c"]
    with override(ScriptedModel({"answer": RuntimeError("overloaded")}, default="anything")):
        with pytest.raises(CallFailed, match="model_error: RuntimeError: overloaded") as failed:
            await both.arun("a")
        assert failed.value.call == "answer"


@pytest.mark.parametrize(
    ("given", "schema", "text"),
    [
        ("plain", None, "plain"),
        ("3", {"type": "integer"}, "3"),
        ("word", {"enum": ["word"]}, '"word"'),
        (Kind.A, {"enum": ["a"]}, '"a"'),
        (Answer(sql="é", sure=True), {"type": "object"}, '{"sql":"é","sure":true}'),
        ([1, None], None, "[1,null]"),
    ],
)
def test_answers_become_the_text_that_a_model_would_write(given: Any, schema: Any, text: str) -> None:
    assert as_text(given, task(schema=schema)) == text


@pytest.mark.usefixtures("client")
async def test_noise_is_repeatable_and_independent_of_order() -> None:
    def oracle(task: ModelTask) -> str:
        return "right"

    def wrong(task: ModelTask) -> str:
        return "wrong"

    with override(NoisyModel(oracle, 0.3, seed=7, wrong=wrong)):
        first = await many.arun(60)
        assert await many.arun(60) == first
    assert 8 <= first.count("wrong") <= 30
    with override(NoisyModel(oracle, 0.3, seed=8, wrong=wrong)):
        assert await many.arun(60) != first
    with override(NoisyModel(oracle, 0.0)):
        assert await many.arun(3) == ["right"] * 3
    with override(NoisyModel(oracle, 1.0)):
        assert await many.arun(2) == ["text 0", "text 1"]
    with pytest.raises(ValueError, match=r"p is a probability, not 1\.5"):
        NoisyModel(oracle, 1.5)


async def test_noise_lets_a_retry_go_better() -> None:
    model = NoisyModel(lambda task: "right", 0.5, wrong=lambda task: "wrong")
    answers = [[await model(task(f"{n}", attempt=attempt)) for attempt in (1, 2, 3)] for n in range(40)]
    assert any(tries[0] == "wrong" and "right" in tries[1:] for tries in answers)


@pytest.mark.usefixtures("client")
async def test_recordings_replay_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    source = ScriptedModel({"say": ["first", "second"], "answer": Answer(sql="s", sure=True)})
    with override(RecordedModel(path, "record", source=source)):
        recorded = [await both.arun("a"), await both.arun("a")]
    with override(RecordedModel(path)):
        assert [await both.arun("a"), await both.arun("a"), await both.arun("a")] == [*recorded, recorded[1]]
        with pytest.raises(CallFailed, match=r"has no answer for stage '(say|answer)', prompt 'b': record it"):
            await both.arun("b")
    assert {json.loads(line)["stage"] for line in path.read_text().splitlines()} == {"say", "answer"}
    assert len(source.calls) == 4


def test_recordings_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RecordedModel(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"key": "k", "call": "c", "answer": "a"}\n{"key"')
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2: no recorded answer"):
        RecordedModel(tmp_path / "bad.jsonl")
    with pytest.raises(ValueError, match="mode is 'record' or 'replay'"):
        RecordedModel(tmp_path / "x", "write")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="replay asks nobody"):
        RecordedModel(tmp_path / "x", source=EchoModel())


# -- real engines ----------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[None]:
    with no_real_engine():
        yield


@pytest.mark.usefixtures("guarded")
async def test_the_guard_holds_for_posted_graphs_too(client: AsyncClient) -> None:
    graph = many.graph(1)
    with pytest.raises(RealEngineCall, match="say would reach a real engine"):
        await client.submit(ProgramSubmission(workflow="w", graph=graph))
    opened = await client.submit(ProgramSubmission(workflow="w", open=True))
    with pytest.raises(RealEngineCall, match="say would reach a real engine"):
        await client.extend(opened.id, GraphExtension(inputs=graph.inputs, calls=graph.calls, seal=True))
    await client.extend(opened.id, GraphExtension(seal=True))


@pytest.mark.usefixtures("client", "guarded")
async def test_the_guard_of_a_fixture_holds_in_async_tests() -> None:
    with pytest.raises(RealEngineCall, match=r"say would reach a real engine.*tenuto\.testing\.override"):
        await many.arun(1)
    with override(EchoModel()):
        assert await many.arun(1) == ["text 0"]

        async def in_another_task() -> list[str]:
            return await many.arun(1)

        assert await asyncio.create_task(in_another_task()) == ["text 0"]


async def test_recording_asks_the_servers_engine(tmp_path: Path) -> None:
    app = create_app(
        Settings(model="none"), assemble=lambda settings: assemble(settings, engines=[EchoEngine(word_s=0.0)])
    )
    path = tmp_path / "answers.jsonl"
    async with ASGITransport(app) as server, AsyncClient("http://tenuto.test", transport=server):
        direct = await many.arun(2)
        with override(RecordedModel(path, "record")):
            assert await many.arun(2) == direct
        with override(RecordedModel(path)):
            assert await many.arun(2) == direct
        with override(EngineModel("nobody")), pytest.raises(CallFailed, match="nobody"):
            await many.arun(1)
