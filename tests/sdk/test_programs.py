"""Programs end to end: the real server app, tools in the client's worker, models answered by doubles."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import tenuto
from tenuto import (
    AsyncClient,
    CallFailed,
    InvalidArgument,
    InvalidResult,
    gather,
    llm,
    tool,
    workflow,
)
from tenuto.testing import ScriptedModel, override
from tenuto.wire import ModelTask, ProgramStatus
from tests.sdk.flows import Mood, Movie, Point, Sql, only_program, rows_of, say, total, write_sql

pytestmark = pytest.mark.usefixtures("client")


class Opaque:
    """What pydantic knows nothing of."""


async def test_a_fan_out_runs_end_to_end_in_one_submission(client: AsyncClient, wire: Any) -> None:
    @workflow(objective="throughput", metadata={"suite": "sdk"})
    async def answer(question: str) -> int:
        drafts = [write_sql.options(seed=i)(question, "t(a)") for i in range(3)]
        return total([rows_of(draft.query) for draft in drafts])

    model = ScriptedModel({"write_sql": [Sql(query="a"), Sql(query="bb"), Sql(query="ccc")]})
    with override(model):
        assert await answer.arun("how many?") == 6
    assert model.prompts("write_sql") == ["t(a) how many?"] * 3
    assert [task.sampling.seed for task in model.calls] == [0, 1, 2]
    (submission,) = map(json.loads, wire.sent("/v1/programs"))
    assert (submission["open"], submission["graph"]["outputs"]) == (False, ["total"])
    assert wire.sent("/extend") == []
    view = await only_program(client)
    assert (view.status, view.metadata, view.objective.kind) == ("succeeded", {"suite": "sdk"}, "throughput")
    assert {call.state for call in view.call_views} == {"ended"}


async def test_control_flow_that_depends_on_values(client: AsyncClient, wire: Any) -> None:
    @workflow
    async def refine(question: str) -> list[int]:
        draft = write_sql(question, "s")
        rows = rows_of(draft.query)
        tries = 0
        while len((await draft).query) < 4:
            tries += 1
            draft = write_sql(draft.query, "s")
        rest = [rows, rows_of(draft.query)]
        return gather([row[0] for row in rest])

    model = ScriptedModel({"write_sql": lambda task: Sql(query="x" * (task.messages[0].content.count("x") + 1))})
    with override(model):
        assert await refine.arun("q") == [1, 4]
    assert [task.call for task in model.calls] == ["write_sql", "write_sql.2", "write_sql.3", "write_sql.4"]
    first, *extensions = map(json.loads, [*wire.sent("/v1/programs"), *wire.sent("/extend")])
    assert [call["id"] for call in first["graph"]["calls"]] == ["write_sql", "rows_of"]
    assert [[call["id"] for call in sent["calls"]] for sent in extensions] == [
        *(["write_sql.2"], ["write_sql.3"], ["write_sql.4"]),
        ["rows_of.2"],
    ]
    assert [sent["seal"] for sent in extensions] == [False, False, False, True]
    view = await only_program(client)
    assert (view.status, view.open) == ("succeeded", False)


async def test_what_tasks_of_one_tick_declare_goes_out_together(wire: Any) -> None:
    @workflow
    async def wf() -> list[str]:
        async def branch(text: str) -> str:
            return (await say(text)) + await say(text + "!")

        return await asyncio.gather(*(branch(text) for text in "abc"))

    with override(ScriptedModel(lambda task: task.messages[0].content.upper())):
        assert await wf.arun() == ["AA!", "BB!", "CC!"]
    (submission,) = map(json.loads, wire.sent("/v1/programs"))
    assert [call["id"] for call in submission["graph"]["calls"]] == ["say", "say.2", "say.3"]
    assert len(wire.sent("/extend")) <= 4


async def test_calls_start_while_the_workflow_does_something_else() -> None:
    started = asyncio.Event()

    @tool(effects="read")
    async def start() -> str:
        started.set()
        return "done"

    @workflow
    async def wf() -> str:
        var = start()
        await started.wait()  # no Var is awaited here, and yet the call must run
        return await var

    async with asyncio.timeout(20):
        assert await wf.arun() == "done"


async def test_results_are_given_the_declared_types() -> None:
    @llm
    def mood(text: str) -> Mood:
        """{{text}}"""

    @llm
    def grade(text: str) -> Literal["a", "b"]:
        """{{text}}"""

    @llm
    def movies(text: str) -> list[Movie]:
        """{{text}}"""

    @llm
    def point(text: str) -> Point:
        """{{text}}"""

    @llm
    def number(text: str) -> float:
        """{{text}}"""

    @workflow
    async def wf() -> tuple[Mood, str, list[Movie], Point, float, Sql]:
        assert await mood("x") is Mood.GOOD
        assert await point("x") == Point(1, 2)
        assert await movies("x")[0]["year"] == 1999
        return (mood("y"), grade("x"), movies("x"), point("x"), number("x"), write_sql("q", "s"))

    film: Movie = {"title": "t", "year": 1999}
    answers = {
        "mood": Mood.GOOD,
        "grade": "b",
        "movies": [[film], [film, film]],
        "point": Point(1, 2),
        "number": 0.5,
        "write_sql": {"query": "q"},
    }
    with override(ScriptedModel(answers)):
        result = await wf.arun()
    assert result == (Mood.GOOD, "b", [film, film], Point(1, 2), 0.5, Sql(query="q"))


async def test_returned_trees_are_filled_in_and_validated(client: AsyncClient) -> None:
    class Answer(BaseModel):
        sql: Sql
        rows: list[int]
        note: str = "n"

    @workflow
    def built(question: str) -> Answer:
        draft = write_sql(question, "s")
        return Answer.model_construct(sql=draft, rows=rows_of(draft.query), note="own")

    @workflow
    def loose(question: str) -> Any:
        draft = write_sql(question, "s")
        return {"drafts": [draft, {"again": draft.query}], "constant": (1, None)}

    @workflow
    def wrong(question: str) -> list[str]:
        return rows_of(question)

    @workflow
    async def known(question: str) -> Answer:
        draft = await write_sql(question, "s")
        rows = await rows_of(draft.query)
        return Answer(sql=draft, rows=rows)

    with override(ScriptedModel({"write_sql": Sql(query="abc")})):
        assert await built.arun("q") == Answer(sql=Sql(query="abc"), rows=[3], note="own")
        assert await loose.arun("q") == {"drafts": [Sql(query="abc"), {"again": "abc"}], "constant": (1, None)}
        run = await known.asubmit("q")
        assert await run.result() == Answer(sql=Sql(query="abc"), rows=[3])
        assert (await run.view()).result == {"sql": {"query": "abc"}, "rows": [3], "note": "n"}
        with pytest.raises(InvalidResult, match=r"the result of wrong: \[0\]: Input should be a valid string"):
            await wrong.arun("q")


async def test_calls_after_a_run_are_outside_of_it() -> None:
    @workflow
    async def inner() -> int:
        return await total([[1]])

    @workflow
    async def outer() -> list[int]:
        other = await inner.arun()  # a program of its own
        return [other, await total([[2]])]

    assert await outer.arun() == [1, 2]
    with pytest.raises(tenuto.OutsideWorkflow):
        total([[1]])


async def test_a_workflow_without_calls_is_a_program_too(client: AsyncClient) -> None:
    @workflow
    async def constant(value: int) -> int:
        return value + 1

    assert await constant.arun(1) == 2
    assert (await only_program(client)).status is ProgramStatus.SUCCEEDED


async def test_arguments_of_workflows_are_checked_by_their_types(client: AsyncClient) -> None:
    seen: list[Any] = []

    @workflow
    async def kinds(number: int, mood: Mood, point: Point | None = None, *more: int, log: list[str], by: Opaque) -> int:
        seen[:] = [number, mood, point, more, log, by]
        return number

    @workflow
    async def outer(number: Any) -> int:
        return await kinds(number, Mood.BAD, log=[], by=Opaque())

    given: Any = {"log": ["as it is"], "by": "whatever"}
    text: Any = "5"
    point: Any = {"x": 1, "y": 2}
    assert await kinds.arun(text, Mood.BAD, point, 1, **given) == 5
    assert seen == [5, Mood.BAD, Point(1, 2), (1,), ["as it is"], "whatever"]
    assert seen[4] is given["log"]
    for wrong in ("a", None, 1.5):
        with pytest.raises(InvalidArgument, match=r"kinds\(number\): Input should be a valid integer"):
            await kinds.arun(wrong, Mood.BAD, **given)
        with pytest.raises(InvalidArgument, match=r"kinds\(number\): Input should be a valid integer"):
            await outer.arun(wrong)
    with pytest.raises(InvalidArgument, match=r"kinds\(log\): \[0\]: Input should be a valid string"):
        kinds.graph(1, Mood.BAD, log=[1], by=Opaque())  # type: ignore[list-item]


async def test_a_workflow_inside_another_is_part_of_its_program(client: AsyncClient) -> None:
    @workflow
    async def inner(text: str) -> str:
        return say(text)

    @workflow
    async def outer(text: str) -> list[str]:
        both = await asyncio.gather(inner(text), inner(text + "!"))
        return [*both, await inner(both[0])]

    with override(ScriptedModel(lambda task: "<" + task.messages[0].content + ">")):
        assert await outer.arun("a") == ["<a>", "<a!>", "<<a>>"]
    assert len((await only_program(client)).call_views) == 3


async def test_programs_and_clients_run_side_by_side(client: AsyncClient, server: Any) -> None:
    met = asyncio.Barrier(3)

    @tool(effects="read")
    async def meet(name: str) -> str:
        await met.wait()
        return name

    @workflow
    async def wf(name: str) -> str:
        return meet(name)

    async with AsyncClient("http://tenuto.test", transport=server) as other, asyncio.timeout(20):
        runs = [wf.options(client=client).arun("a"), wf.options(client=other).arun("b"), wf.arun("c")]
        assert await asyncio.gather(*runs) == ["a", "b", "c"]
        assert len(await client.tools()) >= 2


async def test_a_tool_may_run_a_workflow_of_its_own(client: AsyncClient) -> None:
    @workflow
    async def inner(text: str) -> str:
        return say(text)

    @tool(effects="read")
    async def ask(text: str) -> str:
        with pytest.raises(tenuto.OutsideWorkflow):
            say(text)
        return await inner.arun(text)

    @workflow
    async def outer() -> str:
        return ask("hello")

    @tool(effects="read")
    async def ask_scripted(text: str) -> str:
        with override(ScriptedModel({"say": text.upper()})):
            return await ask.raw(text)

    @workflow
    async def scripted() -> str:
        return ask_scripted("hello")

    assert await scripted.arun() == "HELLO"
    with pytest.raises(CallFailed, match=r"tool_error: RequestInvalid: .*names no model"):
        await outer.arun()


async def test_doubles_of_different_contexts_do_not_meet() -> None:
    @workflow
    async def wf(text: str) -> str:
        return say(text)

    async def inside(answer: str) -> str:
        with override(ScriptedModel({"say": answer})):
            return await wf.arun("x")

    assert await asyncio.gather(*(inside(str(n)) for n in range(5))) == [str(n) for n in range(5)]


async def test_vars_are_awaitables_for_asyncio() -> None:
    @workflow
    async def wf() -> list[Any]:
        a, b = total([[1]]), total([[2]])
        both = await asyncio.gather(a, b)
        late = [await done for done in asyncio.as_completed([total([[3]]), total([[4]])])]
        return [both, sorted(late), await asyncio.wait_for(total([[5]]), 60)]

    assert await wf.arun() == [[1, 2], [3, 4], 5]


async def test_async_doubles_see_the_whole_task() -> None:
    seen: list[ModelTask] = []

    async def model(task: ModelTask) -> Any:
        seen.append(task)
        return Sql(query=task.messages[0].content)

    @workflow
    async def wf() -> Sql:
        return write_sql.options(max_tokens=7, temperature=0.5, stop=["\n"])("q", "s")

    with override(model):
        assert await wf.arun() == Sql(query="s q")
    (task,) = seen
    assert (task.stage, task.sampling.max_tokens, task.sampling.stop) == ("write_sql", 7, ("\n",))
    assert task.json_schema is not None and task.json_schema["additionalProperties"] is False
