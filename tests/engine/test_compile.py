"""`EngineConfig.compile`: the same tokens from compiled norms and activations, and a clear word where it cannot be."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.loading import load_engine, make_runner
from engine.protocol import ModelLoadError
from tests.engine.serve import request, serve


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_engine_says_what_a_plain_one_says(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    rng = random.Random(5)
    prompts = [[rng.randrange(1, 200) for _ in range(length)] for length in (1, 2, 17, 40)]
    outputs = []
    for compiled in (False, True):
        engine = load_engine(EngineConfig(str(model_dir), threads=1, compile=compiled), ManualClock())
        results = serve(engine, *(request(f"r{n}", prompt, 12) for n, prompt in enumerate(prompts)))
        outputs.append({name: result.ids for name, result in results.items()})
    assert outputs[0] == outputs[1] and all(len(ids) == 12 for ids in outputs[0].values())


def test_a_compiler_that_fails_is_told_when_the_model_loads(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object, **options: object) -> object:
        def call(*arguments: object) -> None:
            raise RuntimeError("no C++ compiler found\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ModelLoadError, match=r"compile: .* no C\+\+ compiler found\. Leave it out"):
        load_engine(EngineConfig(str(model_dir), compile=True), ManualClock())


def test_other_devices_have_compiled_kernels_already(model_dir: Path) -> None:
    engine = load_engine(EngineConfig(str(model_dir)), ManualClock())
    weights = engine._runner._decoder.weights  # type: ignore[attr-defined]
    elsewhere = type(weights)(weights.embedding.to("meta"), weights.layers, weights.norm, weights.head)
    with pytest.raises(ModelLoadError, match="compile is for CPUs"):
        make_runner(
            engine._runner._decoder.spec,  # type: ignore[attr-defined]
            elsewhere,
            blocks=1,
            max_running=1,
            context_tokens=16,
            compile=True,
        )
