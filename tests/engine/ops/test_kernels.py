"""Kernels without a GPU: their arithmetic in Triton's interpreter, and their compilation for sm_90."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is there on Linux only")

import numpy as np
import torch

from benchmarks.kernels_compile import SHAPES, compile_launch, launches
from engine.device_batch import BlockTables, Group, Uploads, bucket, sibling_groups

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def test_kernels_agree_with_their_references(tmp_path: Path) -> None:
    """In a process of its own: the interpreter is chosen when Triton is imported, for all kernels of a process."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", HERE / "interpreted.py"]
    command.append(f"--basetemp={tmp_path / 'interpreted'}")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= 30, done.stdout


def test_kernels_compile_for_sm_90_without_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As launched in bf16, arithmetic that only a GPU runs included; what other shapes change is compiled for one."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    shapes = {shape.name: shape for shape in SHAPES}
    chosen = launches(shapes["llama-8b"], torch.bfloat16)
    chosen += [one for one in launches(shapes["qwen3-0.6b"], torch.bfloat16) if one.name == "rope_store"]
    chosen += [one for one in launches(shapes["smollm2-135m"], torch.bfloat16) if one.name == "attend"]
    kinds = set()
    for launch in chosen:
        resources = compile_launch(launch)
        kinds.add(launch.name)
        assert resources.spill_bytes == 0, launch
        assert resources.cubin_bytes > 0 and resources.programs >= 1, launch
    assert kinds == {"plan", "attend", "merge", "rope_store", "add_norm", "silu_mul", "move", "copy"}


def test_siblings_are_grouped_where_it_saves_most() -> None:
    blocks = 200
    tables = np.arange(16 * blocks, dtype=np.int32).reshape(16, blocks)
    tables[:12, :40] = 7000 + np.arange(40)  # a system prompt, 640 tokens
    tables[4:8, 40:140] = 8000 + np.arange(100)  # four siblings with much more in common
    tokens = [blocks * 16 - 1] * 16
    whole = sibling_groups(tables[:4], tokens[:4])
    assert whole == [Group((0, 1, 2, 3), 40)]
    # 40 blocks x 11 saved are more than 140 x 3.
    assert sibling_groups(tables, tokens) == [Group(tuple(range(12)), 40)]
    tables[8:12, 40:140] = 9000 + np.arange(100)
    assert sibling_groups(tables, tokens) == [Group((4, 5, 6, 7), 140), Group((8, 9, 10, 11), 140)]


def test_no_groups_of_few_or_of_little() -> None:
    tables = np.tile(np.arange(64, dtype=np.int32), (4, 1))
    assert sibling_groups(tables, [1000] * 4) == [Group((0, 1, 2, 3), 62)]
    assert sibling_groups(tables[:3], [1000] * 3) == []
    assert sibling_groups(tables, [511, 1000, 1000, 1000]) == [], "the block being written is not shared"
    assert sibling_groups(tables, [500] * 4) == []
    tables[3, 0] = 99
    assert sibling_groups(tables, [1000] * 4) == []


def test_later_changes_of_a_table_win() -> None:
    cpu = torch.device("cpu")
    tables, uploads = BlockTables(2, 4, 9, cpu), Uploads(cpu)
    tables.write(0, 0, [1, 2, 3])
    tables.write(0, 2, [4])
    tables.write(1, 1, [5, 6])
    tables.write(0, 2, [7])
    tables.flush(uploads)
    assert tables.device.tolist() == [[1, 2, 7, 9], [9, 5, 6, 9], [9, 9, 9, 9]]
    tables.flush(uploads)
    assert tables.host.tolist() == tables.device.tolist()


def test_buckets_hold_their_counts() -> None:
    sizes = [bucket(count) for count in range(1, 600)]
    assert all(size >= count for count, size in enumerate(sizes, 1)) and sizes == sorted(sizes)
    assert len(set(sizes)) < 45 and sizes[:9] == [1, 2, 4, 4, 8, 8, 8, 8, 16]
