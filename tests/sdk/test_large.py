"""Large values stay on the server: events and tasks name them, readers fetch them, once, and only what they need."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from orchestrator.app import create_app
from orchestrator.config import Settings
from orchestrator.limits import Limits
from tenuto import AsyncClient, CallFailed, InvalidArgument, tool, workflow
from tenuto.errors import APIError
from tenuto.http import HTTP
from tenuto.tasks import TaskFailure
from tenuto.testing import ASGITransport, ScriptedModel, override
from tenuto.wire import Event, EventKind, FunctionTask, Reference
from tenuto.worker import Session
from tests.sdk.conftest import URL, Recorder

LIMITS = Limits(inline_bytes=2_000, value_bytes=100_000)
seen: list[FunctionTask] = []


@pytest.fixture(autouse=True)
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Recorder]:
    seen.clear()
    take = Session._take

    def taken(session: Session, message: Any) -> None:
        if isinstance(message, FunctionTask):
            seen.append(message)
        take(session, message)

    monkeypatch.setattr(Session, "_take", taken)
    async with ASGITransport(create_app(Settings(model="none", limits=LIMITS))) as transport:
        wire = Recorder(transport)
        async with AsyncClient(URL, transport=wire):
            yield wire


def fetched(wire: Recorder) -> list[str]:
    return [path.rpartition("/")[2] for method, path, _ in wire.requests if method == "GET" and "/variables/" in path]


@tool(effects="read")
async def load(rows: int) -> list[dict[str, str]]:
    return [{"name": f"row {n}", "text": "x" * 1000} for n in range(rows)]


@tool(effects="read", share=False)
async def count(rows: list[dict[str, str]]) -> int:
    rows.append({})  # nobody else may see this
    return len(rows) - 1


@tool(effects="read")
async def name_of(row: dict[str, str]) -> str:
    return row["name"]


async def events_of(client: AsyncClient) -> list[Event]:
    newest = (await client.programs(limit=1)).data[0].id
    return [event async for event in client.events(newest)]


async def test_a_large_result_that_is_passed_on_is_fetched_once_by_the_worker_and_never_by_the_workflow(
    wire: Recorder,
) -> None:
    @workflow
    async def counted() -> list[int]:
        rows = load(50)
        return [count(rows), count(rows), count(rows)]

    assert await counted.arun() == [50, 50, 50]
    tasks = [task for task in seen if task.tool == "count"]
    assert all(task.arguments == {} and task.fetch["rows"].variable == "load" for task in tasks) and len(tasks) == 3
    assert max(len(task.model_dump_json()) for task in tasks) < 1000
    assert fetched(wire) == ["load"]


async def test_events_tell_a_large_value_by_its_size_and_beginning_and_a_read_gives_it_whole(wire: Recorder) -> None:
    @workflow
    async def loaded() -> list[dict[str, str]]:
        rows = load(3)
        assert await rows[2]["name"] == "row 2"
        return rows

    async with AsyncClient(URL, transport=wire.inner) as client:
        value = await loaded.arun()
        assert len(value) == 3 and value[0]["text"] == "x" * 1000
        (written,) = [event for event in await events_of(client) if event.kind is EventKind.VARIABLE_WRITTEN]
        size = len(json.dumps(value, separators=(",", ":")))
        assert written.value is None and written.large is not None and written.large.bytes == size
        assert written.large.preview.startswith('[{"name":"row 0"')
        view = await client.program((await client.programs(limit=1)).data[0].id)
        assert view.outputs["load"].large == written.large and view.outputs["load"].value is None
        whole = await client.variable(view.id, "load")
        assert whole.value == value and whole.large is None
        assert (await client.variable(view.id, "load", pointer="/1/name")).value == "row 1"
        assert (await client.variable(view.id, "load", pointer="/-1")).value == value[-1]
        for wrong in ("/7", "/0/no~1where", "name", "/0/name/deeper"):
            with pytest.raises(APIError, match="pointer") as error:
                await client.variable(view.id, "load", pointer=wrong)
            assert error.value.status == 422 and error.value.problem.errors[0].pointer == "/query/pointer"


async def test_a_short_part_of_a_large_value_travels_inline_and_a_long_one_by_its_pointer(wire: Recorder) -> None:
    @tool(effects="read")
    async def long_rows(n: int) -> dict[str, list[str]]:
        return {"a/b": ["y" * 3000, "short"], "c": ["z" * 3000] * n}

    @tool(effects="read")
    async def length(text: str) -> int:
        return len(text)

    @workflow
    async def parts() -> list[Any]:
        found = long_rows(2)
        return [length(found["a/b"][1]), length(found["a/b"][0]), name_of(load(3)[1])]

    assert await parts.arun() == [5, 3000, "row 1"]
    short, long, _ = sorted((t for t in seen if t.tool in ("length", "name_of")), key=lambda t: t.call)
    assert short.arguments == {"text": "short"} and not short.fetch
    assert long.arguments == {} and long.fetch["text"].path == ("a/b", 0)


async def test_prompts_read_a_large_value_and_large_inputs_are_not_told_back(wire: Recorder) -> None:
    from tests.sdk.flows import say

    @workflow
    async def told(text: str) -> list[str]:
        return [say(load(3)[2]["text"]), say(text)]

    with override(ScriptedModel(lambda prompt: str(len(str(prompt))))):
        short, long = await told.arun("w" * 50_000)
    assert int(short) > 1000 and int(long) > 50_000
    async with AsyncClient(URL, transport=wire.inner) as client:
        written = [event for event in await events_of(client) if event.kind is EventKind.VARIABLE_WRITTEN]
    (given,) = [event for event in written if event.call is None]
    assert given.value is None and given.large is not None and given.large.bytes == 50_002


async def test_beyond_the_hard_limit_the_call_fails_and_names_the_limit() -> None:
    @workflow
    async def much() -> int:
        return count(load(500))

    with pytest.raises(CallFailed, match=r"has 51\d{4} bytes of JSON, the limit is 100000 \(limits.value_bytes\)"):
        await much.arun()


async def test_a_value_that_cannot_be_read_is_the_calls_error_not_the_workers_end(
    wire: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenuto.fetched import Fetched

    async def broken(self: Fetched, task: FunctionTask) -> FunctionTask:
        if task.fetch:
            raise InvalidArgument("the line is cut")
        return task

    @workflow
    async def counted() -> int:
        return count(load(50))

    monkeypatch.setattr(Fetched, "complete", broken)
    with pytest.raises(CallFailed, match=r"arguments_unavailable.*could not be read: the line is cut"):
        await counted.arun()
    monkeypatch.undo()
    assert await counted.arun() == 50


async def test_a_value_that_is_not_there_yet_is_asked_for_again() -> None:
    from tenuto.fetched import Fetched

    answers: list[dict[str, Any]] = [{"status": "empty"}, {"status": "written", "value": [1, 2]}]
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        return httpx.Response(200, json={"name": "rows", "type": {"kind": "json"}, **answers[len(asked) - 1]})

    http = HTTP(URL, api_key=None, timeout_s=1.0, retries=0, transport=httpx.MockTransport(answer))
    fetched = Fetched(http)
    task = FunctionTask(
        task="t", program="p", call="c", tool="count", arguments={}, idempotency_key="k", timeout_s=None, attempt=1,
        traceparent=None, fetch={"rows": Reference(variable="rows")},
    )  # fmt: skip
    with pytest.raises(TaskFailure, match="could not be read: it is empty") as caught:
        await fetched.complete(task)
    assert caught.value.retryable
    for _ in range(2):
        assert (await fetched.complete(task)).arguments == {"rows": [1, 2]}
    assert len(asked) == 2
    await http.aclose()
