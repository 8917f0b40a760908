"""Who waits, in the order of mutable keys. Knows no memory: who may run is the scheduler's affair.

A heap of entries. One re-keyed among many gets a new entry and leaves a dead one; of many re-keyed the entries are
changed where they are, and the heap is made anew: ten thousand at once cost what they cost anyway.
"""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count
from typing import Any

from engine.sequence import Sequence

_FIRST, _KEY, _OWNER = 0, 1, 4


class WaitingQueue:
    """Waiting sequences by (key, arrival), counted by program.

    Invariant, `check()`: each has one live entry with its key, or is among those to be placed when the head is next
    asked for. Entries are [the key's first number, as numbers are compared fast, key, arrival, the entry's own number,
    sequence]; dead ones own nothing.
    """

    def __init__(self) -> None:
        self._sequences: dict[Sequence, None] = {}
        self._heap: list[list[Any]] = []
        self._unplaced: list[Sequence] = []
        self.moved = self._unplaced.append
        """To be called with a waiting sequence that has a new key."""
        self._numbers = count()
        self._dead = 0
        self._programs: Counter[str] = Counter()
        self._expected: Counter[str] = Counter()
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._sequences)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._sequences

    def has(self, program: str) -> bool:
        """Whether a sequence of `program` waits, or will soon."""
        return program in self._programs or program in self._expected

    def expect(self, program: str) -> None:
        """A request of `program` is being read: it will wait here, or come to nothing."""
        self._expected[program] += 1

    def expected(self, program: str) -> None:
        """What `expect` announced is here, or will not come."""
        self._expected[program] -= 1
        if not self._expected[program]:
            del self._expected[program]

    def add(self, sequence: Sequence) -> None:
        self._sequences[sequence] = None
        self.tokens += len(sequence.tokens)
        self._programs[sequence.program] += 1
        self._unplaced.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """`sequence` waits no more."""
        del self._sequences[sequence]
        self.tokens -= len(sequence.tokens)
        self._programs[sequence.program] -= 1
        if not self._programs[sequence.program]:
            del self._programs[sequence.program]
        self._bury(sequence)

    def head(self) -> Sequence | None:
        """The first in order."""
        if self._unplaced:
            self._place()
        heap = self._heap
        while heap and heap[0][_OWNER] is None:
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0][_OWNER] if heap else None

    def _place(self) -> None:
        """Bring what is new or has a new key to its place."""
        heap, waiting = self._heap, self._sequences
        if self._dead > len(waiting) + 64:
            heap[:] = [entry for entry in heap if entry[_OWNER] is not None]
            heapq.heapify(heap)
            self._dead = 0
        if 8 * len(self._unplaced) < len(heap):
            for sequence in self._unplaced:
                self._bury(sequence)
                if sequence in waiting:
                    heapq.heappush(heap, self._entry(sequence))
        else:
            for sequence in self._unplaced:
                entry = sequence.entry
                if entry is not None:
                    key = sequence.key
                    entry[_FIRST] = key[0]
                    entry[_KEY] = key
                elif sequence in waiting:
                    heap.append(self._entry(sequence))
            heapq.heapify(heap)
        self._unplaced.clear()

    def _entry(self, sequence: Sequence) -> list[Any]:
        key = sequence.key
        sequence.entry = [key[0], key, sequence.arrival, next(self._numbers), sequence]
        return sequence.entry

    def _bury(self, sequence: Sequence) -> None:
        entry, sequence.entry = sequence.entry, None
        if entry is not None:
            entry[_OWNER] = None
            self._dead += 1

    def check(self) -> None:
        """Raise AssertionError unless all that wait are in the heap once, or soon will be."""
        live = [entry for entry in self._heap if entry[_OWNER] is not None]
        assert len(self._heap) - len(live) == self._dead, "dead entries are miscounted"
        owners = {id(entry[_OWNER]) for entry in live}
        assert len(owners) == len(live), "a sequence has two entries"
        unplaced = set(map(id, self._unplaced))
        for sequence in self._sequences:
            assert id(sequence) in owners | unplaced, "a waiting sequence is not queued"
            entry = sequence.entry
            assert entry is None or entry[_OWNER] is sequence, "an entry has another owner"
            assert id(sequence) in unplaced or (entry is not None and entry[_KEY] == sequence.key), "a key is old"
        assert owners <= set(map(id, self._sequences)), "an entry's owner does not wait"
        assert self.tokens == sum(len(sequence.tokens) for sequence in self._sequences), "tokens are miscounted"
        assert Counter(sequence.program for sequence in self._sequences) == self._programs, "programs are miscounted"
