"""`tenuto publish` lets a server keep a workflow, or says why that cannot be."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from orchestrator.cli import app
from tenuto import local

runner = CliRunner()

FLOWS = '''
from tenuto import tool, workflow

@tool(effects="read")
def look(word: str) -> int:
    return len(word)

@workflow
async def measure(word: str) -> int:
    """How long it is."""
    return look(word)

@workflow
async def awaits(word: str) -> int:
    return await look(word)

@workflow
async def lit(word: str) -> str:
    return word

@workflow
async def counts(word: str) -> int:
    return look(word * 2)
'''


def test_a_workflow_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "flows.py"
    file.write_text(FLOWS)
    with local("none") as client:
        to = ["--url", client.url]
        result = runner.invoke(app, ["publish", f"{file}:measure", *to, "--toolset", "words"])
        assert (result.exit_code, result.output) == (0, "measure(word): 1 calls\n")
        (view,) = client.workflows()
        assert (view.name, view.definition.toolset, view.definition.description) == (
            "measure",
            "words",
            "How long it is.",
        )
        for name, why in (("awaits", "awaits a Var"), ("counts", "no graph over its arguments")):
            result = runner.invoke(app, ["publish", f"{file}:{name}", *to])
            assert result.exit_code == 1 and why in result.output
        assert len(client.workflows()) == 1


def test_what_makes_no_call_is_told_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "flows.py"
    file.write_text(FLOWS)
    result = runner.invoke(app, ["publish", f"{file}:lit"])
    assert (result.exit_code, result.output) == (2, "tenuto: lit cannot be published: it makes no call\n")
    result = runner.invoke(app, ["publish", f"{file}:measure", "--toolset", "x" * 201])
    assert result.exit_code == 2 and result.output.startswith("tenuto: measure cannot be published: toolset: ")
