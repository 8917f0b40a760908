"""LoRA adapters: PEFT directories, one batch for all of them, memory for a few, and errors that name the fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.clock import ManualClock
from engine.config import EngineConfig, read_spec
from engine.loading import load_engine
from engine.local import LocalEngine
from engine.lora import AdapterPool
from engine.protocol import GenerateRequest, Lease, UnknownAdapter
from tests.engine.models import make_adapter, merged, reference, reference_greedy
from tests.engine.serve import request, serve

PROMPT = list(range(20, 60))


@pytest.fixture(scope="module")
def adapters(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapters a, b and c of the random Llama."""
    folder = tmp_path_factory.mktemp("adapters")
    make_adapter(folder / "a", model_dir, seed=1)
    make_adapter(folder / "b", model_dir, seed=2, rank=7, use_rslora=True)
    make_adapter(folder / "c", model_dir, seed=3, rank=2)
    return folder


@pytest.fixture(scope="module")
def expected(model_dir: Path, adapters: Path) -> dict[str, list[int]]:
    """What transformers says with each adapter's products merged into the weights."""
    networks = {name: merged(model_dir, adapters / name) for name in "abc"}
    networks[""] = reference(model_dir)
    return {name: reference_greedy(network, PROMPT, 20) for name, network in networks.items()}


def engine_with(model_dir: Path, adapters: Path, names: str = "abc", **settings: Any) -> LocalEngine:
    pairs = tuple((name, str(adapters / name)) for name in names)
    return load_engine(EngineConfig(str(model_dir), threads=1, adapters=pairs, **settings), ManualClock())


def ask(adapter: str, name: str = "") -> GenerateRequest:
    return replace(request(name or f"r{adapter}", PROMPT, 20), adapter=adapter)


def test_one_batch_of_all_adapters_and_none(model_dir: Path, adapters: Path, expected: dict[str, list[int]]) -> None:
    engine = engine_with(model_dir, adapters)
    results = serve(engine, *[ask(name) for name in ("", "a", "b", "c")])
    assert {name: results[f"r{name}"].ids for name in ("", "a", "b", "c")} == expected
    assert len({tuple(out) for out in expected.values()}) == 4, "adapters that change nothing prove nothing"


def test_prefixes_of_adapters_are_kept_apart(model_dir: Path, adapters: Path, expected: dict[str, list[int]]) -> None:
    engine = engine_with(model_dir, adapters)
    for name in ("a", "", "b", "a"):
        result = serve(engine, ask(name))[f"r{name}"]
        assert result.ids == expected[name] and result.usage is not None
        cached = result.usage.cached_tokens
    assert cached >= 32, "its own prefix is found again"
    grant = engine.retain(Lease("l", "p", (), 60.0, request="ra"))
    assert grant.bytes > 0, "an ended request's chain can be leased, whatever adapter it had"


def test_adapters_are_read_on_use_and_the_least_used_one_goes(model_dir: Path, adapters: Path) -> None:
    spec = read_spec(model_dir)
    folders = {name: adapters / name for name in "abc"}
    pool = AdapterPool(folders, spec, torch.float32, torch.device("cpu"), kept=2)
    first = pool.get("a")
    assert pool.loaded == ("a",)
    pool.get("b")
    assert pool.get("a") is first
    pool.get("c")
    assert pool.loaded == ("a", "c")
    assert pool.get("b") is not first and pool.loaded == ("c", "b")


def test_more_adapters_run_than_are_kept(model_dir: Path, adapters: Path, expected: dict[str, list[int]]) -> None:
    engine = engine_with(model_dir, adapters, adapters_kept=1)
    results = serve(engine, *[ask(name) for name in "abc"])
    assert {name: results[f"r{name}"].ids for name in "abc"} == {name: expected[name] for name in "abc"}


@pytest.mark.parametrize("names", ["", "a"])
def test_an_unknown_adapter_is_refused_by_name(model_dir: Path, adapters: Path, names: str) -> None:
    engine = engine_with(model_dir, adapters, names)
    with pytest.raises(UnknownAdapter, match="'z'"):
        engine.submit(ask("z"))
    assert serve(engine, ask(""))["r"].error is None


def broken(folder: Path, source: Path, config: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> Path:
    folder.mkdir()
    known = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**known, **config}))
    tensors = load_file(source / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    return folder


FIRST = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("config", "change", "words"),
    [
        ({"peft_type": "IA3"}, lambda t: None, "peft_type 'IA3'"),
        ({"use_dora": True}, lambda t: None, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, lambda t: None, "modules_to_save"),
        ({"lora_alpha": "big"}, lambda t: None, "lora_alpha"),
        ({}, lambda t: t.pop(f"{FIRST}.lora_B.weight"), "self_attn.q_proj"),
        ({}, lambda t: t.update({f"{FIRST}.lora_A.weight": torch.zeros(4, 3)}), r"\[4, 3\]"),
        ({}, lambda t: t.update({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 3)}), "lm_head"),
        ({}, lambda t: t.update({FIRST.replace(".0.", ".9.") + ".lora_A.weight": torch.zeros(4, 3)}), "layers.9"),
    ],
)
def test_what_cannot_be_read_is_named_and_harms_nobody(
    model_dir: Path, adapters: Path, tmp_path: Path, config: dict[str, Any], change: Any, words: str
) -> None:
    broken(tmp_path / "z", adapters / "a", config, change)
    engine = load_engine(EngineConfig(str(model_dir), threads=1, adapters=(("z", str(tmp_path / "z")),)), ManualClock())
    with pytest.raises(UnknownAdapter, match=words):
        engine.submit(ask("z"))
    assert serve(engine, ask(""))["r"].error is None


def test_a_missing_or_torn_file_is_named(model_dir: Path, adapters: Path, tmp_path: Path) -> None:
    make_adapter(tmp_path / "torn", model_dir)
    file = tmp_path / "torn" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    pairs = (("gone", str(tmp_path / "gone")), ("torn", str(tmp_path / "torn")))
    engine = load_engine(EngineConfig(str(model_dir), threads=1, adapters=pairs), ManualClock())
    with pytest.raises(UnknownAdapter, match=r"adapter_config\.json"):
        engine.submit(ask("gone"))
    with pytest.raises(UnknownAdapter, match=r"adapter_model\.safetensors"):
        engine.submit(ask("torn"))
