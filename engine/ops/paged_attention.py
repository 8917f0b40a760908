"""Paged attention in Triton: decode, shared-prefix decode and extend are one kernel over different work lists.

`plan` cuts items (some query rows against a range of one sequence's tokens) into units of about equal size, on the
device; `attend` computes the units; `merge` joins the units of each row by log-sum-exp. Decides nothing about requests.

Split-KV decoding: Dao et al. 2023, "Flash-Decoding"; online softmax: Milakov and Gimelshein 2018 (arXiv 1805.02867);
attention states merge associatively: Ye et al. 2025, FlashInfer (arXiv 2501.01005, section 3.1).
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.launch import check_type, next_power_of_2

BLOCK_TOKENS = 16
ITEM_FIELDS = 6
"""An item is a column of int32: FIRST (of its places in `members`), COUNT (of them), ROW (of the block table),
BEGIN and END (tokens attended to), START (position of its first query; causal items only). COUNT 0: no item."""
UNIT_FIELDS = 8


@dataclass(frozen=True, slots=True)
class Tiling:
    """Constants of a launch: query rows and tokens of a tile, and how it runs. Rows: (token or sibling) x group."""

    rows: int
    tokens: int
    warps: int
    stages: int


DECODE = Tiling(rows=16, tokens=64, warps=4, stages=3)
SHARED = Tiling(rows=64, tokens=64, warps=4, stages=3)
EXTEND_SMALL = Tiling(rows=64, tokens=64, warps=4, stages=3)
EXTEND = Tiling(rows=128, tokens=64, warps=8, stages=3)
EXACT = Tiling(rows=16, tokens=16, warps=4, stages=2)
"""For fp32, whose products are not done by tensor cores: large tiles would not fit registers and shared memory."""


@triton.jit(do_not_specialize=["count", "unit_count", "target", "least"])
def _plan_kernel(
    items: tl.tensor,
    units: tl.tensor,
    bounds: tl.tensor,
    count: tl.tensor,
    unit_count: tl.tensor,
    target: tl.tensor,
    least: tl.tensor,
    TILE: tl.constexpr,
    BLOCK_ITEMS: tl.constexpr,
    BLOCK_UNITS: tl.constexpr,
    UNIT_FIELDS: tl.constexpr,
) -> None:
    """Every program computes all items' splits, which is little, and writes BLOCK_UNITS units of them."""
    item = tl.arange(0, BLOCK_ITEMS)
    known = item < count
    first = tl.load(items + item, mask=known, other=0)
    members = tl.load(items + count + item, mask=known, other=0)
    row = tl.load(items + 2 * count + item, mask=known, other=0)
    begin = tl.load(items + 3 * count + item, mask=known, other=0)
    end = tl.load(items + 4 * count + item, mask=known, other=0)
    start = tl.load(items + 5 * count + item, mask=known, other=0)
    tokens = tl.where(members > 0, tl.maximum(end - begin, 0), 0)
    most = tl.maximum(least, (tl.sum(tokens, 0) + target - 1) // target)
    splits = tl.maximum((tokens + most - 1) // most, 1)
    size = ((tokens + splits - 1) // splits + TILE - 1) // TILE * TILE
    size = tl.maximum(size, TILE)
    splits = (tokens + size - 1) // size
    upto = tl.cumsum(splits, 0)
    since = upto - splits
    if tl.program_id(0) == 0:
        tl.store(bounds + item, since, mask=known)
        tl.store(bounds + count + item, upto, mask=known)
    unit = tl.program_id(0) * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    mine = (since[None, :] <= unit[:, None]) & (unit[:, None] < upto[None, :])
    split = unit - tl.sum(tl.where(mine, since[None, :], 0), 1)
    unit_size = tl.sum(tl.where(mine, size[None, :], 0), 1)
    unit_end = tl.sum(tl.where(mine, end[None, :], 0), 1)
    unit_begin = tl.sum(tl.where(mine, begin[None, :], 0), 1) + split * unit_size
    alone = mine & (splits == 1)[None, :] & (begin == 0)[None, :]
    exists = unit < unit_count
    place = units + unit * UNIT_FIELDS
    tl.store(place, tl.sum(tl.where(mine, first[None, :], 0), 1), mask=exists)
    tl.store(place + 1, tl.sum(tl.where(mine, members[None, :], 0), 1), mask=exists)
    tl.store(place + 2, tl.sum(tl.where(mine, row[None, :], 0), 1), mask=exists)
    tl.store(place + 3, unit_begin, mask=exists)
    tl.store(place + 4, tl.minimum(unit_begin + unit_size, unit_end), mask=exists)
    tl.store(place + 5, tl.sum(tl.where(mine, start[None, :], 0), 1), mask=exists)
    tl.store(place + 6, tl.sum(alone.to(tl.int32), 1), mask=exists)


@triton.jit
def _tile(
    q: tl.tensor,
    peak: tl.tensor,
    total: tl.tensor,
    acc: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    table: tl.tensor,
    at: tl.tensor,
    end: tl.tensor,
    position: tl.tensor,
    scale: tl.tensor,
    MASKED: tl.constexpr,
    CAUSAL: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """One step of the online softmax: rows [R] see the tokens at .. at + TILE."""
    token = at + tl.arange(0, TILE)
    dim = tl.arange(0, BLOCK_D)
    if MASKED:
        there = token < end
        block = tl.load(table + token // BLOCK_TOKENS, mask=there, other=0)
    else:
        block = tl.load(table + token // BLOCK_TOKENS)
    slot = block.to(tl.int64) * BLOCK_TOKENS + token % BLOCK_TOKENS
    place = slot[:, None] * DIM + dim[None, :]
    if MASKED and DIM == BLOCK_D:
        k = tl.load(keys + place, mask=there[:, None], other=0.0)
        v = tl.load(values + place, mask=there[:, None], other=0.0)
    elif MASKED:
        k = tl.load(keys + place, mask=there[:, None] & (dim < DIM)[None, :], other=0.0)
        v = tl.load(values + place, mask=there[:, None] & (dim < DIM)[None, :], other=0.0)
    elif DIM == BLOCK_D:
        k = tl.load(keys + place)
        v = tl.load(values + place)
    else:
        k = tl.load(keys + place, mask=(dim < DIM)[None, :], other=0.0)
        v = tl.load(values + place, mask=(dim < DIM)[None, :], other=0.0)
    score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if MASKED:
        if CAUSAL:
            score = tl.where(there[None, :] & (token[None, :] <= position[:, None]), score, float("-inf"))
        else:
            score = tl.where(there[None, :], score, float("-inf"))
    high = tl.maximum(peak, tl.max(score, 1))
    # A row that has seen nothing yet has no peak: 0 keeps exp2(-inf - -inf) from being NaN.
    base = tl.where(high == float("-inf"), 0.0, high)
    weight = tl.exp2(score - base[:, None])
    shrink = tl.exp2(peak - base)
    total = total * shrink + tl.sum(weight, 1)
    acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return high, total, acc


@triton.jit
def _attend_kernel(
    q: tl.tensor,
    kv: tl.tensor,
    tables: tl.tensor,
    units: tl.tensor,
    members: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    lse: tl.tensor,
    table_stride: tl.tensor,
    head_stride: tl.tensor,
    scale: tl.tensor,
    CAUSAL: tl.constexpr,
    DIRECT: tl.constexpr,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    UNIT_FIELDS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Unit x KV head. Rows are (place, query head of the group); DIRECT units that are alone write the output."""
    unit = tl.program_id(0)
    head = tl.program_id(1)
    count = tl.load(units + unit * UNIT_FIELDS + 1)
    if count > 0:
        first = tl.load(units + unit * UNIT_FIELDS)
        sequence = tl.load(units + unit * UNIT_FIELDS + 2)
        begin = tl.load(units + unit * UNIT_FIELDS + 3)
        end = tl.load(units + unit * UNIT_FIELDS + 4)
        start = tl.load(units + unit * UNIT_FIELDS + 5)
        alone = tl.load(units + unit * UNIT_FIELDS + 6)
        row = tl.arange(0, ROWS)
        dim = tl.arange(0, BLOCK_D)
        place = row // GROUP
        live = (place < count) & (row < ROWS // GROUP * GROUP)
        member = tl.load(members + first + place, mask=live, other=0).to(tl.int64)
        query = ((member * HEADS + head * GROUP + row % GROUP) * DIM)[:, None] + dim[None, :]
        wanted = live[:, None] & (dim < DIM)[None, :]
        q_tile = tl.load(q + query, mask=wanted, other=0.0)
        kv_heads: tl.constexpr = HEADS // GROUP
        keys = kv + head.to(tl.int64) * head_stride
        values = kv + (head.to(tl.int64) + kv_heads) * head_stride
        table = tables + sequence.to(tl.int64) * table_stride
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
        # Tiles that every row sees in full need no mask: up to the first query's own token, or up to the end.
        clear = tl.minimum(end, start + 1) if CAUSAL else end
        clear = begin + tl.maximum(clear - begin, 0) // TILE * TILE
        for at in range(begin, clear, TILE):
            peak, total, acc = _tile(
                q_tile, peak, total, acc, keys, values, table, at, end, place, scale,
                False, CAUSAL, DIM, BLOCK_D, TILE, BLOCK_TOKENS, PRECISION,
            )  # fmt: skip
        for at in range(clear, end, TILE):
            peak, total, acc = _tile(
                q_tile, peak, total, acc, keys, values, table, at, end, start + place, scale,
                True, CAUSAL, DIM, BLOCK_D, TILE, BLOCK_TOKENS, PRECISION,
            )  # fmt: skip
        acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
        if DIRECT and alone != 0:
            tl.store(out + query, acc.to(out.dtype.element_ty), mask=wanted)
        else:
            spot = (unit.to(tl.int64) * kv_heads + head) * ROWS + row
            tl.store(partial + spot[:, None] * DIM + dim[None, :], acc, mask=wanted)
            tl.store(lse + spot, tl.where(total > 0.0, peak + tl.log2(total), float("-inf")), mask=live)


@triton.jit
def _add_units(
    peak: tl.tensor,
    total: tl.tensor,
    acc: tl.tensor,
    partial: tl.tensor,
    lse: tl.tensor,
    since: tl.tensor,
    upto: tl.tensor,
    head: tl.tensor,
    rank: tl.tensor,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Merge the units since .. upto of one query row into (peak, total, acc)."""
    dim = tl.arange(0, BLOCK_D)
    for at in range(since, upto, CHUNK):
        unit = at + tl.arange(0, CHUNK)
        there = unit < upto
        spot = (unit.to(tl.int64) * KV_HEADS + head // GROUP) * ROWS + rank * GROUP + head % GROUP
        state = tl.load(lse + spot, mask=there, other=float("-inf"))
        part = tl.load(
            partial + spot[:, None] * DIM + dim[None, :], mask=there[:, None] & (dim < DIM)[None, :], other=0.0
        )
        high = tl.maximum(peak, tl.max(state, 0))
        base = tl.where(high == float("-inf"), 0.0, high)
        weight = tl.exp2(state - base)
        shrink = tl.exp2(peak - base)
        total = total * shrink + tl.sum(weight, 0)
        acc = acc * shrink + tl.sum(part * weight[:, None], 0)
        peak = high
    return peak, total, acc


@triton.jit(do_not_specialize=["items", "shared_items"])
def _merge_kernel(
    out: tl.tensor,
    own: tl.tensor,
    partial: tl.tensor,
    lse: tl.tensor,
    bounds: tl.tensor,
    items: tl.tensor,
    shared: tl.tensor,
    shared_partial: tl.tensor,
    shared_lse: tl.tensor,
    shared_bounds: tl.tensor,
    shared_items: tl.tensor,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    DIRECT: tl.constexpr,
) -> None:
    """Query row x head. `own` [2, rows]: the row's item and its place in it; `shared` likewise, -1 for none."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    rows = tl.num_programs(0)
    dim = tl.arange(0, BLOCK_D)
    item = tl.load(own + row)
    if item >= 0:
        since = tl.load(bounds + item)
        upto = tl.load(bounds + items + item)
        group = -1
        if SHARED_ROWS > 0:
            group = tl.load(shared + row)
        if not (DIRECT and upto - since == 1 and group < 0):
            peak = tl.full([], float("-inf"), tl.float32)
            total = tl.full([], 0.0, tl.float32)
            acc = tl.zeros([BLOCK_D], tl.float32)
            rank = tl.load(own + rows + row)
            peak, total, acc = _add_units(
                peak, total, acc, partial, lse, since, upto, head, rank,
                HEADS // GROUP, GROUP, DIM, BLOCK_D, ROWS, CHUNK,
            )  # fmt: skip
            if SHARED_ROWS > 0:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
                if group >= 0:
                    since = tl.load(shared_bounds + group)
                    upto = tl.load(shared_bounds + shared_items + group)
                    rank = tl.load(shared + rows + row)
                    peak, total, acc = _add_units(
                        peak, total, acc, shared_partial, shared_lse, since, upto, head, rank,
                        HEADS // GROUP, GROUP, DIM, BLOCK_D, SHARED_ROWS, CHUNK,
                    )  # fmt: skip
            acc = acc / tl.where(total > 0.0, total, 1.0)
            place = (row.to(tl.int64) * HEADS + head) * DIM + dim
            tl.store(out + place, acc.to(out.dtype.element_ty), mask=dim < DIM)


class Work:
    """Items of one launch, cut into units: what all layers of a forward pass share.

    items [ITEM_FIELDS, n] int32 on the device, read when `plan` runs: a CUDA graph replays it on new contents. Each KV
    head gets about `units_per_head` units, and never more than n + that; items shorter than `least` tokens stay whole.
    """

    def __init__(
        self,
        items: Tensor,
        q: Tensor,
        tiling: Tiling,
        *,
        kv_heads: int,
        units_per_head: int,
        least: int = 256,
        memory: Tensor | None = None,
    ) -> None:
        """q [rows, heads, D]: any tensor of that shape and device. `memory`: fp32, flat, for the partial results, where
        several works that never run at once share it."""
        dim = q.shape[2]
        count = items.shape[1]
        self.items, self.tiling, self.count = items, tiling, count
        self.capacity = count + units_per_head
        self.target, self.least = units_per_head, max(least, tiling.tokens)
        self.units = torch.empty(self.capacity, UNIT_FIELDS, dtype=torch.int32, device=q.device)
        self.bounds = torch.empty(2, count, dtype=torch.int32, device=q.device)
        spots = self.capacity * kv_heads * tiling.rows
        if memory is None:
            memory = torch.empty(spots * (dim + 1), dtype=torch.float32, device=q.device)
        assert memory.numel() >= spots * (dim + 1), "partial results need more memory"
        self.partial, self.lse = memory[: spots * dim], memory[spots * dim : spots * (dim + 1)]

    def plan(self) -> None:
        """Cut the items as they are now."""
        block_items = max(next_power_of_2(self.count), 16)
        block_units = max(4096 // block_items, 8)
        _plan_kernel[(triton.cdiv(self.capacity, block_units),)](
            self.items, self.units, self.bounds, self.count, self.capacity, self.target, self.least,
            TILE=self.tiling.tokens, BLOCK_ITEMS=block_items, BLOCK_UNITS=block_units, UNIT_FIELDS=UNIT_FIELDS,
        )  # fmt: skip


def members_per_item(tiling: Tiling, group: int) -> int:
    """Tokens or siblings whose query heads of one KV head fit the rows of a tile."""
    return tiling.rows // group


def attend(
    q: Tensor, kv: Tensor, tables: Tensor, work: Work, members: Tensor, out: Tensor, *, causal: bool, direct: bool
) -> None:
    """Compute the units of `work`: items of one unit from token 0 on go to `out` if `direct`, the rest to its partials.

    q, out [rows, heads, D]; kv [2, kv_heads, slots, D]; tables [*, width] int32; members int32, indices of rows that
    items' FIRST and COUNT refer to. Causal: member i of an item is at position START + i and sees nothing behind it.
    Raises `UnsupportedType`.
    """
    check_type(q, kv)
    _, heads, dim = q.shape
    kv_heads, slots = kv.shape[1], kv.shape[2]
    tiling = work.tiling
    _attend_kernel[(work.capacity, kv_heads)](
        q, kv, tables, work.units, members, out, work.partial, work.lse,
        tables.stride(0), slots * dim, math.log2(math.e) / math.sqrt(dim),
        CAUSAL=causal, DIRECT=direct, HEADS=heads, GROUP=heads // kv_heads, DIM=dim, BLOCK_D=next_power_of_2(dim),
        ROWS=tiling.rows, TILE=tiling.tokens, BLOCK_TOKENS=BLOCK_TOKENS, UNIT_FIELDS=UNIT_FIELDS, PRECISION="ieee",
        num_warps=tiling.warps, num_stages=tiling.stages,
    )  # fmt: skip


def merge(
    out: Tensor, work: Work, own: Tensor, kv_heads: int, *, direct: bool, shared: tuple[Work, Tensor] | None = None
) -> None:
    """Join the units of each row of out [rows, heads, D], where `attend` has not written it already (`direct`).

    own [2, rows] int32: each row's item (-1: the row is left as it is) and its place among the item's members; `shared`
    the same for a second `Work` whose tokens the row sees as well, -1 for none. Rows that see nothing become 0.
    """
    rows, heads, dim = out.shape
    other, places = shared if shared is not None else (work, own)
    _merge_kernel[(rows, heads)](
        out, own, work.partial, work.lse, work.bounds, work.count,
        places, other.partial, other.lse, other.bounds, other.count,
        HEADS=heads, GROUP=heads // kv_heads, DIM=dim, BLOCK_D=next_power_of_2(dim), ROWS=work.tiling.rows,
        SHARED_ROWS=0 if shared is None else other.tiling.rows, CHUNK=16, DIRECT=direct, num_warps=2,
    )  # fmt: skip


def reference(q: Tensor, kv: Tensor, tables: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Attention of query i, at positions[i] of the sequence of table rows[i], to every token up to it; in fp32.

    Position -1: no token, the result is 0. q [n, heads, D], kv [2, kv_heads, slots, D] -> [n, heads, D] fp32.
    """
    count, heads, dim = q.shape
    group = heads // kv.shape[1]
    out = torch.zeros(count, heads, dim, dtype=torch.float32, device=q.device)
    for index in range(count):
        token = torch.arange(int(positions[index]) + 1, device=q.device)
        if not token.numel():
            continue
        slots = tables[int(rows[index])].long()[token // BLOCK_TOKENS] * BLOCK_TOKENS + token % BLOCK_TOKENS
        keys, values = kv[:, :, slots].float().repeat_interleave(group, 1)
        scores = torch.einsum("hd,htd->ht", q[index].float(), keys) / math.sqrt(dim)
        out[index] = torch.einsum("ht,htd->hd", scores.softmax(1), values)
    return out
