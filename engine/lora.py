"""LoRA adapters: reads PEFT directories, keeps the ones used last, and adds their products to those of the model.

Sequences with different adapters, and with none, share every forward pass (S-LoRA, Sheng et al. 2023, arXiv
2311.03285, section 5). Adapters are read where requests are prepared, never between two steps. Merges nothing.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from engine.config import ModelSpec, read_json
from engine.models.decoder import Weights
from engine.ops.linear import Linear
from engine.protocol import ModelLoadError, UnknownAdapter

_PACKED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_REFUSED: dict[str, tuple[Any, ...]] = {
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "bias": (None, "none"),
    "modules_to_save": (None, []),
    "alora_invocation_tokens": (None,),
    "layer_replication": (None,),
}
"""Keys of adapter_config.json with the values that change nothing."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter's factors by (layer, product): x gets x a b more, with a [in, ranks] and b [ranks, out].

    A product of several of the checkpoint's, as q, k and v, has their ranks side by side, and b is block diagonal.
    """

    name: str
    factors: dict[tuple[int, str], tuple[Tensor, Tensor]]


class ActiveAdapters:
    """Which rows of the current pass belong to which adapter; set by the runner, read by every product."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts: list[tuple[Adapter, Tensor]] = []

    def set(self, rows: Seq[Adapter | None], device: torch.device) -> None:
        """`rows`: the adapter of each row of the batch."""
        places: dict[int, tuple[Adapter, list[int]]] = {}
        for row, adapter in enumerate(rows):
            if adapter is not None:
                places.setdefault(id(adapter), (adapter, []))[1].append(row)
        self.parts = [(adapter, torch.tensor(found, device=device)) for adapter, found in places.values()]


class AdaptedLinear(Linear):
    """A product of the model, plus what the rows' adapters add to it."""

    __slots__ = ("_active", "_key")

    def __init__(self, base: Linear, key: tuple[int, str], active: ActiveAdapters) -> None:
        super().__init__(base.weight, base.bias)
        self._packed = base._packed
        self._key, self._active = key, active

    def __call__(self, x: Tensor) -> Tensor:
        y = super().__call__(x)
        for adapter, rows in self._active.parts:
            factors = adapter.factors.get(self._key)
            if factors is not None:
                y.index_add_(0, rows, x[rows] @ factors[0] @ factors[1])
        return y


def adapted(weights: Weights, active: ActiveAdapters) -> Weights:
    """The same parameters, whose products heed `active`."""
    layers = []
    for index, layer in enumerate(weights.layers):
        changed: dict[str, Any] = {name: AdaptedLinear(getattr(layer, name), (index, name), active) for name in _PACKED}
        layers.append(replace(layer, **changed))
    return replace(weights, layers=tuple(layers))


