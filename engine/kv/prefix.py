"""What full blocks contain: a chained hash per block, and the lineage (parent and children) of the blocks kept.

A hash names a block's tokens and everything before them, under a salt; equal hashes mean equal KV.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Hashable, Sequence
from contextlib import suppress
from hashlib import blake2b
from itertools import repeat, takewhile
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.config import BLOCK_TOKENS
from engine.kv.blocks import Blocks, Places, blocks_of, places_of

Digest = Hashable
"""The name of a block's contents and of all that comes before it: a hash of a full block, a tuple for a partial one."""

ROOT = -1
_GONE = -1
"""Where a digest's block would stand, once that was removed."""
_REMEMBERED = 4
"""So many times the blocks of the tier are remembered after they were removed; then half of them."""
_block_bytes = Struct(f"={BLOCK_TOKENS}i").pack


class KeyedTokens:
    """Tokens that know their blocks' names without being spelled out: those of simulated prompts."""

    def extend_keys(self, hashes: list[Any], salt: str) -> None:
        """Append the names of the full blocks that `hashes` lacks; equal names mean equal tokens from the root on."""
        raise NotImplementedError


def extend_chain(hashes: list[Any], tokens: Sequence[int] | KeyedTokens, salt: str) -> None:
    """Append the hashes of the full blocks of `tokens` that `hashes` lacks.

    Hash of block i = BLAKE2b-128(hash of block i - 1, or of the salt; the block's ids as int32).
    """
    if isinstance(tokens, KeyedTokens):
        tokens.extend_keys(hashes, salt)
        return
    end = len(tokens) - BLOCK_TOKENS
    first = len(hashes) * BLOCK_TOKENS
    if first > end:
        return
    parent = hashes[-1] if hashes else blake2b(salt.encode(), digest_size=16).digest()
    while first <= end:
        block = _block_bytes(*tokens[first : first + BLOCK_TOKENS])
        parent = blake2b(parent + block, digest_size=16).digest()
        hashes.append(parent)
        first += BLOCK_TOKENS


def tail_digest(hashes: Sequence[Digest], tokens: Sequence[int], computed: int, salt: str) -> Digest | None:
    """The name of the partial last block of the first `computed` tokens; None if they end with a block."""
    full = computed // BLOCK_TOKENS
    if computed == full * BLOCK_TOKENS:
        return None
    return (hashes[full - 1] if full else salt, *tokens[full * BLOCK_TOKENS : computed])


