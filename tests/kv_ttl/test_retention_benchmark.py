"""The retention benchmark reads traces, replays pauses as they happened, and scores by its stated definition."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import sha256
from benchmarks.retention import SAVED_S, Cell, hindsight, main, measure, reward
from benchmarks.retention_traces import Program, TraceError, Waiting, generate, read, replay
from kv_ttl.baselines import Fixed
from kv_ttl.rules import StopAware


def llm(name: str, *after: str, output: int = 50) -> dict[str, Any]:
    return {"id": name, "kind": "llm", "after": list(after), "prompt": [["s", 0, 8000]], "output": output}


def tool(name: str, seconds: float, *after: str) -> dict[str, Any]:
    return {"id": name, "kind": "tool", "after": list(after), "name": f"tool-{name[0]}", "duration": seconds}


def trace(tmp_path: Path, *nodes: dict[str, Any], name: str = "t.jsonl") -> Path:
    line = json.dumps({"v": 1, "program": "p", "workflow": "w", "environment": "e", "arrival": 0.0, "nodes": nodes})
    path = tmp_path / name
    path.write_bytes(gzip.compress(line.encode()) if name.endswith("gz") else line.encode())
    return path


def ended(programs: list[Program], slots: int = 8) -> list[tuple[float, Waiting]]:
    """Each pause in the order of its end, with the time at which it began."""
    began: dict[str, float] = {}
    out: list[tuple[float, Waiting]] = []
    replay(
        programs,
        slots,
        lambda one: began.__setitem__(one.pause.key, one.pause.now),
        lambda one: out.append((began[one.pause.key], one)),
        5.0,
    )
    return out


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_a_pause_lasts_until_the_last_of_its_tools(tmp_path: Path, name: str) -> None:
    path = trace(
        tmp_path, llm("a"), tool("x", 2.0, "a"), tool("y", 3.0, "a"), tool("z", 4.0, "x", "y"), llm("b", "z"),
        tool("w", 1.0, "b"), llm("c", "w"), name=name,
    )  # fmt: skip
    (began, first), (_, second) = ended(read([path]))
    # The first call: 8,000 new tokens at 8,000/s and 50 tokens at 50/s.
    assert began == pytest.approx(2.0)
    assert (first.seconds, first.durations, first.pause.after) == (7.0, (2.0, 3.0, 4.0), ((), (), (0, 1)))
    assert [call.tool for call in first.pause.calls] == ["tool-x", "tool-y", "tool-z"]
    assert second.pause.now == pytest.approx(2.0 + 7.0 + 1.0)
    assert first.pause.known_s is None


def test_a_tool_that_also_waits_for_another_branch_is_no_pause_of_one_call(tmp_path: Path) -> None:
    path = trace(tmp_path, llm("a"), llm("b", "a"), tool("x", 1.0, "a"), tool("y", 2.0, "x", "b"), llm("c", "y"))
    ((_, only),) = ended(read([path]))
    assert (only.durations, only.seconds) == ((1.0,), 1.0)


def test_programs_run_some_at_a_time_and_all_end() -> None:
    programs = generate(3)
    pauses = ended(programs, slots=2)
    assert len(pauses) == sum(len(program.pauses) for program in programs)
    starts: dict[str, float] = {}
    for began, one in pauses:
        starts.setdefault(one.program.name, began)
    assert len(starts) == len(programs)
    assert max(starts.values()) > 1000


def test_the_generator_is_deterministic() -> None:
    assert generate(1) == generate(1)
    assert generate(1) != generate(2)


def test_only_half_of_a_file_that_constants_were_chosen_on_may_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trace(tmp_path, llm("a"), tool("x", 2.0, "a"), llm("b", "x"))
    line = path.read_text()
    path.write_text("".join(line.replace('"program": "p"', f'"program": "p{n}"') + "\n" for n in range(40)))
    assert all(program.measured for program in read([path]))
    monkeypatch.setattr("benchmarks.retention_traces.TUNED_ON", {sha256(path)})
    assert 10 < sum(program.measured for program in read([path])) < 30


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "1: not a program"),
        ('{"program": "p", "workflow": "w"}', "KeyError"),
        ('{"program": "p", "workflow": "w", "nodes": [{"id": "t", "kind": "tool", "after": ["gone"]}]}', "gone"),
    ],
)
def test_a_broken_trace_is_located(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, why: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(TraceError, match=why):
        read([path])
    assert main(["--trace", str(path)]) == 2
    assert "bad.jsonl:1" in capsys.readouterr().err
    assert main(["--trace", str(tmp_path / "none.jsonl")]) == 2


def test_reward_is_what_the_lease_saved_less_how_long_it_was_held() -> None:
    assert [reward(5.0, 2.0, ttl) for ttl in (0.0, 1.0, 2.0, 9.0)] == [0.0, -1.0, 3.0, 3.0]
    assert reward(5.0, 7.0, 9.0) == -2.0
    assert Cell(1.0, 0.0).share == 0.0


def test_shares_are_of_the_oracle_and_hindsight_bounds_constant_rules(tmp_path: Path) -> None:
    nodes: list[dict[str, Any]] = [llm("0")]
    for turn in range(1, 40):
        nodes += [tool(f"x{turn}", 0.5 if turn % 3 else 6.0, nodes[-1]["id"]), llm(str(turn), f"x{turn}")]
    programs = read([trace(tmp_path, *nodes)])
    kept = measure(programs, lambda: Fixed(0.5), 4.0, [0])
    assert kept.oracle == pytest.approx(26 * 3.5)
    assert kept.reward == pytest.approx(26 * 3.5 - 13 * 0.5)
    bounds = hindsight(programs)
    assert bounds[SAVED_S.index(4.0)] == pytest.approx(kept.share)
    assert measure(programs, lambda: Fixed(0.0), 4.0, [0]).share == 0
    assert 0.5 < measure(programs, StopAware, 4.0, [0]).share <= 1
