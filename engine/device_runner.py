"""Runs steps on CUDA: kernels over paged KV, decodes as CUDA graphs, the next step begun before this one is read.

Owns the KV tensor, block tables and graphs; the scheduler owns what they mean. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.config import BLOCK_TOKENS
from engine.copies import BlockCopies
from engine.device_batch import BlockTables, DecodeLayout, Group, Shape, Uploads, bucket, extend_layout, sibling_groups
from engine.kv.cache import CopyKind
from engine.lora import ActiveAdapters
from engine.models.decoder import Decoder
from engine.ops.triton_ops import DeviceBatch
from engine.protocol import NumericalFault, Tier
from engine.sampler import is_greedy, sample_step
from engine.sequence import Sequence, blocks_for
from engine.step import Piece, Result, Step


@dataclass(slots=True)
class _Graph:
    """Decodes of one size: their inputs, and outputs that a replay overwrites. `graph` None: launched one by one."""

    layout: DecodeLayout
    graph: torch.cuda.CUDAGraph | None
    logits: Tensor
    tokens: Tensor


@dataclass(slots=True)
class _Launched:
    """Decodes on their way: of which sequences, at which positions; tokens [n] on the host once `event` is there."""

    sequences: list[Sequence]
    positions: list[int]
    rows: list[int]
    tokens: Tensor
    logits: Tensor
    event: torch.cuda.Event | None
    spared: dict[Sequence, int]
    """Sequences whose new position has no block yet, and the entry of the table that stands for it."""

    def read(self) -> list[int]:
        if self.event is not None:
            self.event.synchronize()
        values: list[int] = self.tokens.tolist()
        return values


class DeviceRunner:
    """The model, its KV memory, and one table row for each of `max_running` sequences.

    Run-ahead: behind a step of greedy decodes the same sequences' next one is launched at once, its ids taken from the
    device; if the scheduler asks for it next, it is under way already. Where a sequence's next position has no block
    yet, a spare block of its row stands for it and is copied. What was run ahead in vain wrote only to slots that are
    nobody's, and all later work is ordered behind it.

    Steps with pieces of prompts or with adapters are launched kernel by kernel; adapters never meet a graph.

    KV has blocks 0 .. blocks - 1 of the pool, one that pads tables, and one spare for each row.
    """

    def __init__(
        self,
        decoder: Decoder[DeviceBatch],
        *,
        blocks: int,
        max_running: int,
        context_tokens: int,
        host_blocks: int = 0,
        graphs: bool = True,
        run_ahead: bool = True,
        share_prefixes: bool = True,
        adapters: ActiveAdapters | None = None,
    ) -> None:
        spec, like = decoder.spec, decoder.weights.embedding
        device = like.device
        self._decoder, self._device, self._adapters = decoder, device, adapters
        self._places = torch.arange(bucket(max_running), device=device)
        self._context = context_tokens
        self._nobody, self._padding = max_running, blocks
        slots = (blocks + 1 + max_running) * BLOCK_TOKENS
        form = (spec.layers, 2, spec.kv_heads, slots, spec.head_dim)
        self._kv = torch.zeros(form, dtype=like.dtype, device=device)
        self._uploads = Uploads(device)
        self._tables = BlockTables(max_running, min(blocks, blocks_for(context_tokens)) + 1, blocks, device)
        self._copies = BlockCopies(self._kv, host_blocks, self._uploads)
        self._shape = Shape(spec, device, max_running, like.dtype)
        self._last = torch.zeros(max_running + 1, dtype=torch.int32, device=device)
        self._use_graphs = graphs and device.type == "cuda"
        self._run_ahead, self._share_prefixes = run_ahead, share_prefixes
        self._graphs: dict[tuple[int, bool], _Graph] = {}
        self._layouts: dict[int, DecodeLayout] = {}
        self._pool: Any = None
        self._ahead: _Launched | None = None
        self._grouped: tuple[list[Sequence], list[Group]] = ([], [])
        self._known = [0] * max_running
        self.copy_s_per_block = self._copies.measure() if host_blocks else 0.0

    @torch.inference_mode()
    def run(self, step: Step) -> Seq[Result]:
        """Compute the step's positions; the next token or tokens, or the error, of each of `step.sampled`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not _is_for(ahead, step.decodes):
            ahead = None
        self._sync_tables(step, ahead)
        if step.pieces or any(sequence.adapter is not None for sequence in step.decodes):
            return self._run_eager(step, ahead)
        launched = ahead or self._launch(step.decodes, [sequence.computed for sequence in step.decodes])
        greedy = all(map(is_greedy, step.decodes))
        if greedy and self._run_ahead:
            self._ahead = self._launch_ahead(step.decodes)
        if not greedy:
            return sample_step(launched.logits[: len(step.decodes)], step)
        return _results(launched, step.decodes)

    @torch.inference_mode()
    def contents(self, tier: Tier, block: int) -> bytes:
        """A block's bytes, in whichever tier it lies; waits for all copies."""
        self._copies.finish()
        slots = self._kv[:, :, :, block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS]
        held = slots.contiguous() if tier is Tier.DEVICE else self._copies.host[block]
        return held.view(torch.uint8).cpu().numpy().tobytes()

    def copy(self, kind: CopyKind, pairs: Seq[tuple[int, int]]) -> None:
        """Copy whole blocks between the tiers or within the device: enqueued, ordered with steps that use them."""
        if kind is CopyKind.DEVICE_TO_HOST:
            self._copies.to_host(pairs)
        elif kind is CopyKind.HOST_TO_DEVICE:
            self._copies.to_device(pairs)
        else:
            self._copies.within(pairs)

    @torch.inference_mode()
    def wipe(self, blocks: Seq[int]) -> None:
        """Overwrite blocks whose contents may be NaN."""
        self._copies.wait_for(blocks)
        for block in blocks:
            self._kv[:, :, :, block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS] = 0.0

    @torch.inference_mode()
    def warm_up(self, decodes: Seq[int]) -> None:
        """Compile and capture for these numbers of decodes now, rather than when they first come."""
        for count in sorted(decodes, reverse=True):
            self._graph(count, grouped=False)

    # decodes

    def _launch(self, sequences: list[Sequence], positions: list[int], spared: dict[Sequence, int] | None = None,
                *, known: bool = True) -> _Launched:  # fmt: skip
        """Enqueue one decode of each sequence. Not `known`: their ids are those sampled last on the device.

        Positions at the context's end are not run; nobody will ask for them.
        """
        rows = [sequence.row for sequence in sequences]
        ids = [s.tokens[at] for s, at in zip(sequences, positions, strict=True)] if known else [-1] * len(sequences)
        groups = self._groups(sequences)
        graph = self._graph(len(sequences), grouped=bool(groups))
        layout = graph.layout
        layout.fill(ids, [at if at < self._context else -1 for at in positions], rows)
        if groups:
            layout.group(groups)
        self._tables.flush(self._uploads)
        layout.send(self._uploads)
        if graph.graph is not None:
            graph.graph.replay()
        else:
            graph.logits, graph.tokens = self._decode(layout)
        tokens, event = graph.tokens[: len(sequences)], None
        if self._device.type == "cuda":
            host = torch.empty(len(sequences), dtype=torch.int32, pin_memory=True)
            tokens = host.copy_(tokens, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        else:
            tokens = tokens.clone()
        return _Launched(list(sequences), positions, rows, tokens, graph.logits, event, spared or {})

    def _launch_ahead(self, sequences: list[Sequence]) -> _Launched:
        """The decode behind the one under way."""
        spared: dict[Sequence, int] = {}
        for sequence in sequences:
            entry = (sequence.computed + 1) // BLOCK_TOKENS
            if entry >= len(sequence.table) and sequence.computed + 1 < self._context:
                spared[sequence] = entry
                self._tables.write(sequence.row, entry, [self._padding + 1 + sequence.row])
        return self._launch(sequences, [s.computed + 1 for s in sequences], spared, known=False)

    def _graph(self, count: int, *, grouped: bool) -> _Graph:
        """The captured decode of the least size that holds `count`; captured when it is first needed."""
        size = bucket(count)
        graph = self._graphs.get((size, grouped))
        if graph is None:
            self._set_adapters((), size, ())
            layout = DecodeLayout(self._shape, size, self._nobody, grouped=grouped)
            graph = self._capture(layout) if self._use_graphs else _Graph(layout, None, self._last, self._last)
            self._graphs[size, grouped] = graph
        return graph

    def _capture(self, layout: DecodeLayout) -> _Graph:
        """Record the launches of a decode. The layout is all padding then: nothing is written but to nobody's row."""
        # Kernels are compiled and libraries set up outside of the capture, as they may allocate and wait.
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            self._decode(layout)
        torch.cuda.current_stream(self._device).wait_stream(side)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits, tokens = self._decode(layout)
        if self._pool is None:
            self._pool = graph.pool()
        return _Graph(layout, graph, logits, tokens)

    def _decode(self, layout: DecodeLayout) -> tuple[Tensor, Tensor]:
        """Logits, and the most probable token of each row: -1 where the logits are not numbers."""
        batch = DeviceBatch(
            self._known_ids(layout),
            layout.device_positions,
            layout.device_rows,
            self._tables.device,
            layout.size,
            decode=layout.part,
            shared=layout.shared_part,
        )
        logits = self._decoder.forward(batch, self._kv)
        return logits, self._choose(logits, layout.device_rows)

    def _known_ids(self, layout: DecodeLayout) -> Tensor:
        last = self._last.index_select(0, layout.device_rows)
        return torch.where(layout.device_ids < 0, last, layout.device_ids)

    def _choose(self, logits: Tensor, rows: Tensor) -> Tensor:
        best, token = logits.max(1)
        token = torch.where(best.isfinite(), token, -1).to(torch.int32)
        self._last.index_copy_(0, rows.long(), token.clamp(min=0))
        return token

    # pieces of prompts

    def _run_eager(self, step: Step, ahead: _Launched | None) -> list[Result]:
        """Pieces, and the decodes unless they are under way already, in one pass, launched kernel by kernel."""
        decodes = step.decodes if ahead is None else []
        decode = None
        if decodes:
            decode = self._eager_layout(bucket(len(decodes)))
            positions = [sequence.computed for sequence in decodes]
            decode.fill([s.tokens[s.computed] for s in decodes], positions, [s.row for s in decodes])
            decode.send(self._uploads)
        self._tables.flush(self._uploads)
        first = 0 if decode is None else decode.size
        self._set_adapters(decodes, first, step.pieces)
        batch = self._eager_batch(step.pieces, decode, len(decodes))
        logits = self._decoder.forward(batch, self._kv)
        if ahead is None:
            return sample_step(logits, step)
        results = _results(ahead, step.decodes)
        return results + sample_step(logits, Step(pieces=step.pieces, sampled=step.sampled[len(results) :]))

    def _eager_batch(self, pieces: Seq[Piece], decode: DecodeLayout | None, decodes: int) -> DeviceBatch:
        tables, first = self._tables.device, 0
        wanted = list(range(decodes))
        if decode is not None:
            first = decode.size
            if not pieces:
                return DeviceBatch(
                    decode.device_ids[:first], decode.device_positions, decode.device_rows, tables, first,
                    decode=decode.part, wanted=self._places[:decodes],
                )  # fmt: skip
        end = first
        for piece in pieces:
            end += piece.count
            if piece.draft:
                wanted += range(end - piece.count, end)
            elif piece.start + piece.count == len(piece.sequence.tokens):
                wanted.append(end - 1)
        laid = [(_ids(piece), piece.start, piece.sequence.row) for piece in pieces]
        extend = extend_layout(self._shape, laid, wanted, self._uploads)
        if decode is None:
            return DeviceBatch(
                extend.ids, extend.positions, extend.rows, tables, 0, extend=extend.part, wanted=extend.wanted
            )
        return DeviceBatch(
            torch.cat((decode.device_ids, extend.ids)),
            torch.cat((decode.device_positions, extend.positions)),
            torch.cat((decode.device_rows, extend.rows)),
            tables,
            first,
            decode=decode.part,
            extend=extend.part,
            wanted=extend.wanted,
        )

    def _set_adapters(self, decodes: Seq[Sequence], size: int, pieces: Seq[Piece]) -> None:
        """Which adapter each row of an eager pass goes through; none those that pad."""
        if self._adapters is None:
            return
        rows = [sequence.adapter for sequence in decodes] + [None] * (size - len(decodes))
        for piece in pieces:
            rows += [piece.sequence.adapter] * piece.count
        self._adapters.set(rows, self._device)

    def _eager_layout(self, size: int) -> DecodeLayout:
        layout = self._layouts.get(size)
        if layout is None:
            layout = self._layouts[size] = DecodeLayout(self._shape, size, self._nobody, grouped=False)
        return layout

    # tables

    def _sync_tables(self, step: Step, ahead: _Launched | None) -> None:
        """Bring what changed of tables to their rows; what was run ahead into a spare block goes to its own."""
        spared = {} if ahead is None else ahead.spared
        moves: list[tuple[int, int]] = []
        for sequence in step.decodes:
            if len(sequence.table) != sequence.synced:
                self._sync(sequence)
            entry = spared.get(sequence)
            if entry is not None:
                moves.append((self._padding + 1 + sequence.row, sequence.table[entry]))
        for piece in step.pieces:
            self._sync(piece.sequence)
        self._copies.within(moves)

    def _sync(self, sequence: Sequence) -> None:
        """Copy what changed of a sequence's table into its row, behind copies of those blocks that are in flight."""
        if sequence.synced < self._known[sequence.row]:
            self._grouped = ([], [])  # the row is another's now, or blocks were exchanged for equal ones
        changed = sequence.table[sequence.synced :]
        if len(changed):
            self._copies.wait_for(changed)
            self._tables.write(sequence.row, sequence.synced, changed)
        sequence.synced = self._known[sequence.row] = len(sequence.table)

    def _groups(self, sequences: list[Sequence]) -> list[Group]:
        """Siblings among the sequences; found again only when others decode."""
        if not self._share_prefixes or len(sequences) < 4:
            return []
        if self._grouped[0] != sequences:
            rows = [sequence.row for sequence in sequences]
            groups = sibling_groups(self._tables.host[rows], [sequence.computed for sequence in sequences])
            self._grouped = (list(sequences), groups)
        return self._grouped[1]


def _ids(piece: Piece) -> list[int]:
    return [*piece.sequence.tokens[piece.start : piece.start + piece.count], *piece.draft]


def _is_for(launched: _Launched, sequences: list[Sequence]) -> bool:
    """Whether what was launched holds these sequences' next decodes."""
    if launched.sequences == sequences:
        pairs = zip(sequences, launched.positions, launched.rows, strict=True)
        return all(sequence.computed == at and sequence.row == row for sequence, at, row in pairs)
    places = {sequence: index for index, sequence in enumerate(launched.sequences)}
    for sequence in sequences:
        index = places.get(sequence)
        if index is None or launched.positions[index] != sequence.computed or launched.rows[index] != sequence.row:
            return False
    return bool(sequences)


def _results(launched: _Launched, sequences: list[Sequence]) -> list[Result]:
    """The tokens of these of the launched sequences."""
    tokens = launched.read()
    if launched.sequences != sequences:
        places = {sequence: index for index, sequence in enumerate(launched.sequences)}
        tokens = [tokens[places[sequence]] for sequence in sequences]
    fault = "the model's logits are NaN or infinite"
    return [token if token >= 0 else NumericalFault(fault) for token in tokens]
