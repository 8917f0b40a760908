"""Lays out a step for the device: block tables kept there, the inputs of decodes and of prompts' pieces, siblings.

Owns no KV and launches no kernel; everything is int32 in flat buffers, one copy to the device each.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import BLOCK_TOKENS, ModelSpec
from engine.ops.launch import multiprocessors
from engine.ops.paged_attention import (
    DECODE,
    EXACT,
    EXTEND,
    EXTEND_SMALL,
    ITEM_FIELDS,
    SHARED,
    Tiling,
    Work,
    members_per_item,
)
from engine.ops.triton_ops import Part

Ints = NDArray[np.int32]
UNITS_PER_SM = 8
"""Units that all KV heads together are cut into, for each multiprocessor: enough that the last ones hardly matter."""
UNSPLIT = 1 << 30
_MANY_TOKENS = 1024
_LEAST_SIBLINGS = 4
_LEAST_SHARED_BLOCKS = 512 // BLOCK_TOKENS


class Uploads:
    """Pinned buffers, used in turn, through which arrays go to the device without waiting for it."""

    def __init__(self, device: torch.device, turns: int = 4) -> None:
        self._device = device
        self._pinned = device.type == "cuda"
        self._turns = turns
        self._buffers: dict[int, list[tuple[Tensor, torch.cuda.Event | None]]] = {}

    def send(self, values: Ints, into: Tensor | None = None) -> Tensor:
        """A flat int32 array on the device: in `into`, of that length, or in new memory."""
        if not self._pinned:
            source = torch.from_numpy(values.copy())
            return source if into is None else into.copy_(source)
        size = 1 << max(len(values) - 1, 63).bit_length()
        ring = self._buffers.setdefault(size, [])
        if len(ring) < self._turns:
            buffer, event = torch.empty(size, dtype=torch.int32, pin_memory=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
        else:
            buffer, last = ring.pop(0)
            assert last is not None
            last.synchronize()
            event = last
        piece = buffer[: len(values)]
        piece.numpy()[:] = values
        target = torch.empty(len(values), dtype=torch.int32, device=self._device) if into is None else into
        target.copy_(piece, non_blocking=True)
        event.record()
        ring.append((buffer, event))
        return target


class BlockTables:
    """The block table of each row, on the device and here: only what changed is sent.

    The row behind the last is nobody's: rows that pad a batch point at it. So is the block `padding` in all tables.
    """

    def __init__(self, rows: int, width: int, padding: int, device: torch.device) -> None:
        self.host: Ints = np.full((rows + 1, width), padding, dtype=np.int32)
        self.device = torch.from_numpy(self.host.copy()).to(device)
        self._changes: list[tuple[int, int, Ints]] = []

    def write(self, row: int, first: int, blocks: Seq[int] | Ints) -> None:
        """Blocks of `row` from entry `first` on."""
        values = np.asarray(blocks, dtype=np.int32)
        self.host[row, first : first + len(values)] = values
        self._changes.append((row, first, values))

    def flush(self, uploads: Uploads) -> None:
        """Bring the changes to the device, behind what was launched before."""
        if not self._changes:
            return
        width = self.host.shape[1]
        places = np.concatenate(
            [np.arange(len(v), dtype=np.int32) + (row * width + at) for row, at, v in self._changes]
        )
        values = np.concatenate([values for _, _, values in self._changes])
        # Later changes win: of equal places only the last is sent, since a scatter has no order.
        last = len(places) - 1 - np.unique(places[::-1], return_index=True)[1]
        sent = uploads.send(np.concatenate((places[last], values[last])))
        self.device.view(-1)[sent[: len(last)].long()] = sent[len(last) :]
        self._changes.clear()


@dataclass(frozen=True, slots=True)
class Group:
    """Decodes of a batch (their indices) whose first `blocks` blocks are the same."""

    members: tuple[int, ...]
    blocks: int


def sibling_groups(tables: Ints, tokens: Seq[int]) -> list[Group]:
    """Disjoint groups of >= 4 rows of tables [n, width] with >= 512 tokens in common, that save the most reads.

    tokens [n]: how many each row has. At each branching of the tree of prefixes: all together on what all share, or
    each branch for itself on more.
    """

    def best(rows: NDArray[np.intp]) -> tuple[int, list[Group]]:
        limit = int(full[rows].min())
        equal = (tables[rows, :limit] == tables[rows[0], :limit]).all(0)
        common = limit if equal.all() else int(equal.argmin())
        saved = common * (len(rows) - 1) if common >= _LEAST_SHARED_BLOCKS else 0
        whole = [Group(tuple(rows.tolist()), common)] if saved else []
        longer = rows[full[rows] > common]
        saved_apart, apart = 0, []
        for block in np.unique(tables[longer, common]) if len(longer) >= _LEAST_SIBLINGS else ():
            branch = longer[tables[longer, common] == block]
            if len(branch) >= _LEAST_SIBLINGS:
                more, groups = best(branch)
                saved_apart += more
                apart += groups
        return (saved, whole) if saved >= saved_apart else (saved_apart, apart)

    full = np.asarray(tokens, dtype=np.int64) // BLOCK_TOKENS
    rows = np.flatnonzero(full >= _LEAST_SHARED_BLOCKS)
    found: list[Group] = []
    for block in np.unique(tables[rows, 0]):
        branch = rows[tables[rows, 0] == block]
        if len(branch) >= _LEAST_SIBLINGS:
            found += best(branch)[1]
    return found


def _carve(count: int, shapes: Seq[tuple[int, ...]]) -> tuple[list[slice], int]:
    """Places of arrays of these shapes in one flat array from `count` on, each on 16 bytes; and where it ends."""
    places = []
    for shape in shapes:
        size = int(np.prod(shape))
        places.append(slice(count, count + size))
        count += -(-size // 4) * 4
    return places, count


def bucket(count: int) -> int:
    """The size that `count` decodes are padded to: 1, 2, 4, then multiples of 8 (of 16 from 128, of 32 from 256)."""
    if count <= 4:
        return 1 << max(count - 1, 0).bit_length()
    step = 8 if count <= 128 else 16 if count <= 256 else 32
    return -(-count // step) * step


class Shape:
    """What the layouts of one model on one device have in common, and the memory for partial results they share."""

    def __init__(
        self, spec: ModelSpec, device: torch.device, max_running: int, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        self.kv_heads, self.group = spec.kv_heads, spec.heads // spec.kv_heads
        self.device, self._exact = device, dtype == torch.float32
        self.units_per_head = max(UNITS_PER_SM * multiprocessors(device) // spec.kv_heads, 1)
        self.full_grid = 2 * multiprocessors(device)
        self.query = torch.empty(0, spec.heads, spec.head_dim, device=device)
        self.decode_tiling = self.fit(DECODE)
        self.shared_tiling = self.fit(SHARED)
        most = bucket(max_running)
        self._memory = [
            self._partials(most, self.decode_tiling),
            self._partials(self.shared_items(most), self.shared_tiling),
        ]

    def fit(self, tiling: Tiling) -> Tiling:
        """More rows where one token's query heads of a KV head are more than the tile's; small tiles for fp32."""
        if self._exact:
            tiling = EXACT
        rows = max(tiling.rows, 1 << (self.group - 1).bit_length())
        return Tiling(rows, tiling.tokens, tiling.warps, tiling.stages)

    def _partials(self, items: int, tiling: Tiling) -> Tensor:
        spots = (items + self.units_per_head) * self.kv_heads * tiling.rows
        return torch.empty(spots * (self.query.shape[2] + 1), device=self.device)

    def shared_items(self, rows: int) -> int:
        """Items that siblings among `rows` decodes can make at most."""
        return max(rows // min(_LEAST_SIBLINGS, members_per_item(self.shared_tiling, self.group)), 1)

    def work(self, items: Tensor, tiling: Tiling, memory: int | None = None, least: int = 256) -> Work:
        """`memory`: which of the shared buffers its partials may use; new ones if None."""
        return Work(
            items,
            self.query,
            tiling,
            kv_heads=self.kv_heads,
            units_per_head=self.units_per_head,
            least=least,
            memory=None if memory is None else self._memory[memory],
        )


class DecodeLayout:
    """The inputs of up to `size` decodes, padded, in static device memory; `grouped`: with shared prefixes."""

    def __init__(self, shape: Shape, size: int, nobody: int, *, grouped: bool) -> None:
        """`nobody`: the row of the tables that padding points at."""
        self.size, self.grouped = size, grouped
        self._shape = shape
        self._shared = shape.shared_items(size) if grouped else 0
        shapes: list[tuple[int, ...]] = [(size,), (size,), (size,), (ITEM_FIELDS, size)]
        if grouped:
            shapes += [(ITEM_FIELDS, self._shared), (2, size), (size,)]
        places, end = _carve(0, shapes)
        self._host: Ints = np.zeros(end, dtype=np.int32)
        self._device = torch.zeros(end, dtype=torch.int32, device=shape.device)
        host = [self._host[place].reshape(form) for place, form in zip(places, shapes, strict=True)]
        self.ids, self.positions, self.rows, self._items = host[:4]
        self.rows[:], self.positions[:] = nobody, -1
        self._items[0] = np.arange(size)
        device = [self._device[place].view(form) for place, form in zip(places, shapes, strict=True)]
        self.device_ids, self.device_positions, self.device_rows = device[:3]
        members = torch.arange(size, dtype=torch.int32, device=shape.device)
        own = torch.stack((members, torch.zeros_like(members)))
        self.part = Part(shape.work(device[3], shape.decode_tiling, 0), own, members)
        self.shared_part: Part | None = None
        if grouped:
            self._group_items, self._group_places, self._group_members = host[4:]
            self._group_places[0] = -1
            self.shared_part = Part(shape.work(device[4], shape.shared_tiling, 1), device[5], device[6])
        self._nobody = nobody
        self._device.copy_(torch.from_numpy(self._host.copy()))

    def fill(self, ids: Seq[int] | Ints, positions: Seq[int] | Ints, rows: Seq[int] | Ints) -> None:
        """The decodes: id (-1: the one sampled last in its row), position (-1: none) and row of each."""
        count = len(rows)
        self.ids[:count], self.positions[:count], self.rows[:count] = ids, positions, rows
        self.ids[count:], self.positions[count:], self.rows[count:] = 0, -1, self._nobody
        self._items[1] = self.positions >= 0
        self._items[2] = self.rows
        self._items[4] = self.positions + 1
        if not self.grouped:
            self._items[3] = 0

    def group(self, groups: Seq[Group]) -> None:
        """Which of the decodes are siblings; call after `fill`, whose rows name the groups' tables."""
        most = members_per_item(self._shape.shared_tiling, self._shape.group)
        self._items[3] = 0
        self._group_items[:] = 0
        self._group_places[0] = -1
        item = first = 0
        for group in groups:
            for start in range(0, len(group.members), most):
                members = np.asarray(group.members[start : start + most])
                end = first + len(members)
                self._group_members[first:end] = members
                row = self.rows[members[0]]
                self._group_items[:, item] = (first, len(members), row, 0, group.blocks * BLOCK_TOKENS, 0)
                self._group_places[0, members], self._group_places[1, members] = item, np.arange(len(members))
                self._items[3, members] = group.blocks * BLOCK_TOKENS
                item, first = item + 1, end

    def send(self, uploads: Uploads) -> None:
        """Bring all of it to the device, behind what was launched before."""
        uploads.send(self._host, self._device)


