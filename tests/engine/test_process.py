"""The engine's own process: what its client sees when it dies, cannot load, is closed, or loses its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from engine.aio import AsyncEngine
from engine.client import EngineProcess
from engine.clock import ManualClock, SystemClock
from engine.config import EngineConfig
from engine.ipc import Ready, pack, read_frame
from engine.protocol import (
    EngineLost,
    FinishReason,
    GenerateRequest,
    InvalidRequest,
    Lease,
    LeaseOutcome,
    ModelLoadError,
)
from tests.engine.conformance import read, request
from tests.engine.fakes import fake_engine
from tests.engine.serve import request as ids_request


async def test_a_dying_process_loses_its_running_calls_and_says_so_ever_after(model_dir: Path) -> None:
    engine = await EngineProcess.start(EngineConfig(str(model_dir), threads=1))

    async def listen() -> int:
        return len([event async for event in engine.events()])

    listening = asyncio.ensure_future(listen())
    async with aclosing(engine.generate(request())) as chunks:  # type: ignore[type-var]
        await anext(chunks)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineLost, match="status -9"):
            async for _ in chunks:
                pass
    assert await engine.ended() == -9
    with pytest.raises(EngineLost):
        await engine.retain(Lease("l", "p", (1,) * 32, 5.0))
    with pytest.raises(EngineLost):
        await read(engine, request())
    assert await listening >= 0, "whoever listens is told of the end"
    await engine.close()
    await engine.close()


async def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    for kind in (EngineProcess, AsyncEngine):
        with pytest.raises(ModelLoadError, match=r"config\.json: file is missing"):
            await kind.start(EngineConfig(str(tmp_path)))


async def test_closing_ends_the_process_and_what_still_runs(model_dir: Path) -> None:
    engine = await EngineProcess.start(EngineConfig(str(model_dir), threads=1))
    chunks = engine.generate(request())
    await anext(chunks)
    await engine.close()
    with pytest.raises(EngineLost, match="closed"):
        async for _ in chunks:
            pass
    assert await engine.ended() == 0


def test_the_process_ends_when_its_parent_is_gone_and_prints_nothing_else(model_dir: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "engine.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(pack(EngineConfig(str(model_dir), threads=1)))
    server.stdin.flush()
    assert isinstance(read_frame(server.stdout), Ready)
    server.stdin.close()
    assert server.wait(timeout=60) == 0
    assert server.stdout.read() == b""
    server.stdout.close()


def test_the_client_never_loads_torch() -> None:
    code = "import sys, engine.client; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_a_file_named_engine_does_not_shadow_ours(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text("raise SystemExit(7)")
    server = subprocess.run(
        [sys.executable, "-P", "-m", "engine.server"],
        input=pack(EngineConfig(str(model_dir), threads=1)),
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert server.returncode == 0


async def test_a_broken_loop_is_told_to_everyone() -> None:
    clock = ManualClock()
    core, _ = fake_engine(clock, 16)
    engine = await AsyncEngine.of(lambda: core, clock)
    core.step = None  # type: ignore[method-assign, assignment]
    with pytest.raises(EngineLost, match="loop failed"):
        async for _ in engine.generate(ids_request("r", [1, 2, 3], 4)):
            pass
    with pytest.raises(EngineLost):
        await engine.abort("r")
    await engine.close()


async def test_odd_arguments_are_refused_and_the_loop_goes_on() -> None:
    clock = ManualClock()
    async with await AsyncEngine.of(lambda: fake_engine(clock, 16)[0], clock) as engine:
        with pytest.raises(InvalidRequest, match="cannot be done"):
            await engine.retain("not a lease")  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match="cannot be read"):
            async for _ in engine.generate(GenerateRequest("r", "p", prompt_ids=5)):  # type: ignore[arg-type]
                pass
        chunks = [chunk async for chunk in engine.generate(ids_request("r", [1, 2, 3], 4))]
        assert chunks[-1].finish is FinishReason.LENGTH


async def test_a_lease_ends_in_time_without_any_work() -> None:
    clock = SystemClock()
    async with await AsyncEngine.of(lambda: fake_engine(clock, 16)[0], clock) as engine:
        events = engine.events()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        prompt = list(range(1, 40))
        async for _ in engine.generate(ids_request("r", prompt, 1)):
            pass
        await engine.retain(Lease("l", "p", tuple(prompt), 0.01))
        seen = [await first]
        while seen[-1].outcome is None:
            seen.append(await anext(events))
        assert seen[-1].outcome is LeaseOutcome.EXPIRED
