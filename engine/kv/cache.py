"""The KV cache as the scheduler sees it: blocks for sequences, found again by prefix, kept by leases.

Joins the pool (who holds), the index (what is inside) and the leases (until when). Never touches tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.clock import Clock
from engine.config import BLOCK_TOKENS
from engine.kv.blocks import BlockPool
from engine.kv.leases import LeaseTable
from engine.kv.prefix import ROOT, PrefixIndex, extend_chain
from engine.protocol import EngineEvent, EngineEventKind


class BlockCache:
    """Hands out blocks and takes them back; `events` collects what changed until someone drains it.

    Invariants (`check`): those of the pool, the index and the leases; and a block is listed in the index if it is
    cached or leased, since nothing else could find it again.
    """

    def __init__(
        self, total: int, clock: Clock, *, lease_blocks: int = 0, max_ttl_s: float = 0.0, block_bytes: int = 1
    ) -> None:
        self.pool = BlockPool(total)
        self.index = PrefixIndex(total)
        self.leases = LeaseTable(
            self.pool, self.index, clock, budget=lease_blocks, max_ttl_s=max_ttl_s, block_bytes=block_bytes
        )
        self._changes: dict[tuple[EngineEventKind, str], int] = {}

    @property
    def available(self) -> int:
        """Blocks that can be had without hurting anyone: free and cached."""
        return self.pool.free + self.pool.cached

    def take(self, *, may_break_leases: bool) -> int | None:
        """A block to write: free, else the least recently used cached one, else, if allowed, a broken lease's."""
        block = self.pool.take()
        while block is None:
            if self.pool.cached:
                self._evict()
            elif not (may_break_leases and self.leases.break_one()):
                return None
            block = self.pool.take()
        return block

    def adopt(self, digest: bytes) -> int | None:
        """The block that already holds this prefix, now also held by the caller; None if there is none."""
        block = self.index.get(digest)
        if block is not None:
            self.pool.refer(block)
        return block

    def publish(self, block: int, digest: bytes, parent: int, program: str) -> int:
        """Let others find a held, full block. Returns the block to hold from now on.

        It is another one if the same prefix is already listed: then `block` is given back and the caller holds the
        listed one instead, so that the lineage stays a tree of single blocks. A block whose parent was forgotten stays
        private.
        """
        if parent != ROOT and parent not in self.index:
            return block
        listed = self.index.get(digest)
        if listed is None:
            self.index.insert(block, digest, parent, program)
            self._count(EngineEventKind.STORED, program)
            return block
        if listed != block:
            self.pool.refer(listed)
            self.pool.drop(block, keep=False)
        return listed

    def release(self, table: Sequence[int]) -> None:
        """A sequence lets go of its chain, from the tail."""
        for block in reversed(table):
            self.pool.drop(block, keep=block in self.index)

    def forget(self, block: int) -> None:
        """Make sure that nobody finds `block` again, nor anything computed from it. Leases on them are broken."""
        if block not in self.index:
            return
        for node in list(self.index.subtree(block)):
            while self.pool.is_leased(node):
                self.leases.break_holder(node)
            program = self.index.program(node)
            self.index.remove(node)
            self._count(EngineEventKind.EVICTED, program)
            if self.pool.is_cached(node):
                self.pool.evict(node)

    def cached_blocks(self, hashes: Sequence[bytes], tokens: int) -> tuple[int, int]:
        """(blocks of the chain that are here, those of them that nobody holds). The last token is always computed."""
        found = self.index.match(hashes, (tokens - 1) // BLOCK_TOKENS)
        return len(found), sum(map(self.pool.is_cached, found))

    def chain(self, tokens: Sequence[int], salt: str) -> list[int]:
        """The resident blocks of a token chain, from its root."""
        hashes: list[bytes] = []
        extend_chain(hashes, tokens, salt)
        return self.index.match(hashes, len(hashes))

    def drain_events(self) -> list[EngineEvent]:
        """What changed since the last call, blocks summed by program."""
        if not self._changes and not self.leases.events:
            return []
        events = [EngineEvent(kind, program, count) for (kind, program), count in self._changes.items()]
        events += self.leases.events
        self._changes.clear()
        self.leases.events.clear()
        return events

    def _evict(self) -> None:
        block = self.pool.next_evicted()
        assert block is not None
        program = self.index.program(block)
        self.index.remove(block)
        self.pool.evict(block)
        self._count(EngineEventKind.EVICTED, program)

    def _count(self, kind: EngineEventKind, program: str) -> None:
        change = (kind, program)
        self._changes[change] = self._changes.get(change, 0) + 1

    def check(self) -> None:
        """Raise AssertionError unless all invariants hold."""
        self.pool.check()
        self.index.check()
        self.leases.check()
        for block in range(self.pool.total):
            if self.pool.is_cached(block) or self.pool.is_leased(block):
                assert block in self.index, "a kept block cannot be found"
