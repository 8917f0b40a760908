"""Decides what each step computes: one rule for everything, in the order of mutable keys. Knows no tensors.

A step takes up to `token_budget` tokens: one for each sequence that decodes, then pieces of prompts, running or newly
admitted, in one order. A block is listed in the prefix index when its computation is *handed out*, not when it is done:
a step stores all keys and values before anything attends, so whoever comes later in the order, even in the same step,
finds the block instead of computing it again.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from engine.config import BLOCK_TOKENS
from engine.kv.cache import BlockCache
from engine.kv.prefix import ROOT
from engine.protocol import PriorityKey, QueueFull
from engine.sequence import Sequence, State, blocks_for


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions `start` .. `start + count` of one sequence's tokens."""

    sequence: Sequence
    start: int
    count: int


@dataclass(slots=True)
class Step:
    """One forward pass: sequences that decode their last token, then pieces of prompts.

    `sampled` are those that get a new token, in the order of the logits' rows: all decodes, then finished prompts.
    """

    decodes: list[Sequence] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    sampled: list[Sequence] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decodes or self.pieces)

    @property
    def sequences(self) -> list[Sequence]:
        return self.decodes + [piece.sequence for piece in self.pieces]

    @property
    def tokens(self) -> int:
        return len(self.decodes) + sum(piece.count for piece in self.pieces)


def _order(sequence: Sequence) -> tuple[PriorityKey, int]:
    return sequence.order