class AdapterPool:
    """Adapters by name; the `kept` used last stay in memory, and any other as long as a sequence runs with it."""

    def __init__(
        self, directories: Mapping[str, Path], spec: ModelSpec, dtype: torch.dtype, device: torch.device, kept: int
    ) -> None:
        self._directories, self._spec, self._dtype, self._device = dict(directories), spec, dtype, device
        self._kept = max(kept, 1)
        self._loaded: OrderedDict[str, Adapter] = OrderedDict()
        self._lock = Lock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of those in memory, least recently used first."""
        return tuple(self._loaded)

    def get(self, name: str) -> Adapter:
        """The adapter, read now if need be. Raises `UnknownAdapter`, also for one that cannot be read."""
        directory = self._directories.get(name)
        if directory is None:
            known = ", ".join(sorted(self._directories)) or "there are none"
            raise UnknownAdapter(f"adapter {name!r} is unknown: {known}")
        with self._lock:
            adapter = self._loaded.get(name)
            if adapter is None:
                try:
                    adapter = read_adapter(name, directory, self._spec, self._dtype, self._device)
                except ModelLoadError as error:
                    raise UnknownAdapter(f"adapter {name!r} cannot be used: {error}") from None
                self._loaded[name] = adapter
                while len(self._loaded) > self._kept:
                    self._loaded.popitem(last=False)
            else:
                self._loaded.move_to_end(name)
            return adapter


def read_adapter(name: str, directory: Path, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Adapter:
    """Read a PEFT directory. Raises `ModelLoadError` that names file and key or tensor."""
    from engine.weights import tensors_of

    file = directory / "adapter_config.json"
    config = read_json(file)
    if config.get("peft_type") != "LORA":
        raise ModelLoadError(f"{file}: peft_type {config.get('peft_type')!r} is not supported: LORA only")
    for key, values in _REFUSED.items():
        if config.get(key) not in values:
            raise ModelLoadError(f"{file}: {key} {config[key]!r} is not supported")
    file = directory / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelLoadError(f"{file}: file is missing")
    sides: dict[tuple[int, str], dict[str, Tensor]] = {}
    for tensor_name, tensor in tensors_of(file):
        place, side = _place(tensor_name, file, spec)
        sides.setdefault(place, {})[side] = tensor.to(device=device, dtype=torch.float32)
    factors = {}
    for layer in range(spec.layers):
        for product, modules in _PACKED.items():
            found = {module: sides[layer, module] for module in modules if (layer, module) in sides}
            if found:
                factors[layer, product] = _packed(product, found, spec, config, file, dtype)
    return Adapter(name, factors)


def _place(tensor: str, file: Path, spec: ModelSpec) -> tuple[tuple[int, str], str]:
    """((layer, module), "A" or "B") of base_model.model.model.layers.<layer>.<module>.lora_<A or B>.weight."""
    parts = tensor.removeprefix("base_model.model.").removeprefix("model.").split(".")
    known = {module for modules in _PACKED.values() for module in modules}
    if len(parts) == 6 and parts[0] == "layers" and parts[1].isdigit() and int(parts[1]) < spec.layers:
        module, side = ".".join(parts[2:4]), parts[4]
        if module in known and side in ("lora_A", "lora_B") and parts[5] == "weight":
            return (int(parts[1]), module), side[-1]
    raise ModelLoadError(f"{file}: tensor {tensor!r} is of no product that adapters may change here")


def _packed(
    product: str, found: dict[str, dict[str, Tensor]], spec: ModelSpec, config: dict[str, Any], file: Path, dtype: Any
) -> tuple[Tensor, Tensor]:
    """The factors of a packed product from those of its modules, the scale in b."""
    heads, kv_heads = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    inputs = {"out": heads, "down": spec.intermediate}.get(product, spec.hidden)
    outputs = {
        "qkv": (heads, kv_heads, kv_heads),
        "gate_up": (spec.intermediate, spec.intermediate),
    }.get(product, (spec.hidden,))
    ranks = sum(sides["A"].shape[0] for sides in found.values() if "A" in sides)
    like = next(iter(next(iter(found.values())).values()))
    a, b = like.new_empty(inputs, ranks), like.new_zeros(ranks, sum(outputs))
    rank_at = column = 0
    for module, size in zip(_PACKED[product], outputs, strict=True):
        sides = found.get(module)
        if sides is not None:
            rank = sides["A"].shape[0] if "A" in sides else 0
            shapes = {side: list(tensor.shape) for side, tensor in sides.items()}
            if shapes != {"A": [rank, inputs], "B": [size, rank]}:
                raise ModelLoadError(f"{file}: {module} has {shapes}, not A [r, {inputs}] and B [{size}, r]")
            a[:, rank_at : rank_at + rank] = sides["A"].t()
            b[rank_at : rank_at + rank, column : column + size] = sides["B"].t() * _scale(config, module, rank, file)
            rank_at += rank
        column += size
    return a.to(dtype), b.to(dtype)


def _scale(config: dict[str, Any], module: str, rank: int, file: Path) -> float:
    """alpha / r, or alpha / sqrt(r) if `use_rslora` (Kalajdzievski 2023, arXiv 2312.03732)."""
    patterns: dict[str, Any] = config.get("alpha_pattern") or {}
    alpha = next((value for key, value in patterns.items() if module.endswith(key)), config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ModelLoadError(f"{file.parent / 'adapter_config.json'}: lora_alpha must be a number, not {alpha!r}")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
