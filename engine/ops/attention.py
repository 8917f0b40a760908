"""Attention over paged KV, in torch: store, decode, extend. The reference of the kernels and the path of the CPU.

KV of one layer is [2, kv_heads, slots, D], slot = block * 16 + offset: the tile of one block and head is contiguous,
and the blocks of a sequence are gathered by one `index_select`. Query heads of one KV head are folded into rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.config import BLOCK_TOKENS

_EXTEND_TILE = 256
_MANY_SCORES = 8192


def store(kv: Tensor, keys_values: Tensor, slots: Tensor) -> None:
    """Write keys_values [tokens, 2, kv_heads, D] into kv [2, kv_heads, slots, D] at slots [tokens]."""
    kv.index_copy_(2, slots, keys_values.permute(1, 2, 0, 3))


def scratch_elements(kv: Tensor, blocks: int) -> int:
    """Numbers that `gather` writes for so many blocks of one layer's kv."""
    return kv.numel() // (kv.shape[2] // BLOCK_TOKENS) * blocks


def gather(kv: Tensor, blocks: Tensor, scratch: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [kv_heads, 16 * n, D] of blocks [n]: views of `scratch`, flat, of `scratch_elements` at least."""
    planes, kv_heads, slots, dim = kv.shape
    count = blocks.shape[0]
    out = scratch[: scratch_elements(kv, count)].view(planes * kv_heads, count, BLOCK_TOKENS * dim)
    tiles = kv.view(planes * kv_heads, slots // BLOCK_TOKENS, BLOCK_TOKENS * dim)
    torch.index_select(tiles, 1, blocks, out=out)
    both = out.view(planes, kv_heads, count * BLOCK_TOKENS, dim)
    return both[0], both[1]


def decode(q: Tensor, kv: Tensor, blocks: Tensor, longest: int, mask: Tensor | None, scratch: Tensor) -> Tensor:
    """One new token for each of B sequences of at most `longest` tokens, the new ones included.

    q [B, heads, D]; blocks [B * n], each sequence padded to n; mask [B, 1, 1, longest], 0 where a key counts and -inf
    where not, or None if all sequences are as long. Returns [B, heads, D].
    """
    batch, heads, dim = q.shape
    kv_heads = kv.shape[1]
    keys, values = gather(kv, blocks, scratch)
    keys = keys.view(kv_heads, batch, -1, dim).transpose(0, 1)[:, :, :longest]
    values = values.view(kv_heads, batch, -1, dim).transpose(0, 1)[:, :, :longest]
    return _attend(q.view(batch, kv_heads, heads // kv_heads, dim), keys, values, mask).reshape(batch, heads, dim)


def _attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q keys^T / sqrt(D) + mask) values over [batch, kv_heads, rows or length, D].

    For half types on a CPU two products and a softmax are up to twice as fast as torch's fused attention.
    """
    batch, kv_heads, rows, dim = q.shape
    if q.dtype == torch.float32 or q.device.type != "cpu" or batch * kv_heads * rows * keys.shape[2] < _MANY_SCORES:
        return scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    # KV heads outermost, as they lie in memory: then neither keys nor values are copied.
    keys, values = (side.transpose(0, 1).flatten(0, 1) for side in (keys, values))
    scores = torch.bmm((q * dim**-0.5).transpose(0, 1).reshape(kv_heads * batch, rows, dim), keys.transpose(1, 2))
    if mask is not None:
        scores.view(kv_heads, batch, rows, -1).add_(mask.transpose(0, 1) if mask.dim() == 4 else mask)
    return torch.bmm(scores.softmax(-1), values).view(kv_heads, batch, rows, dim).transpose(0, 1)


def extend(q: Tensor, kv: Tensor, blocks: Tensor, start: int, scratch: Tensor) -> Tensor:
    """The next `tokens` positions of one sequence, from `start` on; their keys and values are already stored.

    q [tokens, heads, D]; blocks [n] cover start + tokens. Returns [tokens, heads, D]. Works in tiles of queries, so
    that keys behind a tile are never read.
    """
    tokens, heads, dim = q.shape
    kv_heads = kv.shape[1]
    group = heads // kv_heads
    keys, values = gather(kv, blocks, scratch)
    out = torch.empty_like(q)
    for first in range(0, tokens, _EXTEND_TILE):
        last = min(first + _EXTEND_TILE, tokens)
        end = start + last
        rows = q[first:last].view(last - first, kv_heads, group, dim).permute(1, 2, 0, 3)
        rows = rows.reshape(1, kv_heads, group * (last - first), dim)
        ahead = torch.full((last - first, end), float("-inf"), dtype=q.dtype, device=q.device)
        mask = ahead.triu_(start + first + 1).repeat(group, 1)
        tile = _attend(rows, keys[None, :, :end], values[None, :, :end], mask)
        tile = tile.view(kv_heads, group, last - first, dim).permute(2, 0, 1, 3)
        out[first:last] = tile.reshape(last - first, heads, dim)
    return out
