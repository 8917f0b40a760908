"""The server process over real sockets: how it starts, what it takes, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from tests.orchestrator.api.support import one_call, one_tool
from tests.orchestrator.cli.conftest import Launch, tenuto

WAIT_S = 300
"""Bounds every wait, for a machine that is busy with other things."""

OPEN = {"workflow": "agent", "open": True}


def test_one_line_says_where_it_listens_and_the_end_of_stdin_stops_it(launch: Launch) -> None:
    server = launch()
    assert server.said == {"tenuto": "listening", "url": server.url, "pid": server.process.pid}
    assert server.url.startswith("http://127.0.0.1:")
    assert httpx.get(f"{server.url}/readyz").status_code == 200
    assert server.end_stdin() == 0
    assert server.rest_of_stdout() == b""


def test_modules_in_the_working_directory_shadow_nothing(launch: Launch, tmp_path: Path) -> None:
    for name in ("engine", "orchestrator", "dag", "uvicorn"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    assert httpx.get(f"{launch().url}/healthz").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_streams_cleanly_and_then_the_process(launch: Launch, number: signal.Signals) -> None:
    server = launch()
    async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as client:
        program = (await client.post("/v1/programs", json={**OPEN, "graph": one_tool()["graph"]})).json()["id"]
        async with client.stream("GET", f"/v1/programs/{program}/events") as stream:
            chunks = stream.aiter_bytes()
            assert b"program.accepted" in await anext(chunks)
            exiting = asyncio.create_task(asyncio.to_thread(server.signal, number))
            rest = b"".join([chunk async for chunk in chunks])  # ends cleanly, or httpx would raise
        assert b"program.succeeded" not in rest
        assert await exiting == 0
    assert "Traceback" not in server.log.read_text()


async def test_a_reader_that_disappears_is_noticed(launch: Launch) -> None:
    server = launch()
    async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as client:
        worker = (await client.post("/v1/workers", json={"toolset": "t", "tools": [{"name": "add"}]})).json()["id"]
        async with client.stream("GET", f"/v1/workers/{worker}/tasks"):
            assert len((await client.get("/v1/tools")).json()["data"]) == 1
        # The worker is gone with its stream: no poll, the server is asked until it has seen the closed socket.
        async with asyncio.timeout(WAIT_S):
            while (await client.get("/v1/tools")).json()["data"]:
                pass


async def big_body() -> AsyncIterator[bytes]:
    for _ in range(320):
        yield b"x" * 65536


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_a_client_that_sends_too_much_gets_its_answer_and_may_go_on(launch: Launch, announced: bool) -> None:
    server = launch(environment={"TENUTO_LIMITS__SUBMISSION_BYTES": "100000"})
    async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as client:
        headers = {"content-type": "application/json"}
        body: Any = b"x" * 20_971_520 if announced else big_body()
        answer = await client.post("/v1/programs", content=body, headers=headers)
        assert answer.status_code == 413
        assert "limits.submission_bytes = 100,000" in answer.json()["detail"]
        assert (await client.post("/v1/programs", json=OPEN)).status_code == 201


async def test_an_accepted_program_survives_the_servers_death(launch: Launch) -> None:
    arguments = ("--journal", "programs.db")
    first = launch(*arguments)
    async with httpx.AsyncClient(base_url=first.url, timeout=WAIT_S) as client:
        answer = await client.post("/v1/programs", json=one_tool(effect="read"), headers={"idempotency-key": "k"})
        program = answer.json()["id"]
    assert first.signal(signal.SIGKILL) == -signal.SIGKILL
    second = launch(*arguments)
    async with httpx.AsyncClient(base_url=second.url, timeout=WAIT_S) as client:
        again = await client.post("/v1/programs", json=one_tool(effect="read"), headers={"idempotency-key": "k"})
        assert (again.status_code, again.json()["id"]) == (200, program)
        worker = (await client.post("/v1/workers", json={"toolset": "tools", "tools": [{"name": "add"}]})).json()["id"]
        async with client.stream("GET", f"/v1/workers/{worker}/tasks") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    task = json.loads(line.removeprefix("data: "))
                    break
            await client.post(f"/v1/workers/{worker}/results", json=[{"task": task["task"], "value": 3}])
            view = await client.get(f"/v1/programs/{program}/variables/sum", params={"wait": 200})
        assert view.json()["value"] == 3
    third = tenuto("serve", "--port", "0", *arguments, cwd=second.log.parent)
    assert third.returncode == 1
    assert "another server has it open" in third.stderr


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = tenuto("serve", "--port", port, cwd=tmp_path)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "/no/such/model"], "model = '/no/such/model': there is no such directory"),
        (["--host", "0.0.0.0"], "host = '0.0.0.0': other machines could use this server without a key"),
        (["--port", "99999"], "port = 99999 (flag --port)"),
        (["--policy", "fifo"], "policy = 'fifo'"),
        (["--cache", "wat"], "semantic_cache.mode = 'wat' (flag --cache): "),
        (["--config", "none.toml"], "none.toml: cannot be read"),
        (["--log-level", "loud"], "--log-level 'loud'"),
    ],
)
def test_bad_settings_end_the_command_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_model_directory_that_lacks_a_file_is_told_by_readyz(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    server = launch("--model", "broken")
    async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S) as client:
        program = (await client.post("/v1/programs", json=one_call())).json()["id"]
        view = (await client.get(f"/v1/programs/{program}/variables/answer", params={"wait": 200})).json()
        assert view["error"]["type"] == "model_load_error"
        assert "config.json" in view["error"]["message"]
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["retryable"]) == (503, False)
        assert "config.json" in ready.json()["detail"]
        (engine,) = (await client.get("/v1/engines")).json()["data"]
        assert (engine["status"], engine["restarts"]) == ("failed", 0)
