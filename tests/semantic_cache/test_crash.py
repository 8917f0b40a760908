"""A process killed at any moment loses nothing that was committed and serves nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from semantic_cache import CacheSettings, Hit, Miss, SemanticCache
from tests.semantic_cache.doubles import ask, policies

ROOT = Path(__file__).resolve().parents[2]


def run_until(directory: Path, lines: int) -> list[str]:
    """Run the process of `crashing.py`, kill it after so many promises, and return them."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}
    command = [sys.executable, str(Path(__file__).with_name("crashing.py")), str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True, cwd=directory) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(lines)]
        process.kill()
        rest, _ = process.communicate()
    complete = rest.splitlines() if rest.endswith("\n") else rest.splitlines()[:-1]
    return [line for line in (*told, *complete) if line]


@pytest.mark.parametrize("lines", [40, 333])
async def test_what_was_promised_before_the_kill_is_kept(tmp_path: Path, lines: int) -> None:
    promises: list[str] = []
    for run in range(2):
        promises += run_until(tmp_path, lines + run)
    kept: dict[str, bool] = {}
    unsure: set[str] = set()
    for words in (line.split() for line in promises):
        if words[0] == "kept":
            kept[words[1]] = words[2] == "True"
        elif words[0] == "bumping":
            unsure.add(words[1])  # in flight at the kill it may or may not have been written
        else:
            unsure.discard(words[1])
            worker = words[1].removeprefix("tag")
            kept = {q: tagged for q, tagged in kept.items() if not (tagged and q.startswith(f"{worker}/"))}
    assert len(kept) > lines / 3
    cache = await SemanticCache.open(
        tmp_path / "cache.db", policies=policies(), settings=CacheSettings(insert_burst=10**9)
    )
    cache._state.check()
    lost = []
    for question, tagged in kept.items():
        outcome = await cache.lookup(ask(question))
        if isinstance(outcome, Hit):
            assert outcome.value == {"question": question, "pad": "x" * 500}
        elif not (tagged and f"tag{question.partition('/')[0]}" in unsure):
            lost.append(question)
        if isinstance(outcome, Miss):
            cache.abandon(outcome.ticket)
    assert lost == []
    await cache.close()
