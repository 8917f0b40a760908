"""`local()` and `testing.server()`: a real server process, started, used, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import httpx
import pytest

from tenuto import InvalidArgument, ServerNotInstalled, ServerStartError, llm, local, tool, workflow
from tenuto.local import LocalServer, _environment, _toml
from tenuto.testing import ScriptedModel, override, server


@llm
def say(text: str) -> str:
    """{{text}}"""


@tool(effects="read")
def shout(text: str) -> str:
    return text.upper()


@workflow
async def greet(name: str) -> list[str]:
    text = await say(name)
    return [shout(text) for _ in range(2)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_private_server_lives_as_long_as_its_block() -> None:
    host = server(limits={"page": 3})
    async with host as client:
        pid, url = host.server.pid, client.url
        assert pid is not None and alive(pid) and url.startswith("http://127.0.0.1:")
        with override(ScriptedModel({"say": "hello"})):
            assert await asyncio.gather(*(greet.arun("a") for _ in range(5))) == [["HELLO", "HELLO"]] * 5
            stream = greet.stream("b")
            assert "".join([piece.text async for piece in stream]) == "hello"
        assert len((await client.programs(limit=50)).data) == 3  # the setting has come through
        assert await client.ready()
    assert not alive(pid)
    async with httpx.AsyncClient() as plain:
        with pytest.raises(httpx.ConnectError):
            await plain.get(url + "/healthz")


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """The parent is killed with no chance to clean up."""
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from tenuto.testing import server
        host = server()
        client = host.__enter__()
        print(json.dumps({"pid": host.server.pid, "models": len(client.models())}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    (tmp_path / "orchestrator.py").write_text("raise SystemExit('a file of the user must not be imported')")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    said = json.loads(done.stdout)
    assert said["models"] == 0
    with subprocess.Popen(["tail", f"--pid={said['pid']}", "-f", "/dev/null"]) as watch:
        assert watch.wait(60) == 0  # tail ends when the server has


def test_wrong_settings_are_told_with_the_servers_own_words() -> None:
    with pytest.raises(ServerStartError, match=r"ended with exit status \d+ before it was ready(.|\n)*polcy"):
        server(polcy="fcfs").__enter__()
    with pytest.raises(ServerStartError, match=r"no-such-directory"):
        local("no-such-directory").__enter__()
    with pytest.raises(InvalidArgument, match="a private server has its own port"):
        local(port=1)
    with pytest.raises(InvalidArgument, match=r"setting engine.threads=\{1\}"):
        server(engine={"threads": {1}}).__enter__()


async def test_a_server_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(ServerNotInstalled, match=f"not installed for {bare}"):
        async with local():
            pass


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\necho starting >&2\nexec cat\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    host = LocalServer("none", {}, timeout_s=0.5, on_log=lambda line: None)
    with pytest.raises(ServerStartError, match=r"did not start within 0.5 s"):
        host.start()
    assert host.pid is None


def test_settings_are_written_as_toml(tmp_path: Path) -> None:
    settings = {
        "policy": 'a "quoted" \\ text\n',
        "limits": {"page": 3, "worker_wait_s": 0.5},
        "flag": True,
        "journal": tmp_path,
        "list": ["a", 1],
    }
    assert tomllib.loads(_toml(settings)) == {**settings, "journal": str(tmp_path)}


def test_what_is_asked_for_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENUTO_PORT", "1")
    monkeypatch.setenv("TENUTO_LIMITS__PAGE", "7")
    monkeypatch.setenv("TENUTO_POLICY", "fcfs")
    kept = _environment({"limits": {"page": 3}})
    assert "TENUTO_PORT" not in kept and "TENUTO_LIMITS__PAGE" not in kept
    assert kept["TENUTO_POLICY"] == "fcfs" and kept["PATH"] == os.environ["PATH"]
