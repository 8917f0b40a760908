"""Programs end to end: the real server app, tools in the client's worker, models answered by doubles."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

import tenuto
from tenuto import (
    AsyncClient,
    CallFailed,
    InvalidResult,
    NoneSucceeded,
    ProgramCancelled,
    RequestInvalid,
    first,
    gather,
    llm,
    tool,
    workflow,
)
from tenuto.testing import ScriptedModel, override
from tenuto.wire import Event, EventKind, ModelTask, ProgramStatus, ProgramView

pytestmark = pytest.mark.usefixtures("client")


class Sql(BaseModel):
    query: str


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Movie(TypedDict):
    title: str
    year: int


@dataclasses.dataclass
class Point:
    x: int
    y: int


@llm
def write_sql(question: str, schema: str) -> Sql:
    """{{schema}} {{question}}"""


@llm
def say(text: str) -> str:
    """{{text}}"""


@tool(effects="read")
def rows_of(query: str) -> list[int]:
    return [len(query)]


@tool(effects="read")
async def total(rows: Sequence[list[int]]) -> int:
    return sum(sum(row) for row in rows)


@tool(effects="read")
async def broken(reason: str) -> str:
    raise ValueError(f"broken: {reason}")


async def only_program(client: AsyncClient) -> ProgramView:
    page = await client.programs()
    (summary,) = page.data
    return await client.program(summary.id)


# -- whole programs -----------------------------------------------------------------------------


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


# -- failures -----------------------------------------------------------------------------------


async def test_a_failed_call_is_raised_at_its_await_and_can_be_caught(client: AsyncClient) -> None:
    @workflow
    async def wf() -> str:
        bad, good = broken("x"), say("fine")
        skipped = say(bad)
        with pytest.raises(CallFailed) as failed:
            await bad
        assert (failed.value.type, failed.value.call, failed.value.attempts) == ("tool_error", "broken", 1)
        assert failed.value.message == "ValueError: broken: x"
        with pytest.raises(CallFailed) as after:
            await skipped
        assert after.value.call == "broken"
        return await good

    with override(ScriptedModel({"say": "ok"})):
        assert await wf.arun() == "ok"
    view = await only_program(client)
    assert view.status is ProgramStatus.SUCCEEDED
    states = {call.id: call.state for call in view.call_views}
    assert states == {"broken": "failed", "say": "ended", "say.2": "skipped"}


async def test_a_failed_output_ends_the_program_as_failed(client: AsyncClient) -> None:
    @workflow
    async def wf() -> list[str]:
        return [say("fine"), broken("x")]

    with override(ScriptedModel({"say": "ok"})):
        with pytest.raises(CallFailed, match="broken: tool_error: ValueError: broken: x"):
            await wf.arun()
    (summary,) = (await client.programs()).data
    async for event in client.events(summary.id):
        last = event
    assert last.kind is EventKind.PROGRAM_FAILED


async def test_exceptions_of_the_workflow_propagate_untouched_and_cancel_the_program(client: AsyncClient) -> None:
    stopped = asyncio.Event()

    @tool(effects="read")
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    mine = KeyError("mine")

    @workflow
    async def wf() -> None:
        endless()
        await say("x")
        raise mine

    with override(ScriptedModel({"say": "ok"})), pytest.raises(KeyError) as raised:
        await wf.arun()
    assert raised.value is mine
    async with asyncio.timeout(20):
        await stopped.wait()
    assert (await only_program(client)).status is ProgramStatus.CANCELLED


@pytest.mark.parametrize("how", ["task", "timeout", "run"])
async def test_cancelling_reaches_tools_and_server(client: AsyncClient, how: str) -> None:
    running, stopped = asyncio.Event(), asyncio.Event()

    @tool(effects="read")
    async def endless() -> str:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    @workflow
    async def wf() -> str:
        return await endless()

    if how == "task":
        task = asyncio.create_task(wf.arun())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif how == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                task = asyncio.create_task(running.wait())
                task.add_done_callback(lambda _: limit.reschedule(0))
                await wf.arun()
    else:
        run = await wf.asubmit()
        await running.wait()
        await run.cancel()
        with pytest.raises(ProgramCancelled, match=run.id):
            await run.result()
    async with asyncio.timeout(20):
        await stopped.wait()
    assert (await only_program(client)).status is ProgramStatus.CANCELLED


async def test_a_timeout_inside_the_workflow_gives_up_one_wait_only() -> None:
    go = asyncio.Event()

    @tool(effects="read")
    async def slow() -> str:
        await go.wait()
        return "late"

    @workflow
    async def wf() -> str:
        var = slow()
        await say("x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await var
        go.set()
        return await var

    with override(ScriptedModel({"say": "ok"})):
        assert await wf.arun() == "late"


async def test_a_program_cancelled_by_another_ends_the_wait(client: AsyncClient) -> None:
    running = asyncio.Event()

    @tool(effects="read")
    async def endless() -> None:
        running.set()
        await asyncio.Event().wait()

    @workflow
    async def wf() -> None:
        await endless()

    run = await wf.asubmit()
    await running.wait()
    await client.cancel(run.id)
    with pytest.raises(ProgramCancelled, match=run.id):
        await run.result()


async def test_invalid_graphs_are_located_and_harm_nothing_else(client: AsyncClient) -> None:
    @tool(effects="read")
    def wants_text(text: str) -> str:
        return text

    @workflow
    async def bad() -> str:
        await say("x")
        return wants_text(rows_of("q"))

    @workflow
    async def good() -> str:
        return say("x")

    with override(ScriptedModel({"say": "ok"})):
        with pytest.raises(RequestInvalid, match="wants_text") as refused:
            await bad.arun()
        assert refused.value.errors[0].pointer.startswith("/calls/1/arguments/text")
        assert await good.arun() == "ok"
    statuses = {summary.workflow: summary.status for summary in (await client.programs()).data}
    assert statuses == {"bad": "cancelled", "good": "succeeded"}


async def test_first_takes_the_first_that_succeeds() -> None:
    release = asyncio.Event()

    @tool(effects="read")
    async def candidate(number: int) -> int:
        if number == 0:
            await release.wait()
        if number == 1:
            raise RuntimeError("not me")
        return number

    @workflow
    async def wf() -> int:
        found = await first((candidate(n) for n in range(4)), accept=lambda n: n != 2)
        release.set()
        return found

    @workflow
    async def none() -> int:
        return await first([candidate(1), candidate(2)], accept=lambda n: n > 5)

    async with asyncio.timeout(20):
        assert await wf.arun() == 3
        with pytest.raises(NoneSucceeded, match="1 failed, 1 refused"):
            await none.arun()


async def test_invalid_output_is_tried_again_if_asked(client: AsyncClient) -> None:
    @workflow
    async def wf(retries: int) -> Sql:
        return write_sql.options(retries=retries)("q", "s")

    model = ScriptedModel({"write_sql": ["no json", Sql(query="good"), "no json"]})
    with override(model):
        assert await wf.arun(1) == Sql(query="good")
        with pytest.raises(CallFailed, match="output_invalid"):
            await wf.arun(0)
    assert [task.attempt for task in model.calls] == [1, 2, 1]


async def test_a_model_that_has_no_answer_fails_the_call_by_name() -> None:
    @workflow
    async def wf() -> str:
        return say("x")

    with override(ScriptedModel({"other": "x"})), pytest.raises(CallFailed, match="no answer for stage 'say'"):
        await wf.arun()
    with override(ScriptedModel([])), pytest.raises(CallFailed, match="has 0 answers"):
        await wf.arun()


# -- streams and handles --------------------------------------------------------------------------


async def test_texts_are_read_while_they_are_generated(client: AsyncClient) -> None:
    @workflow
    async def wf() -> str:
        one = say("x")
        return say(one)

    with override(ScriptedModel({"say": "one two three"})):
        texts: dict[str, str] = {}
        stream = wf.stream()
        async for piece in stream:
            texts[piece.call] = texts.get(piece.call, "") + piece.text
        assert texts == {"say": "one two three", "say.2": "one two three"}
        assert await stream.result() == "one two three"
        assert [piece async for piece in stream] == []

        @workflow
        async def failing() -> str:
            return broken(say("x"))

        seen = []
        with pytest.raises(CallFailed, match="broken"):
            async for piece in failing.stream():
                seen.append(piece)
        assert "".join(piece.text for piece in seen) == "one two three"


@pytest.mark.parametrize("how", ["left", "dropped", "cancelled"])
async def test_leaving_a_stream_cancels_its_program(client: AsyncClient, how: str) -> None:
    forever = asyncio.Event()

    @tool(effects="read")
    async def endless(text: str) -> None:
        await forever.wait()

    @workflow
    async def wf() -> None:
        await endless(say("x"))

    async def reader(stream: tenuto.Stream[None]) -> None:
        async for _ in stream:
            got.set()

    got = asyncio.Event()
    held = wf.stream()
    with override(ScriptedModel({"say": "ok"})):
        if how == "left":
            async with wf.stream() as stream:
                assert (await anext(stream)).text == "ok"
        elif how == "dropped":
            async for piece in wf.stream():
                assert piece.text == "ok"
                break
        else:
            task = asyncio.create_task(reader(held))
            async with asyncio.timeout(60):
                await got.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    (summary,) = (await client.programs()).data
    async with asyncio.timeout(60):
        kinds = [event.kind async for event in client.events(summary.id)]
    assert kinds[-1] is EventKind.PROGRAM_CANCELLED


async def test_a_handle_shows_the_run(client: AsyncClient) -> None:
    go = asyncio.Event()

    @tool(effects="read")
    async def wait() -> str:
        await go.wait()
        return "done"

    @workflow
    async def wf() -> str:
        return wait()

    async def collect(events: AsyncIterator[Event]) -> list[EventKind]:
        return [event.kind async for event in events]

    run = await wf.asubmit()
    assert run.id and len(run.trace_id) == 32 and not run.done
    assert (await run.view()).status is ProgramStatus.RUNNING
    kinds = asyncio.create_task(collect(run.events()))
    go.set()
    assert await run.result() == await run.result() == "done"
    assert run.done
    assert (await kinds)[0] is EventKind.PROGRAM_ACCEPTED and (await kinds)[-1] is EventKind.PROGRAM_SUCCEEDED
    timeline = await run.timeline()
    assert [call.id for call in timeline.calls] == ["wait"] and timeline.status is ProgramStatus.SUCCEEDED
    await run.cancel()
    assert await run.result() == "done"


async def test_a_workflow_that_fails_before_its_first_call_raises_at_submit() -> None:
    @workflow
    async def wf() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await wf.asubmit()


# -- what tools may do and may not -----------------------------------------------------------------


async def test_sync_tools_run_in_parallel_and_see_their_cancellation(client: AsyncClient) -> None:
    together = threading.Barrier(3, timeout=20)
    saw_cancel = threading.Event()

    @tool(effects="read")
    def meet(number: int) -> int:
        together.wait()
        return number

    @tool(effects="read", timeout=0.05)
    def stubborn() -> None:
        while not tenuto.cancelled():
            together_or_not.wait(0.01)
        saw_cancel.set()

    together_or_not = threading.Event()

    @workflow
    async def wf() -> list[int]:
        return [meet(n) for n in range(3)]

    @workflow
    async def late() -> None:
        await stubborn()

    assert await wf.arun() == [0, 1, 2]
    with pytest.raises(CallFailed, match="timeout"):
        await late.arun()
    assert await asyncio.to_thread(saw_cancel.wait, 20)
    assert not tenuto.cancelled()


async def test_arguments_arrive_as_the_annotated_types() -> None:
    @tool(effects="read")
    def kinds(sql: Sql, mood: Mood, points: list[Point], flag: bool = True, *, name: str = "n") -> list[str]:
        assert mood is Mood.BAD and flag is True and name == "n"
        return [type(sql).__name__, *(type(point).__name__ for point in points)]

    @workflow
    async def wf() -> list[str]:
        return kinds(write_sql("q", "s"), Mood.BAD, [Point(1, 2), Point(3, 4)])

    with override(ScriptedModel({"write_sql": Sql(query="x")})):
        assert await wf.arun() == ["Sql", "Point", "Point"]


class Opaque:
    """JSON cannot hold it."""


def bad_tool(kind: str) -> Any:
    async def value() -> Any:
        if kind == "raises":
            raise RuntimeError("deep\nreason")
        if kind == "exits":
            raise SystemExit(3)
        if kind == "silent":
            raise ValueError
        if kind == "garbled":
            raise ValueError("lone \ud800")
        return {
            "opaque": {"x": [Opaque()]},
            "nan": float("nan"),
            "surrogate": "\ud800",
            "bytes": b"\xff",
            "keys": {(1, 2): 3},
        }[kind]

    if kind in ("raises", "exits", "silent", "garbled"):
        return tool(effects="read", name="bad")(value)

    def sync_value() -> Any:
        return asyncio.run(value())

    return tool(effects="read", name="bad")(sync_value)


@pytest.mark.parametrize(
    ("kind", "type", "message"),
    [
        ("raises", "tool_error", "RuntimeError: deep\nreason"),
        ("exits", "tool_error", "SystemExit: 3"),
        ("silent", "tool_error", "ValueError"),
        ("garbled", "tool_error", "ValueError: lone \\ud800"),
        ("opaque", "result_invalid", "tool 'bad' returned dict, which is not Any in JSON: bad: dict cannot be"),
        ("nan", "result_invalid", "tool 'bad' returned float"),
        ("surrogate", "result_invalid", "tool 'bad' returned str"),
        ("bytes", "result_invalid", "tool 'bad' returned bytes"),
    ],
)
async def test_bad_tools_fail_their_call_alone(kind: str, type: str, message: str) -> None:
    bad = bad_tool(kind)

    @workflow
    async def wf() -> str:
        good = say("x")
        with pytest.raises(CallFailed) as failed:
            await bad()
        assert failed.value.type == type
        assert failed.value.message.startswith(message)
        assert "Traceback" not in failed.value.message
        return await good

    with override(ScriptedModel({"say": "ok"})):
        assert await wf.arun() == "ok"


async def test_a_tool_that_breaks_its_own_declaration_says_so() -> None:
    @tool(effects="read")
    def promised() -> list[int]:
        return ["x"]  # type: ignore[list-item]

    @workflow
    async def wf() -> list[int]:
        return promised()

    with pytest.raises(CallFailed, match=r"'promised' returned list, which is not list\[int\].*\[0\]: Input should be"):
        await wf.arun()


async def test_retries_of_tools_are_counted() -> None:
    attempts = 0

    @tool(effects="read", retries=tenuto.Retry(attempts=3, first_wait_s=0.0))
    async def shaky() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError("again")
        return attempts

    @workflow
    async def wf() -> int:
        return shaky()

    assert await wf.arun() == 3


async def test_tools_defined_later_are_registered_later(client: AsyncClient, wire: Any) -> None:
    @workflow
    async def wf(version: int) -> list[str]:
        @tool(effects="read")
        def now() -> str:
            return f"v{version}"

        return [await now(), await now()]

    assert await wf.arun(1) == ["v1", "v1"]
    assert await wf.arun(1) == ["v1", "v1"]
    assert await wf.arun(2) == ["v2", "v2"]
    assert len(wire.sent("/v1/workers")) == 3


async def test_module_tools_are_offered_from_the_start(client: AsyncClient, wire: Any) -> None:
    @workflow
    async def one() -> list[int]:
        return rows_of("x")

    @workflow
    async def two() -> int:
        return total([[1], [2]])

    assert await one.arun() == [1]
    assert await two.arun() == 3
    assert len(wire.sent("/v1/workers")) == 1
    assert {"rows_of", "total", "broken"} <= {view.tool.name for view in await client.tools()}


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


async def test_a_garbled_answer_of_a_double_fails_its_call_alone() -> None:
    @workflow
    async def wf() -> str:
        bad, good = say("bad"), say("good")
        with pytest.raises(CallFailed, match="model_error"):
            await bad
        return await good

    with override(lambda task: "\ud800" if "bad" in task.messages[0].content else "fine"):
        assert await wf.arun() == "fine"


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
