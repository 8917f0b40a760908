"""A model directory that cannot be served: every fault is a `ModelLoadError` that names the file and the tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.loading import load_engine
from engine.ops.linear import Linear
from engine.protocol import ModelLoadError
from tests.engine.models import make_tokenizer
from tests.engine.serve import request, serve

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def broken(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the model to break."""
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


def tensors(directory: Path) -> Tensors:
    return load_file(directory / "model.safetensors")


def write(directory: Path, values: Tensors, name: str = "model.safetensors") -> None:
    save_file(values, directory / name, metadata={"format": "pt"})


def refused(directory: Path, **settings: object) -> str:
    with pytest.raises(ModelLoadError) as raised:
        load_engine(EngineConfig(str(directory), **settings), ManualClock())  # type: ignore[arg-type]
    return str(raised.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(broken: Path, name: str) -> None:
    (broken / name).unlink()
    assert f"{broken / name}: file is missing" in refused(broken)


def test_a_missing_tensor_is_named(broken: Path) -> None:
    values = tensors(broken)
    del values["model.layers.1.mlp.up_proj.weight"]
    write(broken, values)
    assert "model.layers.1.mlp.up_proj.weight" in refused(broken)


def test_an_unknown_tensor_is_named(broken: Path) -> None:
    write(broken, {**tensors(broken), "model.layers.2.mlp.up_proj.weight": torch.zeros(1)})
    message = refused(broken)
    assert "model.layers.2.mlp.up_proj.weight" in message and "is unknown" in message


def test_a_tensor_that_comes_twice_is_named(broken: Path) -> None:
    write(broken, {"model.norm.weight": tensors(broken)["model.norm.weight"]}, "model-extra.safetensors")
    message = refused(broken)
    assert "'model.norm.weight' comes twice" in message


def test_a_wrong_shape_is_named_with_both(broken: Path) -> None:
    write(broken, {**tensors(broken), "model.norm.weight": torch.zeros(7)})
    message = refused(broken)
    assert "model.norm.weight" in message and "[7]" in message and "[48]" in message


@pytest.mark.parametrize("cut", [4, 2_000])
def test_a_corrupted_file_is_named(broken: Path, cut: int) -> None:
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert f"{file}: cannot be read as safetensors" in refused(broken)


def test_a_corrupted_tokenizer_is_named(broken: Path) -> None:
    (broken / "tokenizer.json").write_text('{"model": 3}')
    assert "tokenizer.json: cannot be read" in refused(broken)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(broken: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([f"extra{index}" for index in range(10)])
    tokenizer.save(str(broken / "tokenizer.json"))
    assert "tokenizer.json" in refused(broken)


def test_a_template_that_does_not_parse_is_refused(broken: Path) -> None:
    (broken / "chat_template.jinja").write_text("{% for %}")
    assert "chat_template.jinja" in refused(broken)


def test_a_device_that_is_not_there_is_named(broken: Path) -> None:
    assert "'cuda:99'" in refused(broken, device="cuda:99")
    assert "'toaster'" in refused(broken, device="toaster")


def test_a_pool_without_room_for_a_block_is_refused(broken: Path) -> None:
    assert "kv_bytes" in refused(broken, kv_bytes=100)


def test_an_index_joins_files_and_misses_none(broken: Path, model_dir: Path) -> None:
    values = tensors(broken)
    names = sorted(values)
    (broken / "model.safetensors").unlink()
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        write(broken, {name: values[name] for name in part}, file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = load_engine(EngineConfig(str(model_dir)), ManualClock())
    split = load_engine(EngineConfig(str(broken)), ManualClock())
    asked = request("r", [5, 6, 7], 10)
    assert serve(split, asked)["r"].ids == serve(whole, asked)["r"].ids
    (broken / "model-2.safetensors").unlink()
    assert "model-2.safetensors: file is missing" in refused(broken)


def test_half_types_load_and_run(broken: Path) -> None:
    for dtype in ("bfloat16", "float16"):
        engine = load_engine(EngineConfig(str(broken), dtype=dtype), ManualClock())
        result = serve(engine, request("r", [5, 6, 7], 10))["r"]
        assert len(result.ids) == 10 and result.error is None


# models of the hub


def test_a_hub_id_is_downloaded_without_pickles(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(model: str, *, allow_patterns: list[str]) -> str:
        asked.append((model, allow_patterns))
        return str(model_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    engine = load_engine(EngineConfig("org/some-model.v1", threads=1), ManualClock())
    assert serve(engine, request("r", [5], 3))["r"].error is None
    ((model, patterns),) = asked
    assert model == "org/some-model.v1" and not any("bin" in pattern or pattern == "*" for pattern in patterns)


def test_without_a_network_a_hub_id_is_a_load_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(model: str, *, allow_patterns: list[str]) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelLoadError, match=r"org/model: no such directory, .* OSError: no route to host"):
        load_engine(EngineConfig("org/model"), ManualClock())


@pytest.mark.parametrize("name", ["nowhere", "/tmp/no/such/model", "a/b/c", "../up"])
def test_what_is_no_hub_id_is_never_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelLoadError, match="not a directory"):
        load_engine(EngineConfig(name), ManualClock())


def test_no_memory_for_the_weights_is_a_load_error(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        raise MemoryError("cannot allocate")

    monkeypatch.setattr(Linear, "pack", full)
    assert "no memory for the weights" in refused(model_dir)


@pytest.mark.parametrize("sizes", [{"kv_blocks": 1 << 40}, {"kv_blocks": 4, "host_blocks": 1 << 40}])
def test_no_memory_for_the_kv_is_a_load_error(model_dir: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(ModelLoadError, match="no memory for"):
        load_engine(EngineConfig(str(model_dir), threads=1, **sizes))  # type: ignore[arg-type]
