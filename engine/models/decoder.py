"""One decoder for all families: embeds, runs its layers over paged KV, gives logits. Knows nothing of requests.

Which biases and norms exist is the `ModelSpec`'s; where keys and values lie is the `Batch`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from engine.config import ModelSpec
from engine.models.rope import rope_table, rotate
from engine.ops import attention
from engine.ops.linear import Linear
from engine.ops.norm import RmsNorm, silu_mul


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


@dataclass(frozen=True, slots=True)
class Weights:
    """All parameters. `embedding` is [vocab, hidden]; a tied head multiplies by the same numbers."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: RmsNorm
    head: Linear


@dataclass(frozen=True, slots=True)
class Extend:
    """A piece of one prompt in a batch: rows `first`..`last` are its positions from `start` on; blocks [n]."""

    first: int
    last: int
    start: int
    blocks: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one step: `decodes` rows with one new token each, then the rows of each `Extend`.

    ids, positions, slots [tokens]; blocks, longest and mask as `ops.attention.decode` wants them; logits of `wanted`
    rows only (None: of all rows).
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor
    decodes: int
    blocks: Tensor
    longest: int
    mask: Tensor | None
    extends: tuple[Extend, ...] = field(default=())
    wanted: Tensor | None = None


class Decoder:
    """The forward pass. `kv` is [layers, 2, kv_heads, slots, D]; a step writes the slots of its own tokens only."""

    def __init__(self, spec: ModelSpec, weights: Weights, context_tokens: int) -> None:
        self.spec = spec
        self.weights = weights
        self._rope = rope_table(spec.rope, spec.head_dim, context_tokens, weights.embedding.dtype)
        self._rope = self._rope.to(weights.embedding.device)
        # Values take the same path as queries and keys, unturned: so keys and values stay side by side in one tensor.
        turns = [0] * (spec.heads + spec.kv_heads) + [1] * spec.kv_heads
        self._turns = torch.tensor(turns, device=weights.embedding.device)
        self._scratch = weights.embedding.new_empty(0)

    def forward(self, batch: Batch, kv: Tensor) -> Tensor:
        """Logits [wanted rows, vocab] in fp32."""
        weights = self.weights
        self._reserve(batch, kv)
        turns = self._rope.index_select(0, batch.positions).index_select(1, self._turns)
        cos, sin = turns[:, :, 0], turns[:, :, 1]
        hidden = functional.embedding(batch.ids, weights.embedding)
        for index, layer in enumerate(weights.layers):
            hidden = self._attend(layer, hidden, kv[index], batch, cos, sin).add_(hidden)
            hidden = layer.down(silu_mul(layer.gate_up(layer.mlp_norm(hidden)))).add_(hidden)
        if batch.wanted is not None:
            hidden = hidden.index_select(0, batch.wanted)
        return weights.head(weights.norm(hidden)).float()

    def _reserve(self, batch: Batch, kv: Tensor) -> None:
        """Make the buffer for gathered keys and values large enough for every gather of this batch."""
        blocks = max(batch.blocks.shape[0], *(piece.blocks.shape[0] for piece in batch.extends), 0)
        needed = attention.scratch_elements(kv[0], blocks)
        if needed > self._scratch.shape[0]:
            self._scratch = self._scratch.new_empty(needed * 5 // 4)

    def _attend(self, layer: Layer, hidden: Tensor, kv: Tensor, batch: Batch, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention block of one layer on hidden [tokens, hidden], with the output product, without the residual."""
        spec = self.spec
        tokens, heads, kv_heads, dim = hidden.shape[0], spec.heads, spec.kv_heads, spec.head_dim
        qkv = layer.qkv(layer.attention_norm(hidden)).view(tokens, heads + 2 * kv_heads, dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            values = heads + kv_heads
            q, k = layer.q_norm(qkv[:, :heads]), layer.k_norm(qkv[:, heads:values])
            qkv = torch.cat((q, k, qkv[:, values:]), 1)
        qkv = rotate(qkv, cos, sin)
        q = qkv[:, :heads]
        # Everything is stored before anything attends: siblings may read blocks that are written in the same step.
        attention.store(kv, qkv[:, heads:].view(tokens, 2, kv_heads, dim), batch.slots)
        if batch.decodes == tokens:
            out = attention.decode(q, kv, batch.blocks, batch.longest, batch.mask, self._scratch)
        else:
            out = torch.empty(tokens, heads, dim, dtype=hidden.dtype, device=hidden.device)
            if batch.decodes:
                rows = slice(0, batch.decodes)
                out[rows] = attention.decode(q[rows], kv, batch.blocks, batch.longest, batch.mask, self._scratch)
            for piece in batch.extends:
                rows = slice(piece.first, piece.last)
                out[rows] = attention.extend(q[rows], kv, piece.blocks, piece.start, self._scratch)
        return layer.out(out.view(tokens, heads * dim))
