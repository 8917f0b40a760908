"""`tenuto simulate`, as a user runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from engine.costs import EngineProfile, profile, save
from orchestrator.cli import app
from orchestrator.simulation.synthetic import agents
from orchestrator.simulation.trace import LLMNode, Piece, TraceProgram
from tests.orchestrator.simulation.made_up import chats

T = TypeVar("T")

CARD = EngineProfile(
    "card",
    kv_tokens=40_000,
    kv_bytes_per_token=1000,
    weights_s=0.0,
    token_s=3e-5,
    pair_s=2e-8,
    read_s=5e-7,
    step_s=0.004,
    sequence_s=1e-4,
    call_s=0.01,
    token_budget=256,
    max_running=16,
    context_tokens=4096,
)


def written(programs: list[TraceProgram], path: Path) -> Path:
    """The programs as a trace file."""
    lines = []
    for program in programs:
        nodes: list[dict[str, Any]] = []
        for node in program.nodes:
            shared: dict[str, Any] = {"id": node.id, "after": list(node.after)}
            if isinstance(node, LLMNode):
                nodes.append({**shared, "kind": "llm", "prompt": [list(p) for p in node.prompt], "output": node.output})
            else:
                nodes.append({**shared, "kind": "tool", "name": node.name, "duration": node.duration})
        head = {"v": 1, "program": program.program, "workflow": program.workflow, "arrival": program.arrival}
        lines.append(json.dumps({**head, "deadline": program.deadline, "online": program.online, "nodes": nodes}))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "card.json"
    save(replace(CARD, context_tokens=65_536), path)
    assert profile(str(path)).name == "card"
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_trace_is_simulated_and_reported(tmp_path: Path, card: Path) -> None:
    trace = written([*agents(4, turns=(2, 3)), *chats(3)], tmp_path / "t.jsonl")
    out, picture = tmp_path / "out.json", tmp_path / "out.svg"
    code, text, _ = run(trace, "--engine", card, "--as-traced", "--json", out, "--plot", picture)
    assert code == 0
    for word in ("completion", "first token", "deadlines", "goodput", "leases", "time went to"):
        assert word in text
    (found,) = json.loads(out.read_text())
    assert found["programs"] == len(found["detail"]) == 7 and found["failed"] == 0
    assert set(found["completion_s"]) == {"mean", "p50", "p95", "p99"}
    assert picture.read_text().startswith("<svg")


def test_a_sweep_names_the_best_setting(tmp_path: Path, card: Path) -> None:
    trace = written(agents(3, turns=(2, 2)), tmp_path / "t.jsonl")
    out = tmp_path / "out.json"
    code, text, _ = run(
        trace, "--engine", card, "--sweep", "--policy", "fcfs", "--policy", "plas", "--retention", "lru",
        "--load", 0.1, "--load", 0.2, "--slo-ttft", 60, "--json", out,
    )  # fmt: skip
    assert code == 0
    assert "load 0.1: best is" in text and "the SLO holds at every load up to 0.2" in text
    assert len(json.loads(out.read_text())["points"]) == 4


def test_a_trace_that_cannot_run_is_told_as_failed(tmp_path: Path, card: Path) -> None:
    (program,) = agents(1, turns=(1, 1), system=70_000)
    trace = written([replace(program, online=False)], tmp_path / "t.jsonl")
    out, picture = tmp_path / "out.json", tmp_path / "out.svg"
    code, text, _ = run(trace, "--engine", card, "--as-traced", "--json", out, "--plot", picture)
    assert code == 0 and "1, 1 failed" in text
    assert " ".join(text.split()).count("- │ - │ - │ -") == 2
    assert json.loads(out.read_text())[0]["completion_s"]["mean"] is None and picture.is_file()
    code, text, _ = run(trace, "--engine", card, "--sweep", "--policy", "fcfs", "--load", 1, "--plot", picture)
    assert code == 0


@pytest.mark.parametrize("sweep", [(), ("--sweep", "--policy", "fcfs", "--retention", "lru", "--load", "1")])
def test_outputs_that_are_cut_are_told(sweep: tuple[str, ...], tmp_path: Path, card: Path) -> None:
    node = LLMNode("0", (), (Piece("p", 0, 9),), 65_600)
    trace = written([TraceProgram("p", "flow", 0.0, (node,)), *chats(1)], tmp_path / "t.jsonl")
    code, text, _ = run(trace, "--engine", card, *(sweep or ("--as-traced",)))
    assert code == 0
    assert "LLM calls ended before their traced output did: a call generates at most 65,536 tokens" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("bad.jsonl",), "bad.jsonl:1: nodes[0].id: is missing"),
        (("absent.jsonl",), "there is no such file"),
        (("good.jsonl", "--engine", "h300"), "no engine profile 'h300'"),
        (("good.jsonl", "--policy", "luck"), "no scheduling policy 'luck'"),
        (("good.jsonl", "--retention", "luck"), "no retention rule 'luck'"),
        (("good.jsonl", "--format", "xml"), "no trace format 'xml'"),
        (("good.jsonl", "--load", "1", "--load", "2"), "--load: give one"),
        (("good.jsonl", "--load", "0"), "--load: must be a number above 0, got 0"),
        (("good.jsonl", "--sweep", "--load", "1", "--load", "inf"), "--load: must be a number above 0, got inf"),
        (("good.jsonl", "--load", "nan"), "--load: must be a number above 0, got nan"),
        (("good.jsonl", "--host-gb", "inf"), "--host-gb: must be at most 10,000, got inf"),
        (("good.jsonl", "--json", "/no/dir/x.json"), "--json /no/dir/x.json: there is no folder /no/dir"),
        (("good.jsonl", "--sweep", "--plot", "/no/dir/x.svg"), "--plot /no/dir/x.svg: there is no folder /no/dir"),
        (("good.jsonl", "--json", "/"), "--json /: is a folder"),
        (("good.jsonl", "--as-traced", "--programs", "5"), "--as-traced draws nothing: leave --programs out"),
    ],
)
def test_faults_are_told_in_a_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"v": 1, "program": "p", "workflow": "w", "nodes": [{}]}')
    written(chats(1), tmp_path / "good.jsonl")
    code, text, error = run(tmp_path / arguments[0], *arguments[1:])
    assert code == 2 and text == ""
    assert error.startswith("tenuto: ") and told in error and error.count("\n") == 1