class Scheduler:
    """Queues, running sequences and their blocks.

    Waiting sequences are in a heap whose entries go stale when a key changes; what is new or has a new key is placed
    when the head is next asked for, all at once. Running ones are in a list sorted by order.
    Invariant, `check()`: both agree with the sequences' states, every table covers what is computed, rows are unique,
    and the cache's references are exactly the tables'.
    """

    def __init__(self, cache: BlockCache, *, token_budget: int, max_running: int, queue_limit: int) -> None:
        self.cache = cache
        self._token_budget, self._max_running, self._queue_limit = token_budget, max_running, queue_limit
        self._heap: list[tuple[PriorityKey, int, Sequence]] = []
        self._unplaced: list[Sequence] = []
        self._running: list[Sequence] = []
        self._live: dict[str, dict[str, Sequence]] = {}
        self._queued: Counter[str] = Counter()
        self._rows = list(range(max_running - 1, -1, -1))
        self._arrivals = 0
        self._preempted = False
        self.waiting = 0
        self.waiting_tokens = 0

    @property
    def running(self) -> Seq[Sequence]:
        return self._running

    @property
    def has_work(self) -> bool:
        return bool(self._running) or self.waiting > 0

    def is_queued(self, program: str) -> bool:
        """Whether a call of `program` waits for admission."""
        return self._queued[program] > 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises `QueueFull`."""
        if self.waiting >= self._queue_limit:
            raise QueueFull(f"{self.waiting} requests wait already, the limit is {self._queue_limit}")
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._live.setdefault(sequence.program, {})[sequence.id] = sequence
        self._enqueue(sequence)

    def end(self, sequence: Sequence) -> None:
        """A sequence is finished, failed or aborted: everything it holds is given back. Idempotent."""
        if sequence.state is State.ENDED:
            return
        if sequence.state is State.RUNNING:
            self._leave(sequence)
        else:
            self._dequeued(sequence)
        sequence.state = State.ENDED
        calls = self._live[sequence.program]
        del calls[sequence.id]
        if not calls:
            del self._live[sequence.program]

    def reprioritize(self, program: str, key: PriorityKey) -> None:
        """Give all sequences of `program` a new key; the next step is ordered by it."""
        for sequence in self._live.get(program, {}).values():
            if sequence.key == key:
                continue
            if sequence.state is State.RUNNING:
                del self._running[self._place(sequence)]
                sequence.key = key
                insort(self._running, sequence, key=_order)
            else:
                sequence.key = key
                self._unplaced.append(sequence)

    def schedule(self) -> Step:
        """The next step: its blocks are taken, its full prompt blocks listed. Empty only if there is no work.

        Memory never blocks the first in order: it may evict what is cached, break leases and preempt all others.
        """
        step = Step()
        self._preempted = False
        for sequence in list(self._running):
            if sequence.state is not State.RUNNING or sequence.computed != len(sequence.tokens) - 1:
                continue
            if sequence.computed % BLOCK_TOKENS or self._grow(sequence):
                step.decodes.append(sequence)
        self._prefill(step)
        if self._preempted:
            step.decodes = [sequence for sequence in step.decodes if sequence.state is State.RUNNING]
        step.sampled = step.decodes + [p.sequence for p in step.pieces if p.start + p.count == len(p.sequence.tokens)]
        return step

    def advance(self, step: Step, tokens: Seq[int | None]) -> None:
        """The step is done: its positions are computed, and `tokens` go to `step.sampled` (None: nothing to append)."""
        for sequence in step.decodes:
            sequence.computed += 1
        for piece in step.pieces:
            piece.sequence.computed += piece.count
        for sequence, token in zip(step.sampled, tokens, strict=True):
            if sequence.computed % BLOCK_TOKENS == 0:
                sequence.hash_blocks()
                self._publish(sequence, sequence.computed // BLOCK_TOKENS - 1)
            if token is not None:
                sequence.tokens.append(token)

    def advance_by(self, step: Step, steps: int) -> None:
        """`steps` steps that decode as `step` does are done before it; blocks for them must be available.

        For simulated engines, whose tokens grow by the run (`StreamTokens.grow`).
        """
        for sequence in step.decodes:
            first = sequence.computed // BLOCK_TOKENS
            sequence.computed += steps
            sequence.tokens.grow(steps)  # type: ignore[attr-defined]
            while len(sequence.table) * BLOCK_TOKENS <= sequence.computed:
                self._grow(sequence)
            end = sequence.computed // BLOCK_TOKENS
            if end > first:
                sequence.hash_blocks()
                for index in range(first, end):
                    self._publish(sequence, index)

    def forget(self, sequence: Sequence) -> None:
        """What `sequence` computed itself cannot be trusted: nobody shall find it again. Call before `end`."""
        for block in sequence.table[sequence.adopted : sequence.adopted + 1]:
            self.cache.forget(block)

    # prompts: running and waiting, in one order

    def _prefill(self, step: Step) -> None:
        """Fill what is left of the budget with pieces of prompts; the queue's head joins when its turn comes."""
        budget = self._token_budget - len(step.decodes)
        unfinished = deque(s for s in self._running if s.computed < len(s.tokens) - 1)
        admitting = True
        while budget > 0:
            head = self._head() if admitting else None
            if head is not None and not (unfinished and unfinished[0].order < head.order):
                admitting = self._admit(head, unfinished)
                if not admitting:
                    continue
                sequence = head
            elif unfinished:
                sequence = unfinished.popleft()
                if sequence.state is not State.RUNNING:
                    continue
            else:
                return
            count = self._hand_out(sequence, budget)
            if count:
                step.pieces.append(Piece(sequence, sequence.computed, count))
                budget -= count

    def _hand_out(self, sequence: Sequence, budget: int) -> int:
        """Take blocks for the next piece of a prompt and list those it fills. Returns its tokens, 0 if it must wait.

        A piece that is not the last ends on a block's end, so that the next one can go on with a block found by then.
        """
        self._adopt(sequence)
        start, total = sequence.computed, len(sequence.tokens)
        end = min(start + budget, total)
        if end < total:
            end -= end % BLOCK_TOKENS
        while len(sequence.table) * BLOCK_TOKENS < end and self._grow(sequence):
            pass
        end = min(end, len(sequence.table) * BLOCK_TOKENS)
        for index in range(start // BLOCK_TOKENS, end // BLOCK_TOKENS):
            self._publish(sequence, index)
        return max(end - start, 0)

    def _admit(self, sequence: Sequence, unfinished: Iterable[Sequence]) -> bool:
        """Let the queue's head run if its prompt fits beside what running prompts still need and one block each.

        With nothing running it always goes: then leases must give way.
        """
        if not self._rows:
            return False
        if self._running:
            found, idle = self.cache.cached_blocks(sequence.hashes, len(sequence.tokens))
            need = blocks_for(len(sequence.tokens) + 1) - found
            owed = sum(blocks_for(len(s.tokens) + 1) - len(s.table) for s in unfinished if s.state is State.RUNNING)
            if need + owed + len(self._running) > self.cache.available - idle:
                return False
        heapq.heappop(self._heap)
        sequence.state = State.RUNNING
        sequence.row = self._rows.pop()
        insort(self._running, sequence, key=_order)
        self._adopt(sequence)
        self.cache.leases.touch(sequence.program, sequence.table)
        self._dequeued(sequence)
        return True

    # blocks

    def _adopt(self, sequence: Sequence) -> None:
        """Go on with blocks that hold the next full blocks of the prompt already; the last token is always computed."""
        table, first = sequence.table, len(sequence.table)
        if sequence.computed != first * BLOCK_TOKENS:
            return
        for digest in sequence.hashes[first : (len(sequence.tokens) - 1) // BLOCK_TOKENS]:
            block = self.cache.adopt(digest)
            if block is None:
                break
            table.append(block)
        if sequence.adopted == first:
            sequence.adopted = len(table)
        sequence.computed = len(table) * BLOCK_TOKENS
        if not sequence.preemptions:
            sequence.cached_tokens += (len(table) - first) * BLOCK_TOKENS

    def _grow(self, sequence: Sequence) -> bool:
        """One more block for a running sequence, if need be from those behind it in order. False: it must wait."""
        while (block := self.cache.take(may_break_leases=True)) is None:
            victim = self._running[-1]
            if victim is sequence:
                return False
            self._preempt(victim)
        sequence.table.append(block)
        return True

    def _publish(self, sequence: Sequence, index: int) -> None:
        """List a full block of the sequence; it may be replaced by one that is listed already."""
        table = sequence.table
        parent = table[index - 1] if index else ROOT
        block = self.cache.publish(table[index], sequence.hashes[index], parent, sequence.program)
        if block != table[index]:
            table[index] = block
            sequence.synced = min(sequence.synced, index)

    # queue and running list

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue; its blocks stay cached as long as memory lasts, the rest is computed again."""
        self._leave(sequence)
        sequence.preemptions += 1
        self._preempted = True
        self._enqueue(sequence)

    def _leave(self, sequence: Sequence) -> None:
        """A running sequence gives back its row and blocks."""
        del self._running[self._place(sequence)]
        self.cache.release(sequence.table)
        self._rows.append(sequence.row)
        sequence.table, sequence.row, sequence.synced = [], -1, 0
        sequence.computed = sequence.adopted = 0

    def _place(self, sequence: Sequence) -> int:
        return bisect_left(self._running, sequence.order, key=_order)

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        sequence.hash_blocks()
        self.waiting += 1
        self.waiting_tokens += len(sequence.tokens)
        self._queued[sequence.program] += 1
        self._unplaced.append(sequence)

    def _dequeued(self, sequence: Sequence) -> None:
        """A sequence waits no more; leases that only its program's queued calls kept end with the last of them."""
        self.waiting -= 1
        self.waiting_tokens -= len(sequence.tokens)
        self._queued[sequence.program] -= 1
        if not self._queued[sequence.program]:
            del self._queued[sequence.program]
            self.cache.leases.settle(sequence.program)

    def _head(self) -> Sequence | None:
        """The first in order of those that wait."""
        if self._unplaced:
            self._place_all()
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def _place_all(self) -> None:
        """Bring what is new or has a new key into the heap; rebuild it when that is cheaper, or mostly stale."""
        entries = [(s.key, s.arrival, s) for s in self._unplaced if s.state is State.WAITING]
        self._unplaced.clear()
        if 8 * len(entries) < len(self._heap) < 2 * self.waiting + 64:
            for entry in entries:
                heapq.heappush(self._heap, entry)
        else:
            entries += [entry for entry in self._heap if self._is_current(entry)]
            heapq.heapify(entries)
            self._heap = entries

    @staticmethod
    def _is_current(entry: tuple[PriorityKey, int, Sequence]) -> bool:
        return entry[2].state is State.WAITING and entry[2].key == entry[0]

    def check(self) -> None:
        """Raise AssertionError unless all invariants hold, those of the cache included."""
        self.cache.check()
        assert self._running == sorted(self._running, key=_order), "running sequences are out of order"
        live = [sequence for calls in self._live.values() for sequence in calls.values()]
        waiting = [sequence for sequence in live if sequence.state is State.WAITING]
        assert len(waiting) == self.waiting == self._queued.total(), "waiting sequences are miscounted"
        assert sum(len(sequence.tokens) for sequence in waiting) == self.waiting_tokens, "waiting tokens are miscounted"
        placed = {entry[2].id for entry in self._heap if self._is_current(entry)}
        assert {s.id for s in waiting} <= placed | {s.id for s in self._unplaced}, "a waiting sequence is not queued"
        assert sorted(s.id for s in live if s.state is State.RUNNING) == sorted(s.id for s in self._running)
        rows = [sequence.row for sequence in self._running] + self._rows
        assert sorted(rows) == list(range(self._max_running)), "rows are lost or shared"
        held = Counter(block for sequence in self._running for block in sequence.table)
        assert all(self.cache.pool.refs(block) == count for block, count in held.items()), "references differ"
        assert self.cache.pool.active == len(held), "a block is active without a sequence"
        for sequence in self._running:
            assert sequence.computed <= len(sequence.table) * BLOCK_TOKENS, "a table is too short"
            assert sequence.computed < len(sequence.tokens), "a sequence has nothing left to compute"
