"""What an engine is told (`EngineConfig`) and what a model directory says of itself (`ModelSpec`).

Reads `config.json` and `generation_config.json`, never weights; imports no torch, so that a client can use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.protocol import ModelLoadError

DTYPES = ("float32", "bfloat16", "float16")
BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine runs. Sizes are in tokens, blocks of `BLOCK_TOKENS` tokens, bytes and seconds.

    `kv_blocks` 0 derives the pool from `kv_bytes`, `host_blocks` 0 the host tier from `host_bytes` (0: no such tier);
    `threads` 0 chooses by model size; `dtype` "auto" is float32 on CPU and the model's own elsewhere; `context_tokens`
    0 is the model's own context. `model` is a directory, or the id of one on the Hugging Face hub. `adapters`: (name,
    PEFT directory) pairs, of which `adapters_kept` stay in memory. `draft_tokens`: the most tokens that prompt lookup
    guesses for a sequence and step (0: none). `trace_steps`: the share of steps that are told of, for traces. `debug`
    compares every block that is copied between the tiers with what it was. `compile` has torch's compiler make one
    kernel of each norm and activation on a CPU: half a minute at the start, and a C++ compiler must be there.
    """

    model: str
    name: str = ""
    device: str = "cpu"
    dtype: str = "auto"
    threads: int = 0
    context_tokens: int = 0
    token_budget: int = 1024
    max_running: int = 64
    queue_limit: int = 4096
    kv_blocks: int = 0
    kv_bytes: int = 256 * 1024 * 1024
    host_blocks: int = 0
    host_bytes: int = 0
    lease_share: float = 0.9
    max_lease_ttl_s: float = 600.0
    debug: bool = False
    adapters: tuple[tuple[str, str], ...] = ()
    adapters_kept: int = 8
    draft_tokens: int = 0
    trace_steps: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: expected auto or one of {', '.join(DTYPES)}")
        if self.max_running < 1:
            raise ValueError("max_running must be at least 1")
        if self.token_budget < self.max_running + BLOCK_TOKENS:
            raise ValueError(f"token_budget must be at least max_running + {BLOCK_TOKENS}: decodes come first")
        if not 0.0 <= self.lease_share <= 1.0:
            raise ValueError("lease_share is a share of the pool: 0 to 1")
        if not 0.0 <= self.trace_steps <= 1.0:
            raise ValueError("trace_steps is a share of the steps: 0 to 1")
        sizes = (self.queue_limit, self.kv_blocks, self.kv_bytes, self.threads, self.context_tokens)
        if min(*sizes, self.host_blocks, self.host_bytes, self.draft_tokens, self.adapters_kept) < 0:
            raise ValueError("sizes are not negative")


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding: base and scaling. `kind` is default, linear, dynamic, llama3 or yarn; see `models.rope`."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The shape of a decoder: everything that `models.decoder` and `weights` need to know of a family."""

    family: str
    vocab_size: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_tokens: int
    norm_eps: float
    rope: RopeSpec
    tied_head: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    dtype: str
    eos_ids: tuple[int, ...]

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.heads // self.kv_heads

    @property
    def is_small(self) -> bool:
        """Whether a step is mostly overhead and the weights fit a CPU's cache: under 50 million parameters."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        return self.layers * layer + self.vocab_size * self.hidden < 50_000_000

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * (4 if dtype == "float32" else 2)


_FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


class _Keys:
    """A JSON object of a model directory whose missing or mistyped keys are errors that name the file."""

    def __init__(self, file: Path, values: Mapping[str, Any]) -> None:
        self.file, self.values = file, values

    def fail(self, what: str) -> ModelLoadError:
        return ModelLoadError(f"{self.file}: {what}")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.fail(f"key {key!r} is missing")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(f"key {key!r} must be a number, not {value!r}")
        return float(value)

    def size(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if value < 1 or value != int(value):
            raise self.fail(f"key {key!r} must be a positive whole number, not {value!r}")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        return default if value is None else bool(value)

    def table(self, key: str) -> dict[str, Any]:
        value = self.values.get(key) or {}
        if not isinstance(value, dict):
            raise self.fail(f"key {key!r} must be an object")
        return value


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; a `ModelLoadError` that names the file if there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(f"{file}: file is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelLoadError(f"{file}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ModelLoadError(f"{file}: must hold a JSON object")
    return value


def read_spec(directory: str | Path) -> ModelSpec:
    """The spec of the model in `directory`. Raises `ModelLoadError` for what is missing or not supported, by name."""
    root = Path(directory)
    if not root.is_dir():
        raise ModelLoadError(f"{root}: not a directory")
    keys = _Keys(root / "config.json", read_json(root / "config.json"))
    family = _family(keys)
    heads = keys.size("num_attention_heads")
    kv_heads = keys.size("num_key_value_heads", heads)
    hidden = keys.size("hidden_size")
    if heads % kv_heads:
        raise keys.fail(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if keys.values.get("head_dim") is None and hidden % heads:
        raise keys.fail(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    head_dim = keys.size("head_dim", hidden // heads)
    if head_dim % 2:
        raise keys.fail(f"head_dim {head_dim} is odd: rotary embeddings need pairs")
    context = keys.size("max_position_embeddings")
    bias = keys.flag("attention_bias", False)
    dtype = str(keys.values.get("dtype") or keys.values.get("torch_dtype") or "float32").removeprefix("torch.")
    return ModelSpec(
        family=family,
        vocab_size=keys.size("vocab_size"),
        hidden=hidden,
        intermediate=keys.size("intermediate_size"),
        layers=keys.size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context_tokens=context,
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        rope=_rope(keys, context),
        tied_head=keys.flag("tie_word_embeddings", False),
        qkv_bias=True if family == "qwen2" else bias and family != "mistral",
        o_bias=bias and family in ("llama", "qwen3"),
        mlp_bias=keys.flag("mlp_bias", False) and family == "llama",
        qk_norm=family == "qwen3",
        dtype=dtype if dtype in DTYPES else "float32",
        eos_ids=_eos_ids(root, keys),
    )


def _family(keys: _Keys) -> str:
    names = keys.values.get("architectures")
    name = names[0] if isinstance(names, list) and names else ""
    if name not in _FAMILIES:
        raise keys.fail(f"architecture {name!r} is not supported: one of {', '.join(_FAMILIES)}")
    values = keys.values
    if values.get("quantization_config"):
        raise keys.fail("quantization_config: quantised weights are not supported")
    if keys.number("partial_rotary_factor", 1.0) != 1.0:
        raise keys.fail("partial_rotary_factor: partly rotated heads are not supported")
    if values.get("hidden_act", "silu") not in ("silu", "swish"):
        raise keys.fail(f"hidden_act {values['hidden_act']!r} is not supported: silu only")
    window_used = values.get("use_sliding_window", _FAMILIES[name] == "mistral")
    if window_used and values.get("sliding_window"):
        raise keys.fail(f"sliding_window {values['sliding_window']}: attention windows are not supported")
    if "sliding_attention" in (values.get("layer_types") or ()):
        raise keys.fail("layer_types: sliding_attention layers are not supported")
    return _FAMILIES[name]


def _rope(keys: _Keys, context: int) -> RopeSpec:
    """Both generations of keys: `rope_theta` + `rope_scaling`, and `rope_parameters` that holds everything."""
    rope = _Keys(keys.file, {**keys.table("rope_scaling"), **keys.table("rope_parameters")})
    kind = str(rope.values.get("rope_type") or rope.values.get("type") or "default")
    if kind not in _ROPE_KINDS:
        raise keys.fail(f"rope type {kind!r} is not supported: one of {', '.join(_ROPE_KINDS)}")
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise keys.fail("partial_rotary_factor: partly rotated heads are not supported")
    for key in ("mscale", "mscale_all_dim"):
        if rope.values.get(key) is not None:
            raise keys.fail(f"rope key {key!r} is not supported")
    attention = rope.values.get("attention_factor")
    return RopeSpec(
        theta=rope.number("rope_theta", keys.number("rope_theta", 10000.0)),
        kind=kind,
        factor=rope.number("factor", 1.0 if kind == "default" else None),
        low_freq_factor=rope.number("low_freq_factor", None if kind == "llama3" else 1.0),
        high_freq_factor=rope.number("high_freq_factor", None if kind == "llama3" else 4.0),
        original_context=rope.size("original_max_position_embeddings", context),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=None if attention is None else rope.number("attention_factor"),
        truncate=rope.flag("truncate", True),
    )


def _eos_ids(root: Path, keys: _Keys) -> tuple[int, ...]:
    """Ids that end an output, of both files: `generation_config.json` often lists more than `config.json`."""
    file = root / "generation_config.json"
    sources = [keys.values.get("eos_token_id")]
    if file.is_file():
        sources.append(read_json(file).get("eos_token_id"))
    ids: list[int] = []
    for value in sources:
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            if isinstance(item, bool) or not isinstance(item, int):
                raise keys.fail(f"eos_token_id must be a number or a list of numbers, not {value!r}")
            if item not in ids:
                ids.append(item)
    return tuple(ids)
