"""What a decoder's layer does besides products with weights, in torch: the CPU's path, and any device's without Triton.

Owns the layout of a batch for `ops.attention`, the rope table and the buffer for gathered keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.config import ModelSpec
from engine.models.rope import rope_table, rotate
from engine.ops import attention
from engine.ops.norm import RmsNorm, silu_mul


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


class TorchOps:
    """Between `begin` and the last `attend` of a forward pass it holds that pass's rotations."""

    def __init__(self, spec: ModelSpec, like: Tensor, context_tokens: int) -> None:
        """`like`: a weight, for device and type."""
        self._spec = spec
        self._rope = rope_table(spec.rope, spec.head_dim, context_tokens, like.dtype).to(like.device)
        # Values take the same path as queries and keys, unturned: so keys and values stay side by side in one tensor.
        turns = [0] * (spec.heads + spec.kv_heads) + [1] * spec.kv_heads
        self._turns = torch.tensor(turns, device=like.device)
        self._scratch = like.new_empty(0)
        self._cos = self._sin = self._scratch

    def begin(self, batch: Batch, kv: Tensor) -> None:
        """Look up rotations; make the buffer large enough for every gather of this batch."""
        blocks = max(batch.blocks.shape[0], *(piece.blocks.shape[0] for piece in batch.extends), 0)
        needed = attention.scratch_elements(kv[0], blocks)
        if needed > self._scratch.shape[0]:
            self._scratch = self._scratch.new_empty(needed * 5 // 4)
        turns = self._rope.index_select(0, batch.positions).index_select(1, self._turns)
        self._cos, self._sin = turns[:, :, 0], turns[:, :, 1]

    def add_norm(self, delta: Tensor | None, hidden: Tensor, norm: RmsNorm) -> tuple[Tensor, Tensor]:
        """(norm of the sum, the sum) of the residual stream `hidden` and `delta`, which may be overwritten."""
        if delta is not None:
            hidden = delta.add_(hidden)
        return norm(hidden), hidden

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up: [tokens, 2 * intermediate] -> [tokens, intermediate]."""
        return silu_mul(gate_up)

    def attend(self, qkv: Tensor, norms: tuple[RmsNorm, RmsNorm] | None, kv: Tensor, batch: Batch) -> Tensor:
        """Norm (of q and k, if any), rotate, store and attend. qkv [tokens, (heads + 2 kv_heads) * D] in packed order;
        kv [2, kv_heads, slots, D] of this layer. Returns [tokens, heads * D]."""
        spec = self._spec
        tokens, heads, kv_heads, dim = qkv.shape[0], spec.heads, spec.kv_heads, spec.head_dim
        qkv = qkv.view(tokens, heads + 2 * kv_heads, dim)
        if norms is not None:
            values = heads + kv_heads
            q, k = norms[0](qkv[:, :heads]), norms[1](qkv[:, heads:values])
            qkv = torch.cat((q, k, qkv[:, values:]), 1)
        qkv = rotate(qkv, self._cos, self._sin)
        q = qkv[:, :heads]
        # Everything is stored before anything attends: siblings may read blocks that are written in the same step.
        attention.store(kv, qkv[:, heads:].view(tokens, 2, kv_heads, dim), batch.slots)
        if batch.decodes == tokens:
            out = attention.decode(q, kv, batch.blocks, batch.longest, batch.mask, self._scratch)
        else:
            out = torch.empty(tokens, heads, dim, dtype=qkv.dtype, device=qkv.device)
            if batch.decodes:
                rows = slice(0, batch.decodes)
                out[rows] = attention.decode(q[rows], kv, batch.blocks, batch.longest, batch.mask, self._scratch)
            for piece in batch.extends:
                rows = slice(piece.first, piece.last)
                out[rows] = attention.extend(q[rows], kv, piece.blocks, piece.start, self._scratch)
        return out.view(tokens, heads * dim)
