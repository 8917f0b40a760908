"""Routes of workers: registration, tasks, results, disconnection, tools, hosted models, tenants."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.api.auth import make_key
from orchestrator.config import Settings
from tests.orchestrator.api.support import Client, Stream, one_call, one_tool, serving, virtually

ADD = {
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    "returns": {"type": "integer"},
    "effect": "read",
}
REGISTRATION = {"toolset": "tools", "tools": [ADD]}


def now() -> float:
    return asyncio.get_running_loop().time()


async def registered(client: Client, registration: dict[str, Any] = REGISTRATION) -> str:
    answer = await client.post("/v1/workers", registration)
    assert answer.status == 201, answer.body
    assert answer.headers["location"] == f"/v1/workers/{answer.json['id']}"
    return str(answer.json["id"])


async def next_task(stream: Stream) -> dict[str, Any]:
    async for event in stream:
        task: dict[str, Any] = event.data
        return task
    raise AssertionError("the stream ended")


async def variable(client: Client, program: str, name: str) -> dict[str, Any]:
    view: dict[str, Any] = (await client.get(f"/v1/programs/{program}/variables/{name}", wait=300)).json
    return view


@virtually
async def test_a_worker_takes_a_task_and_brings_its_result() -> None:
    async with serving() as server:
        client = server.client
        worker = await registered(client)
        async with client.stream(f"/v1/workers/{worker}/tasks") as stream:
            assert await stream.status == 200
            program = (await client.post("/v1/programs", one_tool())).json["id"]
            task = await next_task(stream)
            assert (task["kind"], task["tool"], task["arguments"]) == ("function", "add", {"a": 1, "b": 2})
            assert (task["program"], task["call"], task["attempt"]) == (program, "sum", 1)
            done = await client.post(f"/v1/workers/{worker}/results", [{"task": task["task"], "value": 3}])
            assert (done.status, done.body) == (204, b"")
            assert (await variable(client, program, "sum"))["value"] == 3
            # a second result of the same task changes nothing
            late = await client.post(f"/v1/workers/{worker}/results", [{"task": task["task"], "value": 4}])
            assert late.status == 204
            assert (await variable(client, program, "sum"))["value"] == 3


@virtually
async def test_an_error_of_a_tool_becomes_the_variables_error() -> None:
    async with serving() as server:
        client = server.client
        worker = await registered(client)
        async with client.stream(f"/v1/workers/{worker}/tasks") as stream:
            program = (await client.post("/v1/programs", one_tool())).json["id"]
            task = await next_task(stream)
            error = {"type": "tool_error", "message": "ValueError: no"}
            await client.post(f"/v1/workers/{worker}/results", [{"task": task["task"], "error": error}])
            view = await variable(client, program, "sum")
            assert (view["status"], view["error"]["type"], view["error"]["call"]) == ("failed", "tool_error", "sum")


@virtually
async def test_a_worker_that_disconnects_loses_its_task_to_another_one() -> None:
    async with serving() as server:
        client = server.client
        first, second = await registered(client), await registered(client)
        async with client.stream(f"/v1/workers/{first}/tasks") as stream:
            program = (await client.post("/v1/programs", one_tool(effect="read"))).json["id"]
            await next_task(stream)
        async with client.stream(f"/v1/workers/{second}/tasks") as stream:
            task = await next_task(stream)
            await client.post(f"/v1/workers/{second}/results", [{"task": task["task"], "value": 3}])
            assert (await variable(client, program, "sum"))["value"] == 3
        gone = await client.post(f"/v1/workers/{first}/results", [])
        assert (gone.status, gone.problem["type"]) == (404, "urn:tenuto:problem:worker_unknown")


@virtually
async def test_cancelling_a_program_takes_the_task_back() -> None:
    async with serving() as server:
        client = server.client
        worker = await registered(client)
        async with client.stream(f"/v1/workers/{worker}/tasks") as stream:
            program = (await client.post("/v1/programs", one_tool())).json["id"]
            task = await next_task(stream)
            await client.post(f"/v1/programs/{program}/cancel")
            assert await next_task(stream) == {"kind": "cancel", "task": task["task"]}


@virtually
async def test_a_quiet_worker_gets_heartbeats_and_goodbye_ends_its_stream() -> None:
    async with serving() as server:
        client = server.client
        worker = await registered(client)
        async with client.stream(f"/v1/workers/{worker}/tasks") as stream:
            await asyncio.sleep(46.0)
            removed = await client.request("DELETE", f"/v1/workers/{worker}")
            assert removed.status == 204
            assert [event async for event in stream] == []
            assert stream.heartbeats == 3
        assert (await client.request("DELETE", f"/v1/workers/{worker}")).status == 404
        assert len(server.app.state.parts.streams) == 0


@virtually
async def test_a_stream_that_is_open_cannot_be_opened_twice() -> None:
    async with serving() as server:
        worker = await registered(server.client)
        async with server.client.stream(f"/v1/workers/{worker}/tasks") as stream:
            await stream.status
            second = await server.client.get(f"/v1/workers/{worker}/tasks")
            assert (second.status, second.problem["type"]) == (409, "urn:tenuto:problem:conflict")


@pytest.mark.parametrize(
    ("registration", "pointer"),
    [
        ({"tools": []}, "/toolset"),
        ({"toolset": "t", "tools": [{"name": "a b"}]}, "/tools/0/name"),
        ({"toolset": "t", "tools": [ADD, ADD]}, "/tools/1/name"),
        ({"toolset": "t", "tools": [{"name": "a", "parameters": {"type": "objct"}}]}, "/tools/0/parameters"),
        ({"toolset": "t", "tools": [{"name": "a", "timeout_s": -1}]}, "/tools/0/timeout_s"),
        ({"toolset": "t", "concurrency": 0}, "/concurrency"),
    ],
)
@virtually
async def test_a_bad_registration_is_located(registration: dict[str, Any], pointer: str) -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/workers", registration)
        assert answer.status == 422
        assert answer.pointers()[0].startswith(pointer)


@virtually
async def test_a_tool_that_is_declared_twice_is_told_in_plain_words() -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/workers", {"toolset": "t", "tools": [ADD, ADD]})
        assert answer.problem["detail"] == "the worker cannot be registered: tool 'add' is declared twice"


@virtually
async def test_bad_results_are_located_and_harm_nothing() -> None:
    async with serving() as server:
        client = server.client
        worker = await registered(client)
        path = f"/v1/workers/{worker}/results"
        assert (await client.post(path, {"task": "x"})).pointers() == [""]
        assert (await client.post(path, [{"value": 1}])).pointers() == ["/0/task"]
        assert (await client.post(path, b'[{"task":"t","value":NaN}]')).pointers() == ["/0/value"]
        assert (await client.post(path, [{"task": "task_unknown", "value": 1}])).status == 204
        assert (await client.post("/v1/workers/nobody/results", [])).status == 404
        assert (await client.get("/v1/workers/nobody/tasks")).status == 404


@virtually
async def test_tools_of_connected_workers_are_listed() -> None:
    async with serving() as server:
        client = server.client
        assert (await client.get("/v1/tools")).json == {"data": []}
        workers = [await registered(client) for _ in range(2)]
        async with client.stream(f"/v1/workers/{workers[0]}/tasks") as one:
            async with client.stream(f"/v1/workers/{workers[1]}/tasks") as two:
                await asyncio.gather(one.status, two.status)
                listed = (await client.get("/v1/tools")).json["data"]
                assert [(item["toolset"], item["workers"]) for item in listed] == [("tools", 2)]
                assert listed[0]["tool"]["name"] == "add"
                assert listed[0]["tool"]["parameters"] == ADD["parameters"]
        assert (await client.get("/v1/tools")).json == {"data": []}


@virtually
async def test_a_model_that_a_worker_hosts_answers_calls() -> None:
    async with serving(model=False) as server:
        client = server.client
        worker = await registered(client, {"toolset": "tools", "models": [{"name": "scripted"}]})
        async with client.stream(f"/v1/workers/{worker}/tasks") as stream:
            await stream.status
            program = {**one_call("What?", model="scripted"), "toolset": "tools"}
            id = (await client.post("/v1/programs", program)).json["id"]
            task = await next_task(stream)
            assert (task["kind"], task["messages"]) == ("model", [{"role": "user", "content": "What?"}])
            await client.post(f"/v1/workers/{worker}/results", [{"task": task["task"], "value": "That."}])
            assert (await variable(client, id, "answer"))["value"] == "That."


@virtually
async def test_tenants_see_and_serve_nothing_of_each_other() -> None:
    key_a, kept_a = make_key("a", bytes(28))
    key_b, kept_b = make_key("b", bytes([1] * 28))
    async with serving(settings=Settings(api_keys=(kept_a, kept_b))) as server:
        a = Client(server.app, {"authorization": f"Bearer {key_a}"})
        b = Client(server.app, {"authorization": f"Bearer {key_b}"})
        worker = await registered(a)
        program = (await a.post("/v1/programs", one_call(), idempotency_key="k")).json["id"]
        foreign = [
            ("GET", f"/v1/programs/{program}"),
            ("GET", f"/v1/programs/{program}/timeline"),
            ("GET", f"/v1/programs/{program}/variables/answer"),
            ("GET", f"/v1/programs/{program}/events"),
            ("POST", f"/v1/programs/{program}/extend"),
            ("POST", f"/v1/programs/{program}/cancel"),
            ("GET", f"/v1/workers/{worker}/tasks"),
            ("DELETE", f"/v1/workers/{worker}"),
        ]
        for method, path in foreign:
            assert (await b.request(method, path, {} if method == "POST" else None)).status == 404, path
        assert (await b.post(f"/v1/workers/{worker}/results", [])).status == 404
        assert (await b.get("/v1/programs")).json["data"] == []
        async with a.stream(f"/v1/workers/{worker}/tasks") as stream:
            await stream.status
            assert len((await a.get("/v1/tools")).json["data"]) == 1
            assert (await b.get("/v1/tools")).json["data"] == []
        other = await b.post("/v1/programs", one_call(), idempotency_key="k")
        assert (other.status, other.json["tenant"]) == (201, "b")
        assert other.json["id"] != program


@virtually
async def test_without_a_good_key_nothing_but_probes_is_answered() -> None:
    key, kept = make_key("a", bytes(28))
    async with serving(settings=Settings(api_keys=(kept,))) as server:
        for headers in ({}, {"authorization": f"Bearer {key}x"}, {"authorization": "Bearer"}, {"authorization": key}):
            client = Client(server.app, headers)
            answer = await client.post("/v1/programs", one_call())
            assert (answer.status, answer.problem["type"]) == (401, "urn:tenuto:problem:unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert (await client.get("/nowhere")).status == 401
            for path in ("/healthz", "/readyz", "/openapi.json"):
                assert (await client.get(path)).status == 200
        good = Client(server.app, {"authorization": f"Bearer {key}"})
        assert (await good.post("/v1/programs", one_call())).json["tenant"] == "a"
