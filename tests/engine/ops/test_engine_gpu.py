"""`benchmarks.engine_gpu` without a GPU: it refuses clearly, and its dry run goes every way that a real run goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is there on Linux only")

from benchmarks.engine_gpu import GOALS, NO_DEVICE

ROOT = Path(__file__).resolve().parents[3]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.engine_gpu", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_refuses_without_a_device() -> None:
    done = bench()
    assert done.returncode == NO_DEVICE and "sees no CUDA device" in done.stderr


def test_dry_run_measures_every_figure(tmp_path: Path) -> None:
    file = tmp_path / "engine_gpu.json"
    done = bench("--dry-run", "--json", str(file))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    document = json.loads(file.read_text())
    assert document["name"] == "engine_gpu_dry", "a dry run's numbers must not pass for a device's"
    assert set(document["figures"]) == set(GOALS)
    assert all(0 < value < float("inf") for value in document["figures"].values())
    # Tiny random weights in fp32: the peer's greedy tokens are ours.
    assert document["detail"]["throughput"]["tokens_before_outputs_part"] == 1.0
