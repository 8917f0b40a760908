"""One decoder for all families: embeds, runs its layers over paged KV, gives logits. Knows nothing of requests.

Which biases and norms exist is the `ModelSpec`'s; where keys and values lie, and how they are attended to, is the
`Ops`' of the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor
from torch.nn import functional

from engine.config import ModelSpec
from engine.ops.linear import Linear
from engine.ops.norm import RmsNorm


@dataclass(frozen=True, slots=True)
class Layer:
    """The parameters of one block; q, k, v are packed in one product, gate and up in another."""

    attention_norm: RmsNorm
    qkv: Linear
    q_norm: RmsNorm | None
    k_norm: RmsNorm | None
    out: Linear
    mlp_norm: RmsNorm
    gate_up: Linear
    down: Linear

    @property
    def qk_norms(self) -> tuple[RmsNorm, RmsNorm] | None:
        """Norms of each query and key head before rotation, in the families that have them."""
        return None if self.q_norm is None or self.k_norm is None else (self.q_norm, self.k_norm)


@dataclass(frozen=True, slots=True)
class Weights:
    """All parameters. `embedding` is [vocab, hidden]; a tied head multiplies by the same numbers."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: RmsNorm
    head: Linear


class Rows(Protocol):
    """What the decoder itself reads of a batch: ids [tokens], and the rows whose logits are asked for (None: all)."""

    @property
    def ids(self) -> Tensor: ...

    @property
    def wanted(self) -> Tensor | None: ...


B = TypeVar("B", bound=Rows)
B_contra = TypeVar("B_contra", bound=Rows, contravariant=True)


class Ops(Protocol[B_contra]):
    """What is done between products with weights, chosen once by device: `ops.torch_ops`, `ops.triton_ops`."""

    def begin(self, batch: B_contra, kv: Tensor) -> None: ...

    def add_norm(self, delta: Tensor | None, hidden: Tensor, norm: RmsNorm) -> tuple[Tensor, Tensor]: ...

    def attend(self, qkv: Tensor, norms: tuple[RmsNorm, RmsNorm] | None, kv: Tensor, batch: B_contra) -> Tensor: ...

    def silu_mul(self, gate_up: Tensor) -> Tensor: ...


class Decoder(Generic[B]):
    """The forward pass. `kv` is [layers, 2, kv_heads, slots, D]; a step writes the slots of its own tokens only."""

    def __init__(self, spec: ModelSpec, weights: Weights, ops: Ops[B]) -> None:
        self.spec = spec
        self.weights = weights
        self._ops = ops

    def forward(self, batch: B, kv: Tensor) -> Tensor:
        """Logits [wanted rows, vocab] in fp32."""
        weights, ops = self.weights, self._ops
        ops.begin(batch, kv)
        hidden, delta = functional.embedding(batch.ids, weights.embedding), None
        for index, layer in enumerate(weights.layers):
            normed, hidden = ops.add_norm(delta, hidden, layer.attention_norm)
            attended = ops.attend(layer.qkv(normed), layer.qk_norms, kv[index], batch)
            normed, hidden = ops.add_norm(layer.out(attended), hidden, layer.mlp_norm)
            delta = layer.down(ops.silu_mul(layer.gate_up(normed)))
        if batch.wanted is not None:
            hidden = hidden.index_select(0, batch.wanted)
            delta = None if delta is None else delta.index_select(0, batch.wanted)
        normed, _ = ops.add_norm(delta, hidden, weights.norm)
        return weights.head(normed).float()
