"""`tenuto trace` draws a program of a server, or says why it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from tenuto import local, tool, workflow

runner = CliRunner()


@tool(effects="read")
def look(word: str) -> int:
    return len(word)


@workflow
async def count(word: str) -> int:
    return await look(word)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with local("none") as client:
        count.run("five5")
        yield client.url


def invoke(*arguments: str, url: str = "http://127.0.0.1:9") -> tuple[int, str]:
    result = runner.invoke(app, ["trace", *arguments, "--url", url])
    return result.exit_code, result.output


def test_the_newest_program_is_drawn(url: str) -> None:
    code, text = invoke("last", url=url)
    assert code == 0 and "count" in text.splitlines()[0] and "critical path: look" in text


def test_other_formats_go_to_a_file(url: str, tmp_path: Path) -> None:
    file = tmp_path / "out"
    assert invoke("last", "--format", "chrome", "-o", str(file), url=url) == (0, "")
    assert {e["name"] for e in json.loads(file.read_text())["traceEvents"]} >= {"look", "tool"}
    assert invoke("last", "--format", "svg", "-o", str(file), url=url)[0] == 0 and file.read_text().startswith("<svg")
    assert invoke("last", "-o", str(file), url=url)[0] == 0 and "critical path" in file.read_text()
    code, text = invoke("last", "--format", "mermaid", url=url)
    assert code == 0 and text.startswith("flowchart TD")
    code, text = invoke("last", "--format", "json", url=url)
    assert json.loads(text)["critical_path"] == ["look"]


@pytest.mark.parametrize("format", ["svg", "gantt"])
def test_a_file_that_cannot_be_written_is_told_first(format: str) -> None:
    told = "tenuto: --out /no/dir/x.svg: there is no folder /no/dir\n"
    assert invoke("last", "--format", format, "-o", "/no/dir/x.svg") == (2, told)


def test_what_is_not_there_is_said(url: str) -> None:
    code, text = invoke("prog_nothing", url=url)
    assert code == 1 and "prog_nothing" in text and "Traceback" not in text
    code, text = invoke("last")
    assert code == 1 and "cannot be reached" in text
