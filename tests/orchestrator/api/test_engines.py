"""Routes of engines, models and probes, and the names that a server without keys answers to."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

import pytest

from engine.protocol import ModelLoadError
from orchestrator.app import assemble, create_app
from orchestrator.config import Settings
from orchestrator.engines import EngineHandle, SupervisedEngine
from orchestrator.virtual_time import VirtualClock
from tenuto import AsyncClient
from tenuto.testing import ASGITransport
from tests.orchestrator.api.support import Client, EchoEngine, one_call, serving, virtually
from tests.orchestrator.retention.support import LeasingEngine, agent_call
from tests.orchestrator.runtime.support import program


class EchoProcess(EchoEngine):
    """An echo engine that never dies."""

    alive = True

    async def lost(self) -> str:
        return await asyncio.get_running_loop().create_future()


@virtually
async def test_probes_of_a_server_that_is_ready() -> None:
    async with serving() as server:
        assert (await server.client.get("/healthz")).json == {"status": "up"}
        assert (await server.client.get("/readyz")).json == {"status": "ready", "models": ["echo"]}
    async with serving(model=False) as server:
        assert (await server.client.get("/readyz")).json == {"status": "ready", "models": []}


@virtually
async def test_models_and_engines_are_listed() -> None:
    async with serving() as server:
        model = {"id": "echo", "object": "model", "created": 1_700_000_000, "owned_by": "tenuto"}
        more = {"default": True, "status": "ready", "context_tokens": 1 << 20}
        assert (await server.client.get("/v1/models")).json == {"object": "list", "data": [model | more]}
        (engine,) = (await server.client.get("/v1/engines")).json["data"]
        assert (engine["name"], engine["status"], engine["restarts"]) == ("echo", "ready", 0)
        assert engine["capabilities"]["priority"] == "none"


@virtually
async def test_the_sdk_reads_what_is_listed() -> None:
    engine = LeasingEngine()
    app = create_app(Settings(), assemble=partial(assemble, clock=VirtualClock(), engines=[engine], rng=Random(1)))
    async with ASGITransport(app) as transport, AsyncClient("http://tenuto.test", transport=transport) as client:
        (listed,) = await client.engines()
        assert listed.capabilities is not None and listed.capabilities.kv_tokens == engine.capabilities.kv_tokens > 0
        assert [model.id for model in await client.models()] == [engine.name] and await client.tools() == ()


@virtually
async def test_leases_are_listed_to_their_tenant_alone() -> None:
    engine = LeasingEngine()
    app = create_app(
        Settings(retention="keep_always"),
        assemble=partial(assemble, clock=VirtualClock(), engines=[engine], rng=Random(1)),
    )
    async with app.router.lifespan_context(app):
        client = Client(app)
        runtime = app.state.parts.runtime
        for tenant in ("default", "other"):
            open_program = program(agent_call("say0", 0), open=True, outputs=())
            await runtime.submit(open_program, tenant=tenant)
        await asyncio.sleep(10.0)
        (books,) = (await client.get("/v1/leases")).json["data"]
        (lease,) = books["leases"]
        assert (lease["call"], lease["tier"], lease["ends_in_s"] > 0) == ("say0", "device", True)
        assert books["tokens"]["device"] >= 2 * lease["tokens"] > 0 and books["rule"] == "keep_always"
        assert set(books["ended"]) == {"handoff", "expired", "pressure", "cancelled", "final"}
        assert books["token_seconds"]["device"] > 0 == books["unused_token_seconds"]["device"]


@virtually
async def test_an_engine_that_starts_holds_calls_back_and_readyz_says_so() -> None:
    async def load() -> EngineHandle:
        await asyncio.sleep(5.0)
        return EchoProcess()

    engine = SupervisedEngine("echo", load, clock=VirtualClock())
    app = create_app(Settings(), assemble=partial(assemble, clock=VirtualClock(), engines=[engine], rng=Random(1)))
    async with app.router.lifespan_context(app):
        client = Client(app)
        not_ready = await client.get("/readyz")
        assert (not_ready.status, not_ready.problem["retryable"]) == (503, True)
        assert "'echo' is starting" in not_ready.problem["detail"]
        (listed,) = (await client.get("/v1/models")).json["data"]
        assert (listed["id"], listed["status"], listed["context_tokens"]) == ("echo", "starting", None)
        assert (await client.get("/v1/engines")).json["data"][0]["capabilities"] is None
        program = (await client.post("/v1/programs", one_call())).json["id"]
        waited = await client.get(f"/v1/programs/{program}/variables/answer", wait=30)
        assert (waited.json["value"], asyncio.get_running_loop().time()) == ("hello world", 7.0)
        assert (await client.get("/readyz")).status == 200


@virtually
async def test_a_model_that_cannot_load_is_told_by_readyz_and_by_calls() -> None:
    async def load() -> EngineHandle:
        raise ModelLoadError("/models/x/config.json: file is missing")

    engine = SupervisedEngine("x", load, clock=VirtualClock())
    app = create_app(Settings(), assemble=partial(assemble, clock=VirtualClock(), engines=[engine], rng=Random(1)))
    async with app.router.lifespan_context(app):
        client = Client(app)
        await asyncio.sleep(1.0)
        answer = await client.get("/readyz")
        assert (answer.status, answer.problem["type"]) == (503, "urn:tenuto:problem:model_load_error")
        assert "config.json: file is missing" in answer.problem["detail"]
        assert answer.problem["retryable"] is False
        program = (await client.post("/v1/programs", one_call())).json["id"]
        waited = await client.get(f"/v1/programs/{program}/variables/answer", wait=30)
        assert waited.json["error"]["type"] == "model_load_error"
        assert "config.json: file is missing" in waited.json["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "LocalHost:80", "127.0.0.1:7878", "[::1]:7878", "127.8.8.8"])
@virtually
async def test_a_listening_server_without_keys_answers_to_loopback_names(host: str) -> None:
    app = create_app(Settings(), assemble=partial(assemble, engines=[]), listens=True)
    async with app.router.lifespan_context(app):
        assert (await Client(app, {"host": host}).get("/healthz")).status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7878", "127.0.0.1.evil.example", "[::2]", "10.0.0.1"])
@virtually
async def test_a_listening_server_without_keys_answers_to_no_other_name(host: str) -> None:
    app = create_app(Settings(), assemble=partial(assemble, engines=[]), listens=True)
    async with app.router.lifespan_context(app):
        answer = await Client(app, {"host": host}).get("/healthz")
        assert (answer.status, answer.problem["type"]) == (421, "urn:tenuto:problem:host_not_allowed")
