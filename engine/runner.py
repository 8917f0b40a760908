"""Runs one step on the device: lays out the batch, the forward pass over paged KV, sampling. Decides nothing.

Owns the KV tensor and the block tables of running rows; the scheduler owns what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray

from engine.config import BLOCK_TOKENS
from engine.kv.cache import CopyKind
from engine.lora import ActiveAdapters, Adapter
from engine.models.decoder import Decoder
from engine.ops.torch_ops import Batch, Extend
from engine.protocol import Tier
from engine.sampler import sample_step
from engine.sequence import Sequence, blocks_for
from engine.step import Result, Step


class ModelRunner:
    """The model, its KV memory of `blocks` blocks, and one table row for each of `max_running` sequences.

    One more block than the pool knows is never written: it pads tables. Blocks hold zeros until they are written and
    are wiped after a numerical fault, so that what a mask hides is always finite.
    """

    copy_s_per_block = 0.0

    def __init__(
        self,
        decoder: Decoder[Batch],
        *,
        blocks: int,
        max_running: int,
        context_tokens: int,
        host_blocks: int = 0,
        adapters: ActiveAdapters | None = None,
    ) -> None:
        spec, like = decoder.spec, decoder.weights.embedding
        self._decoder = decoder
        self._adapters = adapters
        self._device = like.device
        self._padding = blocks
        self._kv = torch.zeros(
            (spec.layers, 2, spec.kv_heads, (blocks + 1) * BLOCK_TOKENS, spec.head_dim),
            dtype=like.dtype,
            device=like.device,
        )
        width = min(blocks, blocks_for(context_tokens))
        self._tables: NDArray[np.int64] = np.full((max_running, width), blocks, dtype=np.int64)
        block = (spec.layers, 2, spec.kv_heads, BLOCK_TOKENS, spec.head_dim)
        self._host = torch.zeros((host_blocks, *block), dtype=like.dtype)
        self._positions = torch.arange(width * BLOCK_TOKENS, device=like.device)

    @torch.inference_mode()
    def run(self, step: Step) -> Seq[Result]:
        """Compute the step's positions; the next token or tokens, or the error, of each of `step.sampled`."""
        if self._adapters is not None:
            self._adapters.set(_row_adapters(step), self._device)
        return sample_step(self._decoder.forward(self._batch(step), self._kv), step)

    @torch.inference_mode()
    def copy(self, kind: CopyKind, pairs: Seq[tuple[int, int]]) -> None:
        """Copy whole blocks between the tiers or within the device."""
        for source, target in pairs:
            if kind is CopyKind.DEVICE_TO_HOST:
                self._host[target].copy_(self._block(source))
            elif kind is CopyKind.HOST_TO_DEVICE:
                self._block(target).copy_(self._host[source])
            else:
                self._block(target).copy_(self._block(source))

    def contents(self, tier: Tier, block: int) -> bytes:
        """A block's bytes, in whichever tier it lies."""
        held = self._block(block) if tier is Tier.DEVICE else self._host[block]
        return held.contiguous().view(torch.uint8).cpu().numpy().tobytes()

    def _block(self, block: int) -> torch.Tensor:
        """A view of [layers, 2, kv_heads, 16, D]."""
        return self._kv[:, :, :, block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS]

    @torch.inference_mode()
    def wipe(self, blocks: Seq[int]) -> None:
        """Overwrite blocks whose contents may be NaN."""
        for block in blocks:
            self._block(block).zero_()

    def _batch(self, step: Step) -> Batch:
        decodes = step.decodes
        ids, positions, slots = [], [], []
        for sequence in decodes:
            if len(sequence.table) != sequence.synced:
                self._sync(sequence)
            position = sequence.computed
            ids.append(sequence.tokens[position])
            positions.append(position)
            slots.append(sequence.table[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS)
        extends, wanted = [], list(range(len(decodes)))
        for piece in step.pieces:
            sequence, start, end = piece.sequence, piece.start, piece.start + piece.count
            self._sync(sequence)
            table = self._tables[sequence.row]
            places = np.arange(start, end)
            first = len(ids)
            ids += sequence.tokens[start:end]
            ids += piece.draft
            positions += places.tolist()
            slots += (table[places // BLOCK_TOKENS] * BLOCK_TOKENS + places % BLOCK_TOKENS).tolist()
            blocks = torch.from_numpy(table[: blocks_for(end)]).to(self._device)
            extends.append(Extend(first, len(ids), start, blocks))
            if piece.draft:
                wanted += range(first, len(ids))
            elif end == len(sequence.tokens):
                wanted.append(len(ids) - 1)
        layout = torch.tensor((ids, positions, slots), device=self._device)
        longest = max(positions[: len(decodes)], default=-1) + 1
        blocks, mask = self._decode_tables(decodes, longest, layout[1])
        rows = None if len(wanted) == len(ids) else torch.tensor(wanted, dtype=torch.int64, device=self._device)
        return Batch(layout[0], layout[1], layout[2], len(decodes), blocks, longest, mask, tuple(extends), rows)

    def _decode_tables(
        self, decodes: Seq[Sequence], longest: int, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Blocks [B * n] of the decoding sequences, padded to the longest, and the mask [B, 1, 1, longest]."""
        width = blocks_for(longest)
        if len(decodes) == 1:
            return torch.tensor(decodes[0].table[:width], device=self._device), None
        rows = self._tables[[sequence.row for sequence in decodes], :width]
        hidden = self._positions[:longest] > positions[: len(decodes), None]
        mask = torch.zeros(hidden.shape, dtype=self._kv.dtype, device=self._device).masked_fill_(hidden, -math.inf)
        return torch.from_numpy(rows.reshape(-1)).to(self._device), mask[:, None, None]

    def _sync(self, sequence: Sequence) -> None:
        """Copy what changed of a sequence's table into its row."""
        row = self._tables[sequence.row]
        if sequence.synced == 0:
            row[:] = self._padding
        row[sequence.synced : len(sequence.table)] = sequence.table[sequence.synced :]
        sequence.synced = len(sequence.table)


def _row_adapters(step: Step) -> list[Adapter | None]:
    """The adapter of each row of a step's batch."""
    rows = [sequence.adapter for sequence in step.decodes]
    for piece in step.pieces:
        rows += [piece.sequence.adapter] * piece.count
    return rows
