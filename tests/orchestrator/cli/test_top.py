"""`tenuto top --once` shows what a server does, or says why it cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from tenuto import local, tool, workflow

runner = CliRunner()


@tool(effects="read")
def look(word: str) -> int:
    return len(word)


@workflow
async def measure(word: str) -> int:
    return await look(word)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with local("none") as client:
        measure.run("five5")
        yield client.url


def test_a_frame(url: str) -> None:
    result = runner.invoke(app, ["top", "--once", "--url", url], env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    assert "0 programs running" in result.output
    for word in ("measure", "succeeded", "1/1", "Engines", "look", "read"):
        assert word in result.output


def test_no_server() -> None:
    result = runner.invoke(app, ["top", "--once", "--url", "http://127.0.0.1:9"])
    assert result.exit_code == 1 and "no server answers at http://127.0.0.1:9" in result.output
