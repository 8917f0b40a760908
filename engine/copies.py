"""Copies of blocks: device to host and back on streams of their own, and within the device. In order with steps.

Owns the host's block memory and knows which blocks are in flight. Decides nothing about what is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from engine.device_batch import Uploads
from engine.ops.blocks import copy_blocks, gather_blocks, planes_of, scatter_blocks

Pairs = Seq[tuple[int, int]]
STAGED_BYTES = 64 << 20
"""Device memory that a copy packs blocks into, at a time: enough for full speed over the bus."""


class BlockCopies:
    """Each direction has a stream of its own, so that demotes and prefetches overlap each other and the steps.

    A copy sees what all steps and copies before it wrote. A later step waits for it only if it uses a block that the
    copy reads or writes: `wait_for`. Host memory is [host_blocks, planes * 16 * D], pinned on CUDA.
    """

    def __init__(self, kv: Tensor, host_blocks: int, uploads: Uploads) -> None:
        """kv [layers, 2, kv_heads, slots, D]. Raises RuntimeError if the host has no such memory."""
        planes, size = planes_of(kv)
        self._kv, self._uploads = kv, uploads
        cuda = kv.device.type == "cuda"
        self.host = torch.empty(host_blocks, planes * size, dtype=kv.dtype, pin_memory=cuda and host_blocks > 0)
        self._staged = max(STAGED_BYTES // (planes * size * kv.element_size()), 1)
        self._out = torch.cuda.Stream(kv.device) if cuda else None  # type: ignore[no-untyped-call]
        self._in = torch.cuda.Stream(kv.device) if cuda else None  # type: ignore[no-untyped-call]
        self._device_busy: dict[int, torch.cuda.Event] = {}
        self._host_busy: dict[int, torch.cuda.Event] = {}

    def to_host(self, pairs: Pairs) -> None:
        """Copy device block to host block, for each pair."""
        pairs = sorted(pairs, key=lambda pair: pair[1])
        with self._on(self._out, [source for source, _ in pairs], [target for _, target in pairs]):
            for part in _parts(pairs, self._staged):
                packed = self._packed(len(part))
                gather_blocks(self._kv, self._ids(source for source, _ in part), packed)
                for at, first, count in _runs([target for _, target in part]):
                    self.host[first : first + count].copy_(packed[at : at + count], non_blocking=True)

    def to_device(self, pairs: Pairs) -> None:
        """Copy host block to device block, for each pair."""
        pairs = sorted(pairs)
        with self._on(self._in, [target for _, target in pairs], [source for source, _ in pairs]):
            for part in _parts(pairs, self._staged):
                packed = self._packed(len(part))
                for at, first, count in _runs([source for source, _ in part]):
                    packed[at : at + count].copy_(self.host[first : first + count], non_blocking=True)
                scatter_blocks(self._kv, self._ids(target for _, target in part), packed)

    def within(self, pairs: Pairs) -> None:
        """Copy device block to device block, for each pair, in the stream of the steps."""
        if not pairs:
            return
        self.wait_for(block for pair in pairs for block in pair)
        both = self._uploads.send(np.asarray(pairs, dtype=np.int32).T.reshape(-1))
        copy_blocks(self._kv, both.view(2, -1))

    def wait_for(self, blocks: Iterable[int]) -> None:
        """What is launched from now on runs after the copies that read or write these device blocks."""
        if not self._device_busy:
            return
        for event in {id(e): e for e in map(self._device_busy.get, blocks) if e is not None}.values():
            torch.cuda.current_stream(self._kv.device).wait_event(event)

    def measure(self) -> float:
        """Seconds a block takes from the host, measured on memory of no one; 0 where copies are not asynchronous."""
        if self._in is None:
            return 0.0
        count = min(self._staged, self.host.shape[0])
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        target = self._packed(count)
        for _ in range(2):  # the first touches the memory
            begun.record()
            target.copy_(self.host[:count], non_blocking=True)
            done.record()
        done.synchronize()
        return float(begun.elapsed_time(done)) / 1e3 / count

    def finish(self) -> None:
        """Wait until every copy is done."""
        for stream in (self._out, self._in):
            if stream is not None:
                stream.synchronize()
        self._forget_done()

    @contextmanager
    def _on(self, stream: torch.cuda.Stream | None, blocks: list[int], slots: list[int]) -> Iterator[None]:
        """Launch on `stream`, behind the steps and whatever else is in flight for these device and host blocks."""
        if stream is None:
            yield
            return
        self._forget_done()
        stream.wait_stream(torch.cuda.current_stream(self._kv.device))
        before = [self._device_busy.get(block) for block in blocks] + [self._host_busy.get(slot) for slot in slots]
        for event in {id(e): e for e in before if e is not None}.values():
            stream.wait_event(event)
        with torch.cuda.stream(stream):
            yield
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(stream)
        self._device_busy.update(dict.fromkeys(blocks, done))
        self._host_busy.update(dict.fromkeys(slots, done))

    def _forget_done(self) -> None:
        for busy in (self._device_busy, self._host_busy):
            done = {id(event) for event in set(busy.values()) if _is_done(event)}
            for key in [key for key, event in busy.items() if id(event) in done]:
                del busy[key]

    def _packed(self, blocks: int) -> Tensor:
        # Freed when its last user is launched: the allocator gives it out again only on the same stream, in order.
        return torch.empty(blocks, self.host.shape[1], dtype=self._kv.dtype, device=self._kv.device)

    def _ids(self, blocks: Iterable[int]) -> Tensor:
        return self._uploads.send(np.fromiter(blocks, dtype=np.int32))


def _is_done(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]


def _parts(pairs: Pairs, size: int) -> Iterator[Pairs]:
    for first in range(0, len(pairs), size):
        yield pairs[first : first + size]


def _runs(blocks: Seq[int]) -> Iterator[tuple[int, int, int]]:
    """(index, first block, count) of each stretch of consecutive blocks."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or blocks[index] != blocks[index - 1] + 1:
            yield start, blocks[start], index - start
            start = index
