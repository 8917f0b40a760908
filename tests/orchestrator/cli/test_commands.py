"""The short commands: help, version, key, doctor, run."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.api.auth import ApiKey, KeyRing
from orchestrator.cli import app
from tests.orchestrator.cli.conftest import tenuto

FLOW = """
from tenuto import gather, tool, workflow


@tool(effects="read")
def double(number: int, label: str) -> str:
    return f"{label}: {2 * number}"


@workflow
async def doubled(number: int, label: str = "twice") -> str:
    return double(number, label)


@workflow
async def fails(number: int) -> int:
    raise ValueError("no")
"""


def test_help_and_version_need_no_server() -> None:
    code = (
        "import sys; from orchestrator.cli import app; from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0, result.output\n"
        "assert 'serve' in result.output and 'doctor' in result.output\n"
        "heavy = {'torch', 'fastapi', 'uvicorn', 'networkx', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_version(tmp_path: Path) -> None:
    ended = tenuto("version", cwd=tmp_path)
    assert ended.returncode == 0
    assert ended.stdout.startswith("tenuto ")


def test_a_key_is_shown_once_and_its_lines_admit_it(tmp_path: Path) -> None:
    ended = tenuto("key", "--tenant", "acme", cwd=tmp_path)
    key = ended.stderr.split()[-1]
    assert key not in ended.stdout
    (kept,) = tomllib.loads(ended.stdout)["api_keys"]
    assert KeyRing([ApiKey(**kept)]).tenant(f"Bearer {key}") == "acme"
    assert tenuto("key", "--tenant", 'a"b', cwd=tmp_path).returncode == 2


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The command in this process, which has imported torch already if any test has."""
    ended = CliRunner().invoke(app, ["doctor", *arguments, "--json"])
    return ended.exit_code, {finding["what"]: finding for finding in map(json.loads, ended.stdout.splitlines())}


def test_doctor_finds_what_works_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, found = doctor("--model", "none", "--journal", "j.db")
    assert code == 0, found
    assert found["python"]["verdict"] == found["packages"]["verdict"] == found["device"]["verdict"] == "ok"
    assert (found["model"]["verdict"], found["journal"]["verdict"]) == ("warning", "ok")
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENUTO_PROT", "1")
    (tmp_path / "j.db").write_bytes(b"this is no database, and long enough to be seen as none" * 20)
    code, found = doctor("--model", "/none/such", "--journal", "j.db")
    assert code == 1
    assert (found["model"]["verdict"], found["journal"]["verdict"]) == ("failed", "failed")
    assert "no such directory" in found["model"]["detail"]
    assert "j.db" in found["journal"]["detail"]
    assert "TENUTO_PORT" in found["variables"]["detail"]
    code, found = doctor("--config", "none.toml")
    assert (code, found["settings"]["verdict"]) == (1, "failed")


def test_bench_tells_before_it_measures_that_its_file_cannot_be_written() -> None:
    ended = CliRunner().invoke(app, ["bench", "--fit", "--out", "/no/dir/x.json"])
    assert (ended.exit_code, ended.output) == (2, "tenuto: --out /no/dir/x.json: there is no folder /no/dir\n")


@pytest.mark.parametrize("given", ["inf", "1e300"])
def test_a_memory_that_no_machine_has_is_refused(given: str) -> None:
    for command in (["bench", "--fit", "--kv-gb"], ["simulate", "x.jsonl", "--host-gb"]):
        ended = CliRunner().invoke(app, [*command, given])
        assert (ended.exit_code, "must be at most 10,000" in ended.output) == (2, True)


def test_run_runs_a_workflow_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    ended = tenuto("run", "flow.py:doubled", "-i", "number=21", "-i", "label=7", "--model", "none", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "7: 42\n"), ended.stderr


def test_run_refuses_a_value_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    ended = tenuto("run", "flow.py:doubled", "-i", "number=many", "--model", "none", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "InvalidArgument: doubled(number): Input should be a valid integer" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["flow.py"], "give FILE:WORKFLOW"),
        (["none.py:x"], "none.py: there is no such file"),
        (["flow.py:nope"], "no workflow 'nope'; its workflows: doubled, fails"),
        (["flow.py:doubled"], "doubled needs --input number=VALUE"),
        (["flow.py:doubled", "-i", "number"], "give NAME=VALUE"),
        (["flow.py:doubled", "-i", "numbr=1"], "no parameter 'numbr', only number, label"),
        (["flow.py:doubled", "-i", "number=1", "--url", "http://127.0.0.1:1", "--model", "none"], "leave it out"),
    ],
)
def test_run_says_what_is_wrong_with_its_arguments(tmp_path: Path, arguments: list[str], says: str) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    ended = tenuto("run", *arguments, cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert says in ended.stderr
