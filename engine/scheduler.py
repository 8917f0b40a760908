"""Decides what each step computes: one rule for everything, in the order of mutable keys. Knows no tensors.

A step takes up to `token_budget` tokens: one for each sequence that decodes, then pieces of prompts, running or newly
admitted, in one order. A block is listed in the prefix index when its computation is *handed out*, not when it is done:
a step stores all keys and values before anything attends, so whoever comes later in the order, even in the same step,
finds the block instead of computing it again.

What costs by the step costs by what changed in it: sequences that merely decode are in one list that stays the same.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence as Seq
from operator import attrgetter

from engine.admission import peak_blocks
from engine.config import BLOCK_TOKENS
from engine.kv.blocks import blocks_of
from engine.kv.cache import BlockCache
from engine.protocol import PriorityKey, QueueFull
from engine.sequence import Sequence, State, blocks_for
from engine.step import Piece, Result, Step
from engine.tables import Tables
from engine.waiting import WaitingQueue

_is_stalled = attrgetter("stalled")


def _order(sequence: Sequence) -> tuple[PriorityKey, int]:
    return sequence.order


class Scheduler:
    """Queues, running sequences and their blocks.

    Running sequences are in a list sorted by order, and so are the paused: those that wait with their KV on the device.
    Whoever needs memory takes it from the paused, then from those behind it; what they held goes to the host, or is
    computed again where that is cheaper.
    Invariant, `check()`: all lists agree with the sequences' states, every table covers what is computed, rows are
    unique, and the cache's references are exactly the tables'.
    """

    def __init__(self, cache: BlockCache, *, token_budget: int, max_running: int, queue_limit: int) -> None:
        self.cache = cache
        self._token_budget, self._max_running, self._queue_limit = token_budget, max_running, queue_limit
        self._limit = max_running
        self.queue = WaitingQueue()
        self._running: list[Sequence] = []
        self._paused: list[Sequence] = []
        self._prefilling: dict[Sequence, None] = {}
        self._decodes: list[Sequence] = []
        self._version = 0
        self._stale = False
        """Whether `_decodes` has to be made anew."""
        self._filled: list[Sequence] = []
        """Decoding sequences whose last block is full: each needs one more for its next token."""
        self._drafted: list[Sequence] = []
        self._live: dict[str, list[Sequence]] = {}
        self._rows = list(range(max_running - 1, -1, -1))
        self._arrivals = self._ends = 0
        self.tables = Tables(cache, self._room)
        self._refused: tuple[tuple[PriorityKey, int], int, int] | None = None

    @property
    def running(self) -> Seq[Sequence]:
        return self._running

    @property
    def has_work(self) -> bool:
        return bool(self._running) or len(self.queue) > 0

    def add(self, sequence: Sequence, *, forked: bool = False) -> None:
        """Queue a sequence. Raises `QueueFull`, but not for another output of a request that was accepted."""
        if len(self.queue) >= self._queue_limit and not forked:
            raise QueueFull(f"{len(self.queue)} requests wait already, the limit is {self._queue_limit}")
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._live.setdefault(sequence.program, []).append(sequence)
        self._enqueue(sequence)

    def end(self, sequence: Sequence, *, keep: bool = True) -> None:
        """A sequence is finished, failed or aborted: everything it holds is given back. Idempotent.

        `keep`: its partial last block can be found again, like its full ones.
        """
        if sequence.state is State.ENDED:
            return
        if keep and sequence.table:
            self.tables.publish_tail(sequence)
        if sequence.state is State.WAITING:
            self._dequeued(sequence)
            self.settle(sequence.program)
        self._leave(sequence)
        sequence.state = State.ENDED
        calls = self._live[sequence.program]
        calls.remove(sequence)
        if not calls:
            del self._live[sequence.program]

    def settle(self, program: str) -> None:
        """Leases that only a program's queued calls kept end with the last of them."""
        if not self.queue.has(program):
            self.cache.leases.settle(program)

    def restart(self, blocks: set[int], spared: Seq[Sequence]) -> None:
        """Device `blocks` do not hold what they should: whoever relies on one, but for `spared`, computes again."""
        for sequence in [*self._running, *self._paused]:
            if not blocks.isdisjoint(sequence.table) and sequence not in spared:
                self._preempt(sequence, save=False)

    def limit_running(self, limit: int) -> None:
        """Run at most `limit` sequences at once; the last in order pause."""
        self._limit = min(max(limit, 1), self._max_running)

    def reprioritize(self, program: str, key: PriorityKey) -> None:
        """Give all sequences of `program` a new key; the next step is ordered by it."""
        for sequence in self._live.get(program, ()):
            if sequence.queued:
                sequence.key = key
                self.queue.moved(sequence)
            elif sequence.key != key:
                ordered = self._running if sequence.state is State.RUNNING else self._paused
                del ordered[self._place(ordered, sequence)]
                sequence.key = key
                insort(ordered, sequence, key=_order)
                if ordered is self._paused:
                    self.queue.moved(sequence)

    def draft(self, sequence: Sequence, tokens: tuple[int, ...]) -> None:
        """Have the next step verify that `tokens` follow a decoding sequence, as far as budget and memory allow."""
        sequence.draft = tokens
        self._drafted.append(sequence)

    def schedule(self) -> Step:
        """The next step: its blocks are taken, its full prompt blocks listed. Empty only if there is no work.

        Memory never blocks the first in order: it may evict what is cached, break leases and preempt all others.
        """
        step = Step()
        while len(self._running) > self._limit:
            self._pause(self._running[-1])
        if self._filled:
            self._go_on()
        # The list itself is made once, after who is admitted is known.
        decoding = len(self._current()) if self._filled else len(self._running) - len(self._prefilling)
        budget = self._token_budget - decoding
        if self._prefilling or len(self.queue):
            budget = self._prefill(step, budget)
        step.decodes = self._current()
        if self._drafted:
            self._add_drafts(step, budget)
        step.version = self._version
        step.sampled = step.decodes
        if step.pieces:
            step.sampled = step.decodes + [piece.sequence for piece in step.pieces if piece.brings_tokens]
        return step

    def advance(self, step: Step, results: Seq[Result]) -> None:
        """The step is done: its positions are computed, and `results` go to `step.sampled`."""
        filled, running = list[Sequence](), State.RUNNING
        for sequence, result in zip(step.decodes, results, strict=False):
            if type(result) is int:
                if sequence.state is running:
                    sequence.tokens.append(result)
                    computed = sequence.computed = sequence.computed + 1
                    if not computed % BLOCK_TOKENS:
                        filled.append(sequence)
            else:
                self._accept(sequence, result)
        if filled:
            self.tables.fill_each(filled, 1)
            self._filled += filled
        if step.pieces:
            self._advance_pieces(step, results)

    # prompts: running and waiting, in one order

    def _prefill(self, step: Step, budget: int) -> int:
        """Fill `budget` with pieces of prompts; the queue's head joins when its turn comes. What is left of it."""
        unfinished, served = deque(sorted(self._prefilling, key=_order)), set()
        admitting = len(self.queue) > 0
        while budget > 0:
            head = self.queue.head() if admitting else None
            if head is not None and not (unfinished and unfinished[0].order < head.order):
                admitting = self._admit(head)
                if not admitting:
                    continue
                sequence = head
                if sequence.decoding:  # it was paused and goes on
                    budget -= 1
                    continue
            elif unfinished:
                sequence = unfinished.popleft()
                if sequence.state is not State.RUNNING or sequence in served:
                    continue
            else:
                break
            served.add(sequence)
            count = self._hand_out(sequence, budget)
            if count:
                step.pieces.append(Piece(sequence, sequence.computed, count))
                budget -= count
        return budget

    def _hand_out(self, sequence: Sequence, budget: int) -> int:
        """Take blocks for the next piece of a prompt and list those it fills. Returns its tokens, 0 if it must wait.

        A piece that is not the last ends on a block's end, so that the next one can go on with a block found by then.
        """
        self.tables.adopt(sequence)
        start, total = sequence.computed, len(sequence.tokens)
        end = min(start + budget, total)
        if end < total:
            end -= end % BLOCK_TOKENS
        missing = blocks_for(end) - len(sequence.table)
        if missing > 0:
            self.tables.grow(sequence, missing)
        end = min(end, len(sequence.table) * BLOCK_TOKENS)
        if end // BLOCK_TOKENS > start // BLOCK_TOKENS:
            again = self.tables.publish(sequence, start // BLOCK_TOKENS, end // BLOCK_TOKENS)
            sequence.recomputed_tokens += again
        return max(end - start, 0)

    def _admit(self, sequence: Sequence) -> bool:
        """Let the queue's head run if its peak of memory fits beside that of those it cannot take memory from.

        With nothing running it always goes: then leases must give way.
        """
        full = len(self._running) >= self._limit
        if full and not self._running[-1].key > sequence.key:
            return False
        if self._running and not sequence.table and not self._fits(sequence):
            return False
        if full:
            self._pause(self._running[-1])
        self._dequeued(sequence)
        paused = bool(sequence.table)
        if paused:
            del self._paused[self._place(self._paused, sequence)]
        sequence.state = State.RUNNING
        sequence.row = self._rows.pop()
        insort(self._running, sequence, key=_order)
        self.tables.owe(sequence, blocks_for(len(sequence.tokens) + sequence.remaining) - len(sequence.table))
        if sequence.decoding:
            self._stale = True
            if self._is_full(sequence):
                self._grow(sequence)
        else:
            self._prefilling[sequence] = None
        if not paused:
            self.tables.adopt(sequence)
            self.tables.unsave(sequence)
            self.cache.leases.touch(sequence.program, sequence.table)
            if sequence.continues:
                self.cache.leases.hand_off(sequence.continues)
        self.settle(sequence.program)
        return True

    def _fits(self, sequence: Sequence) -> bool:
        """Whether the memory of all that run, at its peak, leaves room for `sequence`; leased memory is not touched.

        Once refused, it is not asked again before something ended or memory came free.
        """
        pool = self.cache.device.pool
        refused = self._refused
        if refused is not None and refused[:2] == (sequence.order, self._ends) and pool.available <= refused[2]:
            return False
        found = self.cache.find(sequence.hashes, (len(sequence.tokens) - 1) // BLOCK_TOKENS, sequence.path)
        idle = pool.idle(found) if found else 0
        need = blocks_for(len(sequence.tokens) + sequence.remaining) - len(found)
        fits = need + self.tables.owed <= pool.available - idle
        if not fits:
            # Those behind in urgency would make room when it comes to that.
            holders = self._running + self._paused
            private = sum([len(s.table) - s.shared for s in holders])
            peak = peak_blocks(sequence, len(found), [s for s in holders if s.key[:1] <= sequence.key[:1]])
            fits = max(pool.active - private, 0) + idle + peak <= pool.total - pool.leased
        self._refused = None if fits else (sequence.order, self._ends, pool.available)
        return fits

    # blocks

    def _room(self, sequence: Sequence, count: int) -> None:
        """Make `count` blocks available: from leases, from who is paused, from those behind `sequence` in order."""
        pool = self.cache.device.pool
        while pool.available < count:
            if self.cache.leases.break_one():
                continue
            victim = self._paused[-1] if self._paused else self._running[-1]
            if victim is sequence:
                return
            self._preempt(victim)

    def _go_on(self) -> None:
        """Give all who decode and have filled their last block another one."""
        filled, self._filled = self._filled, []
        needy = [sequence for sequence in filled if self._is_full(sequence)]
        if not needy or (not any(map(_is_stalled, needy)) and self.tables.grow_each(needy)):
            return
        for sequence in needy:
            if self._is_full(sequence):  # and has not lost its memory to those before it
                self._grow(sequence)

    @staticmethod
    def _is_full(sequence: Sequence) -> bool:
        """Whether it decodes, and has no place for its next token."""
        return sequence.decoding and len(sequence.table) * BLOCK_TOKENS <= sequence.computed

    def _grow(self, sequence: Sequence) -> None:
        """Give a decoding sequence the block that its next token needs; without memory it stalls where it is."""
        stalled = not self.tables.grow(sequence, 1)
        if stalled:
            self._filled.append(sequence)
        self._stale = self._stale or stalled or sequence.stalled
        sequence.stalled = stalled

    # what a step brought

    def _advance_pieces(self, step: Step, results: Seq[Result]) -> None:
        for piece in step.pieces:
            if piece.sequence.state is State.RUNNING and not piece.draft:
                piece.sequence.computed += piece.count
        after = len(step.decodes)
        for sequence, result in zip(step.sampled[after:], results[after:], strict=True):
            if sequence.decoding:
                self._accept(sequence, result)
            elif sequence.state is State.RUNNING:
                del self._prefilling[sequence]
                sequence.decoding = self._stale = True
                sequence.computed -= 1
                self._accept(sequence, result)

    def _accept(self, sequence: Sequence, result: Result) -> None:
        """Tokens after a sequence's last one, which is computed now; an error brings none."""
        if sequence.state is not State.RUNNING:
            return
        tokens = (result,) if isinstance(result, int) else () if isinstance(result, Exception) else result
        first = sequence.computed // BLOCK_TOKENS
        for token in tokens:
            sequence.tokens.append(token)
        sequence.computed += max(len(tokens), 1)
        self.tables.fill(sequence, first)
        if len(sequence.table) * BLOCK_TOKENS <= sequence.computed:
            self._filled.append(sequence)

    def _add_drafts(self, step: Step, budget: int) -> None:
        """Turn decodes with a draft into pieces that verify it, within `budget` and free memory alone."""
        pool, verified = self.cache.device.pool, set()
        decoding = set(step.decodes)
        for sequence in self._drafted:
            draft, sequence.draft = sequence.draft, ()
            if sequence not in decoding or sequence in verified:
                continue
            room = (len(sequence.table) + pool.available) * BLOCK_TOKENS - sequence.computed - 1
            draft = draft[: max(min(budget, room, sequence.max_tokens - sequence.generated - 1), 0)]
            if not draft:
                continue
            missing = blocks_for(sequence.computed + 1 + len(draft)) - len(sequence.table)
            if missing > 0:
                self.tables.grow(sequence, missing)
            step.pieces.append(Piece(sequence, sequence.computed, 1 + len(draft), draft))
            budget -= len(draft)
            verified.add(sequence)
        self._drafted.clear()
        if verified:
            self._version += 1
            self._stale = True
            step.decodes = [sequence for sequence in step.decodes if sequence not in verified]

    def _current(self) -> list[Sequence]:
        """Those that decode in the next step: all whose prompt is done and whose table has room."""
        if self._stale:
            self._stale = False
            self._version += 1
            self._decodes = [sequence for sequence in self._running if sequence.decoding and not sequence.stalled]
        return self._decodes

    # queue and running list

    def _pause(self, sequence: Sequence) -> None:
        """Out of the batch, its KV stays on the device until somebody needs the memory."""
        table, sequence.table = sequence.table, blocks_of()
        decoding = sequence.decoding
        self._leave(sequence, keep_progress=True)
        sequence.table, sequence.decoding = table, decoding
        if table:
            insort(self._paused, sequence, key=_order)
        self._enqueue(sequence)

    def _preempt(self, sequence: Sequence, *, save: bool = True) -> None:
        """Off the device: to the host if it fits there and copying is cheaper than computing again."""
        sequence.tail = None
        saved = self.tables.save(sequence) if save else None
        paused = sequence.state is State.WAITING
        self._leave(sequence)
        if saved is not None:
            sequence.saved = saved
        sequence.preemptions += 1
        if paused:
            sequence.queued = True
        else:
            self._enqueue(sequence)

    def _leave(self, sequence: Sequence, *, keep_progress: bool = False) -> None:
        """A sequence gives back its row, its blocks and its place among those that run or are paused."""
        self._ends += 1
        if sequence.state is State.RUNNING:
            del self._running[self._place(self._running, sequence)]
            self._prefilling.pop(sequence, None)
            self._rows.append(sequence.row)
            self._stale = self._stale or sequence.decoding
        elif sequence.table:
            del self._paused[self._place(self._paused, sequence)]
        if sequence.table:
            self.cache.release(sequence.table)
            sequence.table = blocks_of()
        self.tables.unsave(sequence)
        self.tables.owe(sequence, 0)
        sequence.row, sequence.synced = -1, 0
        if not keep_progress:
            sequence.computed = sequence.adopted = sequence.shared = 0
        sequence.decoding = sequence.stalled = False

    @staticmethod
    def _place(ordered: list[Sequence], sequence: Sequence) -> int:
        return bisect_left(ordered, sequence.order, key=_order)

    def _enqueue(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        sequence.hash_blocks()
        sequence.queued = not sequence.table
        self.queue.add(sequence)

    def _dequeued(self, sequence: Sequence) -> None:
        """A sequence waits no more."""
        self.queue.remove(sequence)
        sequence.queued = False

    def check(self) -> None:
        """Raise AssertionError unless all invariants hold, those of the cache included."""
        self.cache.check()
        for ordered in (self._running, self._paused):
            assert ordered == sorted(ordered, key=_order), "sequences are out of order"
        live = [sequence for calls in self._live.values() for sequence in calls]
        waiting = [sequence for sequence in live if sequence.state is State.WAITING]
        assert len(waiting) == len(self.queue) and all(s in self.queue for s in waiting), "a waiting sequence is lost"
        self.queue.check()
        assert sorted(s.id for s in live if s.state is State.RUNNING) == sorted(s.id for s in self._running)
        assert [s.queued for s in waiting] == [not s.table for s in waiting], "who is paused is mixed up"
        assert {s.id for s in waiting if s.table} == {s.id for s in self._paused}, "a paused sequence is lost"
        assert {s.id for s in self._running if not s.decoding} == {s.id for s in self._prefilling}
        assert sorted([s.row for s in self._running] + self._rows) == [*range(self._max_running)], "rows are lost"
        self.tables.check(live)
        for sequence in self._running + self._paused:
            sequence.check_on_device()
        for sequence in () if self._stale else self._decodes:
            assert sequence.decoding and sequence.state is State.RUNNING, "a sequence decodes that should not"
        lacking = {s.id for s in self._running if s.decoding and len(s.table) * BLOCK_TOKENS <= s.computed}
        assert lacking <= {s.id for s in self._filled}, "a sequence waits for a block that nobody brings"