@dataclass(frozen=True, slots=True)
class ExtendLayout:
    """Pieces of prompts on the device: ids, positions, rows [tokens] int32, their work, and the wanted rows."""

    ids: Tensor
    positions: Tensor
    rows: Tensor
    part: Part
    wanted: Tensor


def extend_layout(
    shape: Shape, pieces: Seq[tuple[Seq[int], int, int]], wanted: Seq[int], uploads: Uploads
) -> ExtendLayout:
    """Pieces are (ids, position of the first, row); `wanted` goes to the device with them.

    Items are tiles of consecutive queries, the longest first: they take about equal turns on the multiprocessors. Few
    tiles are cut along their tokens as decodes are; many are not, and need no merging.
    """
    tokens = sum(len(ids) for ids, _, _ in pieces)
    tiling = EXTEND if tokens >= _MANY_TOKENS else EXTEND_SMALL
    tiling = shape.fit(tiling)
    step = members_per_item(tiling, shape.group)
    ids = np.fromiter((token for piece in pieces for token in piece[0]), dtype=np.int32, count=tokens)
    positions, rows = np.empty(tokens, dtype=np.int32), np.empty(tokens, dtype=np.int32)
    columns: list[tuple[int, ...]] = []
    first = 0
    for piece, start, row in pieces:
        count = len(piece)
        positions[first : first + count] = np.arange(start, start + count)
        rows[first : first + count] = row
        for at in range(0, count, step):
            size = min(step, count - at)
            columns.append((first + at, size, row, 0, start + at + size, start + at))
        first += count
    columns.sort(key=lambda column: -column[4])
    items = np.array(columns, dtype=np.int32).T
    places = np.empty((2, tokens), dtype=np.int32)
    for index, column in enumerate(columns):
        span = slice(column[0], column[0] + column[1])
        places[0, span], places[1, span] = index, np.arange(column[1])
    arrays = (
        ids,
        positions,
        rows,
        items,
        places,
        np.asarray(wanted, dtype=np.int32),
        np.arange(tokens, dtype=np.int32),
    )
    slices, end = _carve(0, [array.shape for array in arrays])
    flat = np.zeros(end, dtype=np.int32)
    for place, array in zip(slices, arrays, strict=True):
        flat[place] = array.reshape(-1)
    sent = uploads.send(flat)
    views = [sent[place].view(array.shape) for place, array in zip(slices, arrays, strict=True)]
    split = len(columns) * shape.kv_heads < shape.full_grid
    work = shape.work(views[3], tiling, least=256 if split else UNSPLIT)
    return ExtendLayout(views[0], views[1], views[2], Part(work, views[4], views[6], split), views[5])
