"""Workflows are registered once, started by name, kept over restarts, and refused where no inputs could run them."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from orchestrator.api import examples
from orchestrator.api.auth import make_key
from orchestrator.config import Settings
from orchestrator.limits import Limits
from tenuto import llm, workflow
from tests.orchestrator.api.support import Client, serving, virtually

(GREET,) = examples.WORKFLOWS.values()


async def put(client: Client, name: str, body: Any, **headers: str) -> Any:
    return await client.request("PUT", f"/v1/workflows/{name}", body, headers=headers)


@virtually
async def test_a_workflow_is_started_by_its_name() -> None:
    async with serving() as server:
        answer = await put(server.client, "greet", GREET)
        assert (answer.status, answer.headers["location"]) == (201, "/v1/workflows/greet")
        assert (await put(server.client, "greet", GREET)).status == 200
        (listed,) = (await server.client.get("/v1/workflows")).json["data"]
        assert listed == (await server.client.get("/v1/workflows/greet")).json
        assert listed["definition"]["inputs"]["style"]["default"] == "friendly"
        started = await server.client.post(
            "/v1/workflows/greet/programs", {"inputs": {"name": "Ann"}, "metadata": {"user": "7"}}, idempotency_key="k"
        )
        program = started.headers["location"]
        waited = await server.client.get(f"{program}/variables/greeting", wait=60)
        assert waited.json["value"] == "Greet Ann in this style: friendly"
        view = (await server.client.get(program)).json
        assert (view["workflow"], view["metadata"], view["status"]) == ("greet", {"user": "7"}, "succeeded")
        again = await server.client.post(
            "/v1/workflows/greet/programs", {"inputs": {"name": "Ann"}, "metadata": {"user": "7"}}, idempotency_key="k"
        )
        assert (again.status, again.headers["location"]) == (200, program)


@virtually
async def test_inputs_are_those_of_the_workflow() -> None:
    async with serving() as server:
        await put(server.client, "greet", GREET)
        path = "/v1/workflows/greet/programs"
        for inputs, pointer in (({}, "/inputs/name"), ({"name": "Ann", "x": 1}, "/inputs/x")):
            answer = await server.client.post(path, {"inputs": inputs})
            assert (answer.status, answer.pointers()) == (422, [pointer])
        answer = await server.client.post(path, {"inputs": {"name": 5}})
        assert (answer.status, answer.pointers()) == (422, ["/graph/inputs/name/value"])
        assert (await server.client.post("/v1/workflows/other/programs", {"inputs": {}})).status == 404


@virtually
async def test_a_graph_that_cannot_run_is_refused() -> None:
    async with serving(settings=Settings(limits=Limits(workflows=1))) as server:
        lacks = {**GREET, "inputs": {"style": {}}}
        answer = await put(server.client, "greet", lacks)
        assert answer.status == 422
        assert any(pointer.startswith("/calls/0/messages/0") for pointer in answer.pointers())
        assert (await put(server.client, "greet", {**GREET, "outputs": ["nothing"]})).pointers() == ["/outputs/0"]
        assert (await put(server.client, "1st", GREET)).status == 422
        assert (await put(server.client, "greet", GREET)).status == 201
        full = await put(server.client, "another", GREET)
        assert (full.status, "limits.workflows" in full.problem["detail"]) == (429, True)


@virtually
async def test_workflows_survive_a_restart_and_removals_do_too(tmp_path: Path) -> None:
    settings = Settings(journal=tmp_path / "journal.db")
    async with serving(settings=settings) as server:
        await put(server.client, "greet", GREET)
        await put(server.client, "gone", GREET)
        await put(server.client, "greet", {**GREET, "description": "newer"})
        assert (await server.client.request("DELETE", "/v1/workflows/gone")).status == 204
        assert (await server.client.request("DELETE", "/v1/workflows/gone")).status == 404
    async with serving(settings=settings) as server:
        (listed,) = (await server.client.get("/v1/workflows")).json["data"]
        assert (listed["name"], listed["definition"]["description"]) == ("greet", "newer")
        assert (await server.client.get("/v1/programs")).json["data"] == []


@virtually
async def test_a_workflow_that_cannot_be_read_any_more_keeps_no_other_from_being_served(tmp_path: Path) -> None:
    settings = Settings(journal=tmp_path / "journal.db")
    async with serving(settings=settings) as server:
        await put(server.client, "old", GREET)
        await put(server.client, "greet", GREET)
    with sqlite3.connect(settings.journal) as journal:
        journal.execute("UPDATE records SET payload = CAST('{}' AS BLOB) WHERE CAST(facts AS TEXT) LIKE '%\"old\"%'")
    journal.close()
    async with serving(settings=settings) as server:
        (listed,) = (await server.client.get("/v1/workflows")).json["data"]
        assert listed["name"] == "greet"
        assert (await put(server.client, "old", GREET)).status == 201


@virtually
async def test_of_requests_at_once_one_registers_and_one_removes(tmp_path: Path) -> None:
    settings = Settings(journal=tmp_path / "journal.db", limits=Limits(workflows=1))
    async with serving(settings=settings) as server:
        made = await asyncio.gather(*(put(server.client, "greet", GREET) for _ in range(8)))
        assert sorted(answer.status for answer in made) == [200] * 7 + [201]
        gone = [server.client.request("DELETE", "/v1/workflows/greet") for _ in range(8)]
        assert sorted(answer.status for answer in await asyncio.gather(*gone)) == [204] + [404] * 7
        made = await asyncio.gather(*(put(server.client, name, GREET) for name in "abc"))
        assert sorted(answer.status for answer in made) == [201, 429, 429]


@llm(max_tokens=20)
def sketch(topic: str, style: str) -> str:
    """{{style}} {{topic}}"""


@workflow
async def sketched(topic: str, style: str = "funny") -> str:
    return sketch(sketch(topic, "sober"), style)


@virtually
async def test_a_workflow_of_the_sdk_runs_without_its_code() -> None:
    async with serving() as server:
        definition = sketched.definition().model_dump(mode="json")
        assert (await put(server.client, "sketched", definition)).status == 201
        started = await server.client.post("/v1/workflows/sketched/programs", {"inputs": {"topic": "harbours"}})
        waited = await server.client.get(f"{started.headers['location']}/variables/sketch.2", wait=60)
        assert waited.json["value"] == "funny sober harbours"


@virtually
async def test_tenants_have_workflows_of_their_own() -> None:
    keys = [make_key(tenant, tenant.encode() * 24) for tenant in "ab"]
    settings = Settings(api_keys=tuple(key for _, key in keys))
    async with serving(settings=settings) as server:
        first, second = ({"authorization": f"Bearer {key}"} for key, _ in keys)
        await put(server.client, "greet", GREET, **first)
        assert (await server.client.request("GET", "/v1/workflows/greet", headers=second)).status == 404
        assert (await server.client.request("GET", "/v1/workflows/greet", headers=first)).status == 200
