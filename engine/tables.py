"""Sequences' block tables: how they grow, what is found instead of computed, listed, saved and brought back.

Knows tokens and blocks, and asks the scheduler for memory when there is none. Decides nothing about order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from engine.config import BLOCK_TOKENS
from engine.kv.blocks import Blocks, blocks_of
from engine.kv.cache import BlockCache, CopyKind
from engine.kv.prefix import ROOT, Digest
from engine.sequence import Sequence

MakeRoom = Callable[[Sequence, int], None]
"""Try to make so many device blocks available for a running sequence, at others' cost."""


class Tables:
    """The tables of all sequences over one cache. `owed`: blocks that those who run will still take, as expected.

    `copy_s_per_block` and `prefill_s_per_token` decide whether what must leave the device is copied or computed again.
    """

    def __init__(self, cache: BlockCache, make_room: MakeRoom) -> None:
        self._cache, self._make_room = cache, make_room
        self.owed = 0
        self.copy_s_per_block = 0.0
        self.prefill_s_per_token = 0.0

    def adopt(self, sequence: Sequence) -> None:
        """Go on with blocks that hold the next of the prompt already, on the device or on the host.

        The last token is always computed.
        """
        cache, table, first = self._cache, sequence.table, len(sequence.table)
        if sequence.computed != first * BLOCK_TOKENS:
            return
        limit = (len(sequence.tokens) - 1) // BLOCK_TOKENS
        found = cache.find(sequence.hashes, limit, sequence.path) if first == 0 else blocks_of()
        found = found or cache.device.index.run(sequence.hashes, first, limit)
        if found:
            cache.device.pool.refer(found)
            table.extend(found)
            if sequence.shared == first:
                sequence.shared = len(table)
        self._load(sequence, limit)
        if sequence.adopted == first:
            sequence.adopted = len(table)
        sequence.computed = len(table) * BLOCK_TOKENS
        if sequence.tail is not None:
            self._adopt_tail(sequence, *sequence.tail)
        self.owe(sequence, sequence.owed - len(table) + first)
        if not sequence.preemptions:
            sequence.cached_tokens += sequence.computed - first * BLOCK_TOKENS

    def grow(self, sequence: Sequence, count: int, *, owed: bool = True) -> bool:
        """Up to `count` more blocks for a running sequence, if need be from others. False: none, it must wait."""
        taken = self._cache.device.take(count)
        if taken is None:
            self._make_room(sequence, count)
            count = min(count, self._cache.device.pool.available)
            taken = self._cache.device.take(count) if count else None
            if taken is None:
                return False
        sequence.table.extend(taken)
        if owed and sequence.owed:
            self.owe(sequence, sequence.owed - count)
        return True

    def grow_in_turns(self, sequence: Sequence, count: int, turns: int) -> None:
        """`count` blocks more in each of so many turns, at once; there must be so many to be had."""
        sequence.table.extend(self._cache.device.take_in_turns(count, turns))
        self.owe(sequence, sequence.owed - count * turns)

    def grow_each(self, sequences: list[Sequence]) -> bool:
        """One more block for each of `sequences`. False, and nothing happens, if there are not so many to be had."""
        taken = self._cache.device.take(len(sequences))
        if taken is None:
            return False
        for sequence, block in zip(sequences, taken, strict=True):
            sequence.table.append(block)
            if sequence.owed:
                sequence.owed -= 1
                self.owed -= 1
        return True

    def publish(self, sequence: Sequence, first: int, end: int) -> int:
        """List full blocks of the sequence; those listed already take their place. Tokens that had been evicted."""
        table, block = sequence.table, sequence.table[first]
        again = self._cache.publish(table, sequence.hashes, first, end, sequence.program)
        if table[first] != block:
            sequence.synced = min(sequence.synced, first)
        return again

    def fill(self, sequence: Sequence, first: int) -> None:
        """List the blocks from `first` on that a decoding sequence has filled."""
        end = sequence.computed // BLOCK_TOKENS
        if end > first:
            sequence.hash_blocks()
            self.publish(sequence, first, end)

    def fill_each(self, sequences: list[Sequence], steps: int) -> None:
        """List the blocks that decoding sequences have filled with their last `steps` tokens."""
        blocks, above = blocks_of(), blocks_of()
        digests: list[Digest] = []
        parents: list[Digest] = []
        programs: list[str] = []
        for sequence in sequences:
            table, hashes, computed = sequence.table, sequence.hash_blocks(), sequence.computed
            first, end = (computed - steps) // BLOCK_TOKENS, computed // BLOCK_TOKENS
            if first:
                above.append(table[first - 1])
                parents.append(hashes[first - 1])
            else:
                parents.append(None)
            if end == first + 1:
                blocks.append(table[first])
                digests.append(hashes[first])
                programs.append(sequence.program)
            else:
                blocks += table[first:end]
                digests += hashes[first:end]
                parents += hashes[first : end - 1]
                programs += [sequence.program] * (end - first)
        if not self._cache.publish_new(blocks, digests, parents, programs, above):
            for sequence in sequences:
                self.fill(sequence, (sequence.computed - steps) // BLOCK_TOKENS)

    def publish_tail(self, sequence: Sequence) -> Digest | None:
        """Let the partial last block of what is computed be found; its name, or that of a full last block."""
        digest = sequence.tail_digest()
        full = sequence.computed // BLOCK_TOKENS
        if digest is None:
            return sequence.hashes[full - 1] if full else None
        if len(sequence.table) > full:
            self._cache.publish_tail(sequence.table[: full + 1], digest, sequence.program)
        return digest

    def forget(self, sequence: Sequence) -> None:
        """What `sequence` computed itself cannot be trusted: nobody shall find it again. Call before `end`."""
        for block in sequence.table[sequence.adopted : sequence.adopted + 1]:
            digest = self._cache.device.index.name(block)
            if digest is not None:
                self._cache.forget(digest)

    def save(self, sequence: Sequence) -> Blocks[int] | None:
        """Copies of a sequence's blocks on the host, held; None if there is no room or computing is cheaper."""
        full = sequence.computed // BLOCK_TOKENS
        digest = self.publish_tail(sequence)
        if digest is None:
            return None
        sequence.tail = (digest, sequence.computed)
        digests = sequence.hashes[:full]
        if sequence.computed % BLOCK_TOKENS:
            digests.append(digest)
        table = sequence.table[: len(digests)]
        copying_s = 2 * len(table) * self.copy_s_per_block
        if copying_s > sequence.computed * self.prefill_s_per_token or not self._cache.device.pool.all_listed(table):
            return None
        return self._cache.save(table, digests, sequence.program)

    def unsave(self, sequence: Sequence) -> None:
        """Let go of what is held on the host."""
        if sequence.saved:
            self._cache.host.pool.drop(sequence.saved)
            sequence.saved = blocks_of()

    def owe(self, sequence: Sequence, blocks: int) -> None:
        blocks = max(blocks, 0)
        self.owed += blocks - sequence.owed
        sequence.owed = blocks

    def check(self, sequences: Iterable[Sequence]) -> None:
        """Raise AssertionError unless all live `sequences` and nobody else hold what the pools say is held."""
        live = list(sequences)
        assert self.owed == sum(s.owed for s in live), "owed blocks are miscounted"
        for store, tables in (
            (self._cache.device, [s.table for s in live]),
            (self._cache.host, [s.saved for s in live]),
        ):
            held = Counter(block for table in tables for block in table)
            assert all(store.pool.refs(block) == count for block, count in held.items()), "references differ"
            assert store.pool.active == len(held), "a block is active without a sequence"

    def _load(self, sequence: Sequence, limit: int) -> None:
        """Bring the next full blocks from the host, if they are there."""
        table, host = sequence.table, self._cache.host
        sources = host.index.run(sequence.hashes, len(table), limit) if host.pool.total else None
        if sources:
            host.pool.refer(sources)
            self._make_room(sequence, len(sources))
            parent = table[-1] if table else ROOT
            loaded = self._cache.load(sequence.hashes, len(table), parent, sources, sequence.program)
            table.extend(loaded)
            # The device has them now, and brings them back when they leave it.
            host.pool.drop(sources[len(loaded) :])
            host.pool.drop(sources[: len(loaded)], spare=True)

    def _adopt_tail(self, sequence: Sequence, digest: Digest, tokens: int) -> None:
        """Go on in a partial block: in the block itself if nobody else is, else in a copy."""
        table = sequence.table
        usable = min(tokens, len(sequence.tokens) - 1)
        if (tokens - 1) // BLOCK_TOKENS != len(table) or usable <= sequence.computed:
            return
        for store, kind in (
            (self._cache.device, CopyKind.DEVICE_TO_DEVICE),
            (self._cache.host, CopyKind.HOST_TO_DEVICE),
        ):
            block = store.index.get(digest)
            if block is None:
                continue
            source = blocks_of((block,))
            alone = store is self._cache.device and not store.pool.refs(block) and tokens % BLOCK_TOKENS > 0
            store.pool.refer(source)  # nobody takes it meanwhile
            if alone:
                table.append(block)
            elif self.grow(sequence, 1, owed=False):
                self._cache.copy(kind, source, table[-1:])
                store.pool.drop(source)
            else:
                store.pool.drop(source)
                return
            sequence.computed = usable
            return
