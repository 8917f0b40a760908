"""Reads safetensors into a decoder's packed parameters. Every parameter is filled exactly once, or loading fails.

Never executes anything from a model directory: pickled checkpoints are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.config import ModelSpec, read_json
from engine.models.decoder import Layer, Weights
from engine.ops.linear import Linear
from engine.ops.norm import RmsNorm
from engine.protocol import ModelLoadError

_IGNORED = ("rotary_emb.inv_freq",)


def load_weights(directory: Path, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Weights:
    """The parameters of the model in `directory`. Raises `ModelLoadError` that names the file and the tensor."""
    parameters = _Parameters(spec, dtype, device)
    for file in _files(directory):
        for name, tensor in tensors_of(file):
            parameters.fill(name, tensor, file)
    missing = parameters.missing()
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ModelLoadError(f"{directory}: tensors are missing: {', '.join(missing[:5])}{more}")
    weights = parameters.weights()
    for layer in weights.layers:
        for linear in (layer.qkv, layer.out, layer.gate_up, layer.down):
            linear.pack(keep_plain=spec.is_small)
    weights.head.pack(keep_plain=spec.is_small)
    return weights


def _files(directory: Path) -> list[Path]:
    """The files of the index if there is one, else every model*.safetensors."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ModelLoadError(f"{index}: weight_map must map tensors to files")
        files = [directory / name for name in sorted(set(names.values()))]
        if any(file.parent != directory for file in files):
            raise ModelLoadError(f"{index}: weight_map must name files of the same directory")
    else:
        files = sorted(directory.glob("model*.safetensors"))
        if not files:
            raise ModelLoadError(f"{directory / 'model.safetensors'}: file is missing")
    for file in files:
        if not file.is_file():
            raise ModelLoadError(f"{file}: file is missing (the index names it)")
    return files


def tensors_of(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a safetensors file, one by one. Raises `ModelLoadError` that names the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a file handle, not a mapping
                yield name, tensors.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelLoadError(f"{file}: cannot be read as safetensors: {error}") from None


class _Parameters:
    """Packed tensors and the places where each tensor of a checkpoint goes.

    `_places` maps a checkpoint's name to a view of the shape that the checkpoint must have; it shrinks as views are
    filled, so what is left is missing and what is not found was unknown or came twice.
    """

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        self._spec, self._dtype, self._device = spec, dtype, device
        self._places: dict[str, Tensor] = {}
        self._known: set[str] = set()
        self._embedding = self._place("model.embed_tokens.weight", self._new(spec.vocab_size, spec.hidden))
        self._layers = tuple(self._layer(f"model.layers.{index}.") for index in range(spec.layers))
        self._norm = self._place("model.norm.weight", self._new(spec.hidden))
        if spec.tied_head:
            self._head = Linear(self._embedding.t())
        else:
            self._head = self._linear(spec.hidden, {"lm_head": spec.vocab_size}, bias=False)
        self._known |= self._places.keys()

    def fill(self, name: str, tensor: Tensor, file: Path) -> None:
        if name.endswith(_IGNORED) or (self._spec.tied_head and name == "lm_head.weight"):
            return
        place = self._places.pop(name, None)
        if place is None:
            what = "comes twice" if name in self._known else f"is unknown to a {self._spec.family} model"
            raise ModelLoadError(f"{file}: tensor {name!r} {what}")
        if place.shape != tensor.shape:
            raise ModelLoadError(
                f"{file}: tensor {name!r} has shape {list(tensor.shape)}, config.json asks for {list(place.shape)}"
            )
        place.copy_(tensor)

    def missing(self) -> list[str]:
        return sorted(self._places)

    def weights(self) -> Weights:
        return Weights(self._embedding, self._layers, RmsNorm(self._norm, self._spec.norm_eps), self._head)

    def _new(self, *shape: int) -> Tensor:
        try:
            return torch.empty(shape, dtype=self._dtype, device=self._device)
        except RuntimeError as error:
            raise ModelLoadError(f"no memory for a parameter of shape {list(shape)}: {error}") from None

    def _place(self, name: str, tensor: Tensor) -> Tensor:
        self._places[name] = tensor
        return tensor

    def _linear(self, inputs: int, parts: dict[str, int], *, bias: bool) -> Linear:
        """One product for several of the checkpoint's: their [out, in] weights side by side."""
        outputs = sum(parts.values())
        memory = self._new(outputs, inputs)
        biases = self._new(outputs) if bias else None
        first = 0
        for name, size in parts.items():
            self._place(f"{name}.weight", memory[first : first + size])
            if biases is not None:
                self._place(f"{name}.bias", biases[first : first + size])
            first += size
        return Linear(memory.t(), biases)

    def _rms(self, name: str, size: int) -> RmsNorm:
        return RmsNorm(self._place(f"{name}.weight", self._new(size)), self._spec.norm_eps)

    def _layer(self, prefix: str) -> Layer:
        spec = self._spec
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        return Layer(
            attention_norm=self._rms(prefix + "input_layernorm", spec.hidden),
            qkv=self._linear(
                spec.hidden,
                {attention + "q_proj": q, attention + "k_proj": kv, attention + "v_proj": kv},
                bias=spec.qkv_bias,
            ),
            q_norm=self._rms(attention + "q_norm", spec.head_dim) if spec.qk_norm else None,
            k_norm=self._rms(attention + "k_norm", spec.head_dim) if spec.qk_norm else None,
            out=self._linear(q, {attention + "o_proj": spec.hidden}, bias=spec.o_bias),
            mlp_norm=self._rms(prefix + "post_attention_layernorm", spec.hidden),
            gate_up=self._linear(
                spec.hidden,
                {mlp + "gate_proj": spec.intermediate, mlp + "up_proj": spec.intermediate},
                bias=spec.mlp_bias,
            ),
            down=self._linear(spec.intermediate, {mlp + "down_proj": spec.hidden}, bias=spec.mlp_bias),
        )
