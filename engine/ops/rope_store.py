"""Norm of queries and keys, rotation, and the store of keys and values into their slots: one kernel over packed qkv.

RoPE: Su et al. 2021 (arXiv 2104.09864, eq. 34), pairs (i, i + D/2); per-head RMSNorm as in Qwen3. Reads no KV.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.launch import check_type, next_power_of_2

BLOCK_TOKENS = 16
_HEADS_PER_PROGRAM = 4


@triton.jit
def _rope_store_kernel(
    qkv: tl.tensor,
    q_out: tl.tensor,
    kv: tl.tensor,
    tables: tl.tensor,
    rows: tl.tensor,
    positions: tl.tensor,
    turns: tl.tensor,
    q_weight: tl.tensor,
    k_weight: tl.tensor,
    table_stride: tl.tensor,
    head_stride: tl.tensor,
    eps: tl.tensor,
    NORM: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
) -> None:
    """Token x heads: of queries, then keys, then values, so that a program has heads of one kind only."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    position = tl.load(positions + token)
    if position >= 0:
        q_parts: tl.constexpr = (HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
        k_parts: tl.constexpr = (KV_HEADS + BLOCK_HEADS - 1) // BLOCK_HEADS
        is_q = part < q_parts
        is_v = part >= q_parts + k_parts
        base = tl.where(is_q, 0, tl.where(is_v, HEADS + KV_HEADS, HEADS))
        part = tl.where(is_q, part, tl.where(is_v, part - q_parts - k_parts, part - q_parts))
        head = part * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
        pair = tl.arange(0, BLOCK_HALF)
        live = (head < tl.where(is_q, HEADS, KV_HEADS))[:, None] & (pair < HALF)[None, :]
        place = (token * (HEADS + 2 * KV_HEADS) + base + head) * (2 * HALF)
        low = tl.load(qkv + place[:, None] + pair[None, :], mask=live, other=0.0).to(tl.float32)
        high = tl.load(qkv + place[:, None] + HALF + pair[None, :], mask=live, other=0.0).to(tl.float32)
        if is_v == 0:
            if NORM:
                scale = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / (2 * HALF) + eps)
                weight = q_weight if is_q else k_weight
                first = tl.load(weight + pair, mask=pair < HALF, other=0.0).to(tl.float32)
                second = tl.load(weight + HALF + pair, mask=pair < HALF, other=0.0).to(tl.float32)
                low = low * scale[:, None] * first[None, :]
                high = high * scale[:, None] * second[None, :]
            turn = turns + position.to(tl.int64) * (2 * HALF) + pair
            cos = tl.load(turn, mask=pair < HALF, other=0.0)[None, :]
            sin = tl.load(turn + HALF, mask=pair < HALF, other=0.0)[None, :]
            turned = low * cos - high * sin
            high = high * cos + low * sin
            low = turned
        if is_q:
            target = q_out + (token * HEADS + head)[:, None] * (2 * HALF) + pair[None, :]
            tl.store(target, low.to(q_out.dtype.element_ty), mask=live)
            tl.store(target + HALF, high.to(q_out.dtype.element_ty), mask=live)
        else:
            row = tl.load(rows + token).to(tl.int64)
            block = tl.load(tables + row * table_stride + position // BLOCK_TOKENS).to(tl.int64)
            slot = block * BLOCK_TOKENS + position % BLOCK_TOKENS
            plane = (head + tl.where(is_v, KV_HEADS, 0)).to(tl.int64) * head_stride
            target = kv + plane[:, None] + slot * (2 * HALF) + pair[None, :]
            tl.store(target, low.to(kv.dtype.element_ty), mask=live)
            tl.store(target + HALF, high.to(kv.dtype.element_ty), mask=live)


def rope_store(
    qkv: Tensor,
    kv: Tensor,
    tables: Tensor,
    rows: Tensor,
    positions: Tensor,
    turns: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """Store the keys and values of each token of qkv [tokens, heads + 2 kv_heads, D]; its queries [tokens, heads, D].

    kv [2, kv_heads, slots, D]; tables [*, width], rows [tokens], positions [tokens] int32 (-1: no token, its queries
    are left as they are); turns [positions, 2, D / 2] fp32, cos and sin; norms: weights [D] of q and k.
    """
    check_type(qkv, kv)
    tokens, packed, dim = qkv.shape
    kv_heads, slots = kv.shape[1], kv.shape[2]
    heads = packed - 2 * kv_heads
    q = torch.empty(tokens, heads, dim, dtype=qkv.dtype, device=qkv.device)
    block = min(_HEADS_PER_PROGRAM, next_power_of_2(kv_heads))
    q_weight, k_weight = norms if norms is not None else (turns, turns)
    _rope_store_kernel[(tokens, triton.cdiv(heads, block) + 2 * triton.cdiv(kv_heads, block))](
        qkv, q, kv, tables, rows, positions, turns, q_weight, k_weight, tables.stride(0), slots * dim, eps,
        NORM=norms is not None, HEADS=heads, KV_HEADS=kv_heads, HALF=dim // 2, BLOCK_HALF=next_power_of_2(dim // 2),
        BLOCK_HEADS=block, BLOCK_TOKENS=BLOCK_TOKENS, num_warps=2,
    )  # fmt: skip
    return q


def reference(
    qkv: Tensor,
    kv: Tensor,
    tables: Tensor,
    rows: Tensor,
    positions: Tensor,
    turns: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """The same in torch, computed in fp32 and rounded once."""
    kv_heads, dim = kv.shape[1], qkv.shape[2]
    heads = qkv.shape[1] - 2 * kv_heads
    full = qkv.float()
    q, k, v = full[:, :heads], full[:, heads : heads + kv_heads], full[:, heads + kv_heads :]
    if norms is not None:
        q = torch.nn.functional.rms_norm(q, (dim,), norms[0].float(), eps)
        k = torch.nn.functional.rms_norm(k, (dim,), norms[1].float(), eps)
    cos, sin = turns[positions.clamp(min=0).long()].unbind(1)
    cos, sin = torch.cat((cos, cos), 1)[:, None], torch.cat((-sin, sin), 1)[:, None]
    q, k = (x * cos + x.roll(dim // 2, -1) * sin for x in (q, k))
    for token, position in enumerate(positions.tolist()):
        if position >= 0:
            slot = int(tables[int(rows[token]), position // BLOCK_TOKENS]) * BLOCK_TOKENS + position % BLOCK_TOKENS
            kv[0, :, slot], kv[1, :, slot] = k[token].to(kv.dtype), v[token].to(kv.dtype)
    rotated: Tensor = q.to(qkv.dtype)
    return rotated
