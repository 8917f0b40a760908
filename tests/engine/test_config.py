"""What a model directory may say of itself: both generations of keys, and refusals by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine.config import EngineConfig, RopeSpec, read_spec
from engine.models.rope import inverse_frequencies
from engine.protocol import ModelLoadError

_OLD: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "torch_dtype": "bfloat16",
    "eos_token_id": [7, 8],
}


def write(directory: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    config = {key: value for key, value in {**_OLD, **changes}.items() if key not in drop}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_both_generations_of_keys_read_the_same(tmp_path: Path) -> None:
    old = read_spec(write(tmp_path))
    rope = {**_OLD["rope_scaling"], "rope_type": "llama3", "rope_theta": 500000.0}
    new = read_spec(
        write(
            tmp_path,
            drop=("rope_theta", "rope_scaling", "torch_dtype"),
            rope_parameters={key: value for key, value in rope.items() if key != "type"},
            dtype="bfloat16",
        )
    )
    assert old == new
    assert old.rope.kind == "llama3" and old.rope.theta == 500000.0 and old.dtype == "bfloat16"
    assert old.eos_ids == (7, 8)


def test_generation_config_adds_end_ids(tmp_path: Path) -> None:
    write(tmp_path, eos_token_id=7)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert read_spec(tmp_path).eos_ids == (7, 9)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 4096}, "sliding_window 4096"),
        ({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 64}, "sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
        ({"rope_scaling": {"type": "linear"}}, "'factor' is missing"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": 66}, "hidden_size 66"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"eos_token_id": "end"}, "eos_token_id"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json") as raised:
        read_spec(write(tmp_path, **changes))
    assert named in str(raised.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="'vocab_size' is missing"):
        read_spec(write(tmp_path, drop=("vocab_size",)))


def test_windows_that_are_not_in_use_are_no_reason(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, architectures=["Qwen2ForCausalLM"], use_sliding_window=False, sliding_window=64))
    assert spec.family == "qwen2" and spec.qkv_bias


def test_no_directory_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="not a directory"):
        read_spec(tmp_path / "nowhere")
    with pytest.raises(ModelLoadError, match=r"config\.json: file is missing"):
        read_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"config\.json: cannot be read"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "int8"}, {"max_running": 0}, {"token_budget": 10}, {"lease_share": 1.5}, {"kv_blocks": -1}],
    ids=str,
)
def test_impossible_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)) if "kv_blocks" not in changes else "sizes"):
        EngineConfig("model", **changes)


@pytest.mark.parametrize(
    "rope",
    [
        RopeSpec(theta=10000.0),
        RopeSpec(theta=500.0, kind="linear", factor=4.0),
        RopeSpec(theta=500000.0, kind="llama3", factor=32.0, original_context=128),
        RopeSpec(theta=10000.0, kind="yarn", factor=4.0, original_context=128),
        RopeSpec(theta=1e6, kind="yarn", factor=8.0, original_context=64, beta_fast=16.0, beta_slow=2.0),
        RopeSpec(theta=1e6, kind="yarn", factor=8.0, original_context=64, attention_factor=1.5),
    ],
    ids=lambda rope: str(rope.kind),
)
def test_frequencies_are_those_of_transformers(rope: RopeSpec) -> None:
    parameters = {"rope_type": rope.kind, "rope_theta": rope.theta, "factor": rope.factor}
    if rope.kind == "llama3":
        parameters |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        parameters |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        if rope.attention_factor is not None:
            parameters["attention_factor"] = rope.attention_factor
    if rope.original_context:
        parameters["original_max_position_embeddings"] = rope.original_context
    config = transformers.LlamaConfig(
        hidden_size=256, num_attention_heads=4, max_position_embeddings=512, rope_parameters=parameters
    )
    frequencies, attention = inverse_frequencies(rope, 64)
    if rope.kind == "default":
        expected, factor = 1.0 / rope.theta ** (torch.arange(0, 64, 2) / 64), 1.0
    else:
        expected, factor = ROPE_INIT_FUNCTIONS[rope.kind](config, device="cpu")
    torch.testing.assert_close(frequencies, expected, rtol=1e-5, atol=0.0)
    assert attention == pytest.approx(factor)
