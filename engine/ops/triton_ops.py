"""What a decoder's layer does besides products with weights, on CUDA: the Triton kernels over a step's work lists.

Owns the rotations' table. The tensors of a batch may be the static inputs of a CUDA graph: nothing here reads them on
the host, and every launch of a batch's shape is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.config import ModelSpec
from engine.models.rope import inverse_frequencies
from engine.ops import fused, paged_attention
from engine.ops.norm import RmsNorm
from engine.ops.paged_attention import Work
from engine.ops.rope_store import rope_store


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a batch that attend in one launch: their work, each row's item and place in it [2, rows], and the rows
    that items' FIRST and COUNT refer to. `split`: whether items may have several units, so that rows are merged."""

    work: Work
    places: Tensor
    members: Tensor
    split: bool = True


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """The tokens of one step: `decodes` rows with one new token each, then rows of prompts' pieces.

    ids, positions, rows [tokens] int32: position -1 pads, rows index `tables` [*, width] int32. `decode` and, for
    siblings, `shared` list the work of the first rows, `extend` that of the rest. Logits of `wanted` rows (None: all).
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    tables: Tensor
    decodes: int
    decode: Part | None = None
    shared: Part | None = None
    extend: Part | None = None
    wanted: Tensor | None = None


class TritonOps:
    """`begin` cuts the batch's work into units; each layer then launches the same kernels over it."""

    def __init__(self, spec: ModelSpec, like: Tensor, context_tokens: int) -> None:
        """`like`: a weight, for device and type."""
        self._spec = spec
        frequencies, factor = inverse_frequencies(spec.rope, spec.head_dim)
        angles = torch.arange(context_tokens, dtype=torch.float32)[:, None] * frequencies[None, :]
        # Not rounded to the weights' type: the kernel rotates in fp32.
        self._turns = torch.stack((angles.cos() * factor, angles.sin() * factor), 1).to(like.device)

    def begin(self, batch: DeviceBatch, kv: Tensor) -> None:
        """Cut the batch's items into units, for all layers."""
        for part in (batch.decode, batch.shared, batch.extend):
            if part is not None:
                part.work.plan()

    def add_norm(self, delta: Tensor | None, hidden: Tensor, norm: RmsNorm) -> tuple[Tensor, Tensor]:
        """(norm of the sum, the sum) of the residual stream `hidden` [tokens, size], overwritten, and `delta`."""
        return fused.add_norm(delta, hidden, norm.weight, self._spec.norm_eps), hidden

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up: [tokens, 2 * intermediate] -> [tokens, intermediate]."""
        return fused.silu_mul(gate_up)

    def attend(self, qkv: Tensor, norms: tuple[RmsNorm, RmsNorm] | None, kv: Tensor, batch: DeviceBatch) -> Tensor:
        """Norm (of q and k, if any), rotate, store and attend. qkv [tokens, (heads + 2 kv_heads) * D] in packed order;
        kv [2, kv_heads, slots, D] of this layer. Returns [tokens, heads * D]."""
        spec = self._spec
        packed = qkv.view(qkv.shape[0], spec.heads + 2 * spec.kv_heads, spec.head_dim)
        weights = None if norms is None else (norms[0].weight, norms[1].weight)
        eps = spec.norm_eps
        # Everything is stored before anything attends: siblings may read blocks that are written in the same step.
        q = rope_store(packed, kv, batch.tables, batch.rows, batch.positions, self._turns, weights, eps)
        out = torch.empty_like(q)
        first, tables, kv_heads = batch.decodes, batch.tables, spec.kv_heads
        if batch.decode is not None:
            _attend(q[:first], kv, tables, batch.decode, batch.shared, out[:first], kv_heads, causal=False)
        if batch.extend is not None:
            _attend(q[first:], kv, tables, batch.extend, None, out[first:], kv_heads, causal=True)
        return out.view(qkv.shape[0], spec.heads * spec.head_dim)


def _attend(
    q: Tensor, kv: Tensor, tables: Tensor, own: Part, shared: Part | None, out: Tensor, kv_heads: int, *, causal: bool
) -> None:
    paged_attention.attend(q, kv, tables, own.work, own.members, out, causal=causal, direct=True)
    if shared is not None:
        paged_attention.attend(q, kv, tables, shared.work, shared.members, out, causal=False, direct=False)
        both = (shared.work, shared.places)
        paged_attention.merge(out, own.work, own.places, kv_heads, direct=True, shared=both)
    elif own.split:
        paged_attention.merge(out, own.work, own.places, kv_heads, direct=True)
