"""Copies of whole blocks between the paged cache and block-contiguous memory, for tiers and forks. No arithmetic.

In the cache [layers, 2, kv_heads, slots, D] a block is layers * 2 * kv_heads tiles, far apart from each
other; packed [n, planes * 16 * D] it is one piece, which copies to the host at full speed.
"""

import triton
import triton.language as tl
from torch import Tensor

from engine.ops.launch import next_power_of_2

BLOCK_TOKENS = 16


@triton.jit
def _move_kernel(
    kv: tl.tensor,
    packed: tl.tensor,
    blocks: tl.tensor,
    planes: tl.tensor,
    plane_stride: tl.tensor,
    GATHER: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Block x plane: one contiguous tile of SIZE numbers."""
    index = tl.program_id(0).to(tl.int64)
    plane = tl.program_id(1).to(tl.int64)
    block = tl.load(blocks + index).to(tl.int64)
    number = tl.arange(0, BLOCK)
    there = number < SIZE
    inside = kv + plane * plane_stride + block * SIZE + number
    outside = packed + (index * planes + plane) * SIZE + number
    if GATHER:
        tl.store(outside, tl.load(inside, mask=there), mask=there)
    else:
        tl.store(inside, tl.load(outside, mask=there), mask=there)


@triton.jit(do_not_specialize=["count"])
def _copy_kernel(
    kv: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    plane_stride: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Pair x plane: one tile from block pairs[0, i] to block pairs[1, i]."""
    index = tl.program_id(0).to(tl.int64)
    plane = tl.program_id(1).to(tl.int64)
    source = tl.load(pairs + index).to(tl.int64)
    target = tl.load(pairs + count + index).to(tl.int64)
    number = tl.arange(0, BLOCK)
    there = number < SIZE
    tile = kv + plane * plane_stride + number
    tl.store(tile + target * SIZE, tl.load(tile + source * SIZE, mask=there), mask=there)


def planes_of(kv: Tensor) -> tuple[int, int]:
    """(tiles of one block, numbers in each) of kv [layers, 2, kv_heads, slots, D]."""
    layers, two, kv_heads, _, dim = kv.shape
    return layers * two * kv_heads, BLOCK_TOKENS * dim


def gather_blocks(kv: Tensor, blocks: Tensor, packed: Tensor) -> None:
    """packed [n, planes * 16 * D] = blocks [n] int32 of kv [layers, 2, kv_heads, slots, D]."""
    _move(kv, blocks, packed, gather=True)


def scatter_blocks(kv: Tensor, blocks: Tensor, packed: Tensor) -> None:
    """Blocks [n] int32 of kv = packed [n, planes * 16 * D]."""
    _move(kv, blocks, packed, gather=False)


def copy_blocks(kv: Tensor, pairs: Tensor) -> None:
    """Block pairs[1, i] of kv = block pairs[0, i]; pairs [2, n] int32; no target is another's source."""
    planes, size = planes_of(kv)
    count = pairs.shape[1]
    _copy_kernel[(count, planes)](
        kv, pairs, count, kv.shape[3] * kv.shape[4], SIZE=size, BLOCK=next_power_of_2(size), num_warps=4
    )


def _move(kv: Tensor, blocks: Tensor, packed: Tensor, *, gather: bool) -> None:
    planes, size = planes_of(kv)
    _move_kernel[(blocks.shape[0], planes)](
        kv, packed, blocks, planes, kv.shape[3] * kv.shape[4],
        GATHER=gather, SIZE=size, BLOCK=next_power_of_2(size), num_warps=4,
    )  # fmt: skip


def _tiles(kv: Tensor) -> Tensor:
    planes, size = planes_of(kv)
    return kv.view(planes, -1, size)


def gather_reference(kv: Tensor, blocks: Tensor, packed: Tensor) -> None:
    """`gather_blocks` in torch."""
    packed.copy_(_tiles(kv)[:, blocks.long()].transpose(0, 1).reshape(packed.shape))


def scatter_reference(kv: Tensor, blocks: Tensor, packed: Tensor) -> None:
    """`scatter_blocks` in torch."""
    planes, size = planes_of(kv)
    _tiles(kv)[:, blocks.long()] = packed.view(-1, planes, size).transpose(0, 1)


def copy_reference(kv: Tensor, pairs: Tensor) -> None:
    """`copy_blocks` in torch."""
    tiles = _tiles(kv)
    tiles[:, pairs[1].long()] = tiles[:, pairs[0].long()]
