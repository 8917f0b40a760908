"""A real engine process under its supervisor, with a real model on disk, and the program that outlives it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.protocol import ModelLoadError
from orchestrator.app import assemble, create_app
from orchestrator.clock import LoopClock
from orchestrator.config import ConfigError, EngineOptions, Settings
from orchestrator.engines import EngineStatus, SupervisedEngine
from orchestrator.engines.local import LocalProcess, engine_config, local_engines, model_directory, model_source
from tests.engine.models import make_model
from tests.orchestrator.api.support import Client

LETTERS = {"kind": "regex", "pattern": "[a-z]{900}"}
"""Keeps the random model from stopping early: one run takes long enough to be killed in."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=1024)


@pytest.fixture
async def server(directory: Path) -> AsyncIterator[Client]:
    settings = Settings(model=str(directory), engine=EngineOptions(threads=1, kv_blocks=128), start_wait_s=600.0)
    app = create_app(settings, assemble=partial(assemble, rng=Random(3)))
    async with app.router.lifespan_context(app):
        yield Client(app)


def program(seed: int) -> dict[str, Any]:
    parts = [{"kind": "text", "text": "Write letters."}]
    call = {
        "kind": "llm",
        "id": "letters",
        "messages": [{"role": "user", "parts": parts}],
        "constraint": LETTERS,
        "sampling": {"max_tokens": 600, "temperature": 1.0, "seed": seed},
    }
    return {"workflow": "test", "graph": {"calls": [call], "outputs": ["letters"]}}


async def process_of(client: Client) -> LocalProcess:
    engine = client.app.state.parts.engines.for_model(None)  # type: ignore[attr-defined]
    assert isinstance(engine, SupervisedEngine)
    process = await engine.ready()
    assert isinstance(process, LocalProcess)
    return process


async def value(client: Client, id: str) -> str:
    view = (await client.get(f"/v1/programs/{id}/variables/letters", wait=300)).json
    assert view["status"] == "written", view
    return str(view["value"])


async def test_a_program_whose_engine_is_killed_while_it_generates_succeeds(server: Client) -> None:
    process = await process_of(server)
    id = (await server.post("/v1/programs", program(seed=5))).json["id"]
    events: list[tuple[str | None, int]] = []
    async with server.stream(f"/v1/programs/{id}/events") as stream:
        async for event in stream:
            events.append((event.event, event.data["attempt"]))
            if event.event == "call.tokens" and len(events) < 10 and process.alive:
                os.kill(process.pid, signal.SIGKILL)
                await process.lost()
    assert events[-1][0] == "program.succeeded"
    assert {attempt for kind, attempt in events if kind == "call.tokens"} == {1, 2}
    (engine,) = (await server.get("/v1/engines")).json["data"]
    assert (engine["status"], engine["restarts"]) == ("ready", 1)
    # The seed decides the text: a second life of the engine writes what the first would have written.
    again = (await server.post("/v1/programs", program(seed=5))).json["id"]
    assert await value(server, again) == await value(server, id)
    assert (await process_of(server)).pid != process.pid


async def test_calls_that_come_while_a_killed_engine_starts_again_wait_for_it(server: Client) -> None:
    process = await process_of(server)
    os.kill(process.pid, signal.SIGKILL)
    assert "-9" in await process.lost()
    id = (await server.post("/v1/programs", program(seed=1))).json["id"]
    assert len(await value(server, id)) > 100
    assert (await server.get("/readyz")).status == 200


@pytest.fixture
def without_weights(directory: Path, tmp_path: Path) -> Path:
    for file in directory.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    return tmp_path


async def test_a_model_that_lacks_a_file_fails_once_and_names_it(without_weights: Path) -> None:
    (engine,) = local_engines(Settings(model=str(without_weights)), clock=LoopClock())
    engine.start()
    with pytest.raises(ModelLoadError, match="safetensors"):
        await engine.ready()
    assert (engine.state.status, engine.state.restarts) == (EngineStatus.FAILED, 0)
    await engine.close()


async def test_closing_while_the_model_loads_leaves_no_process(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned: asyncio.Queue[asyncio.subprocess.Process] = asyncio.Queue()
    spawn = asyncio.create_subprocess_exec

    async def recorded(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await spawn(*arguments, **options)
        spawned.put_nowait(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    (engine,) = local_engines(Settings(model=str(directory)), clock=LoopClock())
    engine.start()
    process = await spawned.get()
    await engine.close()
    assert process.returncode is not None
    assert engine.state.status is EngineStatus.CLOSED


def test_replicas_are_engines_of_one_model_each_on_a_gpu_of_its_own(directory: Path) -> None:
    settings = Settings(model=str(directory), engine=EngineOptions(replicas=2, device="cuda", threads=3))
    assert [engine.name for engine in local_engines(settings, clock=LoopClock())] == ["tiny", "tiny@2"]
    assert {engine.serves for engine in local_engines(settings, clock=LoopClock())} == {"tiny"}
    assert [engine_config(settings, str(directory), number).device for number in (0, 1)] == ["cuda:0", "cuda:1"]
    on_cpu = Settings(model=str(directory), engine=EngineOptions(replicas=2))
    assert engine_config(on_cpu, str(directory), 1).device == "cpu"


def test_models_are_found_by_directory_by_name_or_not_at_all(directory: Path) -> None:
    assert model_directory("none") is None
    assert model_directory(str(directory)) == directory
    assert model_source("owner/name-0.5B") == "owner/name-0.5B"
    assert model_source(str(directory)) == str(directory) and model_source("none") is None
    with pytest.raises(ConfigError, match="the id of a model on the hub"):
        model_source("owner/name/directory")
    with pytest.raises(ConfigError, match="no such directory"):
        model_directory("bundld")


def test_engine_options_reach_the_engine_and_bad_pairs_are_told(directory: Path) -> None:
    config = engine_config(Settings(engine=EngineOptions(threads=2, dtype="bfloat16")), str(directory))
    assert (config.model, config.name, config.threads, config.dtype) == (str(directory), "tiny", 2, "bfloat16")
    with pytest.raises(ConfigError, match=r"engine: token_budget must be at least max_running"):
        engine_config(Settings(engine=EngineOptions(token_budget=32, max_running=64)), str(directory))
