"""Steps that are like the one before, counted in advance and made at once: what lets a simulated engine jump over them.

The order is the real scheduler's. Owns when nothing changes from step to step, and what many such steps change in sum.
"""

from __future__ import annotations

from engine.config import BLOCK_TOKENS
from engine.scheduler import Scheduler
from engine.step import Piece, Step


class JumpingScheduler(Scheduler):
    """A scheduler whose tokens grow by the run. Steps are alike if each sequence decodes one token more, and the
    prompt that is computed, if there is one, takes all that is left of the budget again."""

    def alike(self, step: Step, at_most: int) -> int:
        """How many steps (1 to `at_most`) would be just like `step`.

        Free memory covers them, nobody who waits could be admitted in between, and no prompt ends.
        """
        if step.copies or self._drafted or not step:
            return 1
        if step.pieces:
            at_most = min(at_most, self._pieces_ahead(step))
        elif self._prefilling or (len(self.queue) and self._refused is None and len(self._running) < self._limit):
            return 1
        pool = self.cache.device.pool
        # What is evicted for a prompt would have to be copied to the host in between.
        free = pool.free if step.pieces and self.cache.host.pool.total else pool.available
        rooms = [(sequence.computed, len(sequence.table) - 1, 1) for sequence in step.decodes]
        rooms += [(piece.start, len(piece.sequence.table), piece.count) for piece in step.pieces]
        low, high = 1, max(at_most, 1)
        steps = high  # most often there is memory for all
        while low < high:
            blocks = [(computed + steps * count) // BLOCK_TOKENS - held for computed, held, count in rooms]
            need = sum([missing for missing in blocks if missing > 0])
            low, high = (steps, high) if need <= free else (low, steps - 1)
            steps = (low + high + 1) // 2
        return low

    def skip(self, step: Step, steps: int) -> None:
        """`steps` steps like `step` are done, at most one less than `alike` said; `step` is the one after them."""
        filled = []
        for sequence in step.decodes:
            first = sequence.computed // BLOCK_TOKENS
            sequence.computed += steps
            sequence.tokens.grow(steps)  # type: ignore[attr-defined]
            last = sequence.computed // BLOCK_TOKENS
            if last > first:
                missing = last + 1 - len(sequence.table)
                if missing > 0:
                    self.tables.grow(sequence, missing)
                filled.append(sequence)
        if filled:
            self.tables.fill_each(filled, steps)
        for piece in step.pieces:
            sequence, handed_out = piece.sequence, piece.start + piece.count
            sequence.computed = piece.start + steps * piece.count
            end = sequence.computed + piece.count
            self.tables.grow_in_turns(sequence, piece.count // BLOCK_TOKENS, steps)
            again = self.tables.publish(sequence, handed_out // BLOCK_TOKENS, end // BLOCK_TOKENS)
            sequence.recomputed_tokens += again
            step.pieces = [Piece(sequence, sequence.computed, piece.count)]

    def _pieces_ahead(self, step: Step) -> int:
        """How many pieces like this step's only one there are before the last, as long as nobody else is served."""
        piece, sequence = step.pieces[0], step.pieces[0].sequence
        budget = self._token_budget - len(step.decodes)
        if len(step.pieces) > 1 or piece.brings_tokens or piece.count != budget - budget % BLOCK_TOKENS:
            return 1
        end = (piece.start + piece.count) // BLOCK_TOKENS
        for other in self._prefilling:
            if other is not sequence and (other.order < sequence.order or _follows(other.hashes, sequence.hashes, end)):
                return 1
        last = len(sequence.tokens) - 1
        pieces = (last - budget - piece.start) // piece.count + 1  # the last takes what is left of its block as well
        host = self.cache.host
        if host.pool.total:  # what is there is not computed
            kept = host.index.each(sequence.hashes[end : last // BLOCK_TOKENS])
            found = next((place for place, block in enumerate(kept) if block is not None), len(kept))
            last = min((end + found) * BLOCK_TOKENS, sequence.tail[1] - 1 if sequence.tail else last)
            pieces = min(pieces, (last - piece.start) // piece.count)
        return pieces


def _follows(other: list[object], hashes: list[object], end: int) -> bool:
    """Whether a prompt goes on, after `end` blocks, with what another one is about to compute."""
    return end < len(other) and end < len(hashes) and other[end] == hashes[end]
