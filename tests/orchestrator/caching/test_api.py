"""`/v1/cache`: what it shows, what it changes, and who may."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.api.auth import make_key
from orchestrator.app import assemble, create_app
from orchestrator.config import ConfigError, Settings
from orchestrator.virtual_time import VirtualClock
from tests.orchestrator.api.support import Client, EchoEngine, Server, one_call, serving

LINES = {"content-type": "application/x-ndjson"}


@asynccontextmanager
async def caching(path: Path, **settings: Any) -> AsyncIterator[Server]:
    """A server with the exact tier (an embedder is another test's affair)."""
    options = {"mode": "exact", "directory": path}
    async with serving(settings=Settings(semantic_cache=options, **settings)) as server:
        yield server


async def answered(client: Client, text: str = "hello world", **call: Any) -> Any:
    """Run one call to its end; the response of its variable."""
    call.setdefault("category", "chat")
    created = await client.post("/v1/programs", one_call(text, **call))
    assert created.status == 201, created.body
    return await client.get(f"/v1/programs/{created.json['id']}/variables/answer", wait=60)


async def settled(server: Server) -> None:
    cache = server.app.state.parts.cache
    await cache.settle()


async def hit(server: Server, **call: Any) -> Any:
    """A call that the cache answers."""
    await answered(server.client, **call)
    await settled(server)
    found = await answered(server.client, **call)
    assert "cache-status" in found.headers
    return found


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("route", ["chat/completions", "responses"])
async def test_stock_clients_see_the_header_too(tmp_path: Path, route: str, streamed: bool) -> None:
    said = [{"role": "user", "content": "hello world"}]
    body = {"model": "echo", "temperature": 0, "stream": streamed}
    body["messages" if route == "chat/completions" else "input"] = said
    async with caching(tmp_path) as server:
        first = await server.client.post(f"/v1/{route}", body)
        await settled(server)
        again = await server.client.post(f"/v1/{route}", body)
        assert (first.status, again.status) == (200, 200)
        assert "cache-status" not in first.headers
        assert again.headers["cache-status"].startswith("tenuto; hit")
        assert again.headers["x-program-id"] != first.headers["x-program-id"]
        assert server.engine.served == 1


async def test_a_hit_says_so_in_a_header_and_in_the_program(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        first = await answered(server.client)
        await settled(server)
        again = await answered(server.client)
        assert "cache-status" not in first.headers
        assert again.headers["cache-status"] == (
            'tenuto; hit; detail="exact; category=chat; similarity=1.000; age=0; saved=2.000s; tokens=4"'
        )
        assert again.json["value"] == first.json["value"] == "hello world"
        assert server.engine.served == 1


async def test_statistics_by_category(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        await hit(server)
        stats = (await server.client.get("/v1/cache/stats")).json
        chat = next(c for c in stats["categories"] if c["category"] == "chat")
        assert (chat["exact_hits"], chat["lookups"], chat["saved_s"], chat["entries"]) == (1, 2, 2.0, 1)
        assert stats["mode"] == "exact"
        assert not stats["semantic"]
        assert "exact" in stats["why_not_semantic"]


async def test_lookups_are_counted_for_the_metrics(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        await hit(server)
        found = {
            verdict: count
            for count, attributes in server.app.state.parts.cache.lookups()
            for verdict in attributes.values()
        }
        assert (found["hit: exact"], found["miss: exact_only"]) == (1, 1)


async def test_a_report_by_call_puts_the_answer_into_quarantine(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        await hit(server)
        programs = (await server.client.get("/v1/programs")).json["data"]
        named = {"program": programs[0]["id"], "call": "answer", "reason": "wrong"}
        entry = (await server.client.post("/v1/cache/report", named)).json["entry"]
        assert "cache-status" not in (await answered(server.client)).headers
        unknown = await server.client.post("/v1/cache/report", {"entry": entry + 1})
        assert unknown.problem["type"].endswith("not_found")
        live = {"program": programs[1]["id"], "call": "answer"}
        assert (await server.client.post("/v1/cache/report", live)).status == 404


async def test_the_answer_of_an_equal_call_under_way_can_be_reported_too(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        message = [{"role": "user", "parts": [{"kind": "text", "text": "the same"}]}]
        calls = [{"kind": "llm", "id": id, "messages": message, "category": "chat"} for id in ("a", "b")]
        graph = {"workflow": "test", "graph": {"calls": calls, "outputs": ["a", "b"]}}
        program = (await server.client.post("/v1/programs", graph)).json["id"]
        found = await server.client.get(f"/v1/programs/{program}/variables/b", wait=60)
        assert "flight" in found.headers["cache-status"]
        assert (await server.client.post("/v1/cache/report", {"program": program, "call": "b"})).status == 200
        stats = (await server.client.get("/v1/cache/stats")).json
        assert (stats["entries"], sum(c["quarantined"] for c in stats["categories"])) == (0, 1)


async def test_a_bump_makes_stale_and_a_dry_run_only_counts(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        tagged = {"cache": {"tags": {"table:t": ""}}}
        await hit(server, **tagged)
        dry = (await server.client.post("/v1/cache/bump", {"tag": "table:t", "dry_run": True})).json
        assert dry == {"tag": "table:t", "entries": 1, "done": False}
        assert "cache-status" in (await answered(server.client, **tagged)).headers
        assert (await server.client.post("/v1/cache/bump", {"tag": "table:t"})).json["entries"] == 1
        assert "cache-status" not in (await answered(server.client, **tagged)).headers


async def test_a_flush_must_be_confirmed(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        await hit(server)
        plan = (await server.client.post("/v1/cache/flush", {})).json
        assert (plan["entries"], plan["done"]) == (1, False)
        wrong = await server.client.post("/v1/cache/flush", {"confirm": "yes"})
        assert wrong.problem["type"].endswith("confirmation_needed")
        assert (await server.client.post("/v1/cache/flush", {"confirm": plan["confirm"]})).json["done"]
        assert "cache-status" not in (await answered(server.client)).headers


async def test_what_was_exported_can_be_imported_elsewhere(tmp_path: Path) -> None:
    async with caching(tmp_path / "a") as server:
        await hit(server)
        exported = await server.client.get("/v1/cache/export")
        assert exported.headers["content-type"] == "application/x-ndjson"
        assert json.loads(exported.body)["category"] == "chat"
    async with caching(tmp_path / "b") as server:
        taken = await server.client.request("POST", "/v1/cache/import", exported.body, headers=LINES)
        assert taken.json == {"taken": 1}
        assert "cache-status" in (await answered(server.client)).headers
        broken = await server.client.request("POST", "/v1/cache/import", b"{}\n", headers=LINES)
        assert "line 1" in broken.problem["detail"]
        plain = await server.client.request("POST", "/v1/cache/import", b"{}\n")
        assert plain.status == 415


async def test_a_call_is_explained_by_its_program_or_by_itself(tmp_path: Path) -> None:
    async with caching(tmp_path) as server:
        await hit(server)
        program = (await server.client.get("/v1/programs")).json["data"][0]["id"]
        found = (await server.client.post("/v1/cache/explain", {"program": program, "call": "answer"})).json
        assert found["outcome"].startswith("hit: exact")
        call = {
            "kind": "llm",
            "id": "x",
            "messages": [{"role": "user", "parts": [{"kind": "variable", "variable": "v"}]}],
        }
        given = {"llm": call, "variables": {"v": "?"}}
        assert (await server.client.post("/v1/cache/explain", given)).json["outcome"].startswith("miss")
        for faulty in ({"llm": call}, {}, {"program": program}):
            assert (await server.client.post("/v1/cache/explain", faulty)).status == 422
        assert (await server.client.post("/v1/cache/explain", {"program": program, "call": "no"})).status == 404


async def test_a_server_without_a_cache_says_how_to_have_one() -> None:
    async with serving() as server:
        answer = await server.client.get("/v1/cache/stats")
        assert answer.problem["type"].endswith("cache_off")
        assert "--cache" in answer.problem["detail"]


async def test_tenants_see_their_own_answers_and_only_operators_what_concerns_all(tmp_path: Path) -> None:
    keys, clients = [], {}
    for number, (tenant, operator) in enumerate([("a", False), ("b", False), ("b", True)]):
        text, key = make_key(tenant, bytes([number]) * 24)
        keys.append({"prefix": key.prefix, "sha256": key.sha256, "tenant": tenant, "operator": operator})
        clients[tenant, operator] = {"authorization": f"Bearer {text}"}
    async with caching(tmp_path, api_keys=keys) as server:
        a, b, boss = (Client(server.app, headers) for headers in clients.values())
        await answered(a)
        await settled(server)
        assert "cache-status" not in (await answered(b)).headers
        assert (await a.get("/v1/cache/export")).body.count(b"\n") == 1
        assert (await a.get("/v1/cache/stats")).problem["type"].endswith("forbidden")
        assert (await a.request("POST", "/v1/cache/tune", b"", headers=LINES)).status == 403
        assert (await boss.get("/v1/cache/stats")).status == 200
        await settled(server)
        assert (await boss.post("/v1/cache/flush", {})).json["entries"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"categories": {"chat": {"similarity": 0.1}}}, "similarity is under the floor"),
        ({"categories": {"new": {"similarity": 0.9}}}, "'new' is new"),
        ({"mode": "semantic", "embedder": "/no/such/model"}, "neither a directory nor a hub id"),
    ],
)
async def test_faulty_settings_stop_the_start_and_say_why(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    settings = Settings(semantic_cache={"mode": "exact", "directory": tmp_path, **options})
    make = partial(assemble, clock=VirtualClock(), engines=[EchoEngine()], rng=Random(0))
    app = create_app(settings, assemble=make)
    with pytest.raises(ConfigError, match=says):
        async with app.router.lifespan_context(app):
            pass


async def test_without_an_embedder_equal_calls_are_answered_and_the_reason_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"mode": "semantic", "directory": tmp_path, "embedder": "none"}
    async with serving(settings=Settings(semantic_cache=options)) as server:
        await hit(server)
        stats = (await server.client.get("/v1/cache/stats")).json
    assert not stats["semantic"]
    assert "answers equal calls only" in caplog.text