class PrefixIndex:
    """Finds blocks of one tier by digest and knows the tree they form.

    Invariant, `check()`: a block is listed under exactly one digest. If the index is `closed`, its parent is listed
    too, or it is a root: what is resident of a chain is a prefix of it, and while a block stays listed its ancestors
    do, as the same blocks. `serial` tells whether it stayed. An index that is not closed continues another tier's.
    A closed one remembers what was removed, as far as memory is bounded: who lists it anew is told.
    """

    def __init__(self, listed: NDArray[np.bool_], *, closed: bool = True) -> None:
        self._listed, self._closed = listed, closed
        self._blocks: dict[Digest, int] = {}  # one table for both: looking into a second one costs as much again
        self._gone = 0
        total = len(listed)
        self._digests: NDArray[np.object_] = np.full(total, None)
        self._programs: NDArray[np.object_] = np.full(total, "")
        self._parents: NDArray[np.object_] = np.full(total, None)
        self._serials: NDArray[np.int64] = np.zeros(total, np.int64)
        self._serial = 0

    def __len__(self) -> int:
        return len(self._blocks) - self._gone

    def __contains__(self, block: int) -> bool:
        return bool(self._listed[block])

    def get(self, digest: Digest) -> int | None:
        block = self._blocks.get(digest, _GONE)
        return None if block == _GONE else block

    def knows_any(self, digests: Sequence[Digest]) -> bool:
        """Whether one of `digests` is here, or is remembered."""
        return not self._blocks.keys().isdisjoint(digests)

    def name(self, block: int) -> Digest | None:
        """The digest under which `block` is listed."""
        digest: Digest | None = self._digests[block]
        return digest

    def serial(self, block: int) -> int:
        """A number that changes when `block` is listed anew; 0 while it is not listed."""
        return int(self._serials[block])

    def run(self, digests: Sequence[Digest], first: int, limit: int) -> Blocks[int]:
        """The blocks of `digests[first:limit]` that are here, up to the first that is not."""
        known = self._blocks
        if first >= limit or known.get(digests[first], _GONE) == _GONE:
            return blocks_of()
        if self._closed:
            absent = lambda digest: known.get(digest, _GONE) == _GONE  # noqa: E731
            end = bisect_left(digests, True, first + 1, max(limit, first + 1), key=absent)
            return blocks_of(list(map(known.__getitem__, digests[first:end])))
        wanted = digests[first:limit]
        with suppress(KeyError):
            return blocks_of(list(map(known.__getitem__, wanted)))
        return blocks_of([known[digest] for digest in takewhile(known.__contains__, wanted)])

    def each(self, digests: Sequence[Digest]) -> list[int | None]:
        """The block of each digest; None where it is not here."""
        blocks = list(map(self._blocks.get, digests))
        return [None if block == _GONE else block for block in blocks] if self._gone else blocks

    def lineage(self, blocks: Places) -> tuple[list[Digest], list[Digest | None], list[str]]:
        """Digests, parents' digests and programs of listed blocks."""
        return self._digests[blocks].tolist(), self._parents[blocks].tolist(), self.programs(blocks)

    def programs(self, blocks: Places) -> list[str]:
        """The programs that first stored the blocks."""
        programs: list[str] = self._programs[blocks].tolist()
        return programs

    def insert(self, blocks: Blocks[int], digests: Sequence[Digest], parent: Digest | None, program: str) -> int:
        """List a run of blocks under digests that are not listed yet; `parent` is that of the first, None of a root.

        How many of them had been removed before.
        """
        return self.insert_each(blocks, digests, [parent, *digests[:-1]], program) if blocks else 0

    def insert_each(
        self,
        blocks: Blocks[int],
        digests: Sequence[Digest],
        parents: Sequence[Digest | None],
        programs: str | list[str],
    ) -> int:
        """List blocks under digests that are not listed yet; how many of those had been removed before."""
        known = len(self._blocks)
        self._blocks.update(zip(digests, blocks, strict=True))
        again = known + len(blocks) - len(self._blocks)
        self._gone -= again
        self._serial += 1
        places = places_of(blocks)
        self._digests[places] = np.fromiter(digests, np.object_, len(blocks))
        self._parents[places] = np.fromiter(parents, np.object_, len(blocks))
        self._programs[places] = programs
        self._listed[places] = True
        self._serials[places] = self._serial
        return again

    def rename(self, block: int, digest: Digest) -> None:
        """A listed leaf holds more now: list it under `digest`, which is not listed yet."""
        del self._blocks[self._digests[block]]
        self._gone -= digest in self._blocks
        self._blocks[digest] = block
        self._digests[block] = digest
        self._serial += 1
        self._serials[block] = self._serial

    def remove(self, places: Places) -> None:
        """Forget where listed blocks are whose descendants are listed no more after it."""
        digests: list[Digest] = self._digests[places].tolist()
        if self._closed:
            self._blocks.update(zip(digests, repeat(_GONE)))
            self._gone += len(digests)
            if self._gone > _REMEMBERED * len(self._listed):
                self._forget()
        else:
            deque(map(self._blocks.pop, digests), maxlen=0)
        self._digests[places] = None
        self._listed[places] = False
        self._serials[places] = 0

    def _forget(self) -> None:
        """Forget half of what was removed: that which had been listed before the other."""
        gone = [digest for digest, block in self._blocks.items() if block == _GONE]
        older = gone[: len(gone) // 2]
        deque(map(self._blocks.pop, older), maxlen=0)
        self._gone -= len(older)

    def subtree(self, digest: Digest) -> list[int]:
        """The blocks of a digest and of all that descends from it. Looks at every listed block: for faults only."""
        children: dict[Digest | None, list[int]] = {}
        for child in np.flatnonzero(self._listed).tolist():
            children.setdefault(self._parents[child], []).append(child)
        found = list(children.get(digest, ()))
        for node in found:
            found += children.get(self._digests[node], ())
        own = self.get(digest)
        return found if own is None else [own, *found]

    def check(self) -> None:
        """Raise AssertionError unless the tables agree."""
        listed = np.flatnonzero(self._listed)
        digests = self._digests[listed].tolist()
        assert len(self) == len(listed), "a block is listed twice"
        assert self._gone == sum(block == _GONE for block in self._blocks.values()), "what is gone is miscounted"
        assert [self._blocks.get(digest) for digest in digests] == listed.tolist(), "a digest is not its block's"
        if self._closed:
            parents = self._parents[listed]
            assert all(parent is None or self.get(parent) is not None for parent in parents), "a parent is missing"
