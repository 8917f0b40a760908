"""One forward pass as the scheduler hands it out and the runner takes it. Decides and computes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.config import BLOCK_TOKENS
from engine.kv.cache import CopyKind
from engine.sequence import Sequence

Result = int | tuple[int, ...] | Exception
"""What a sampled sequence gets from a step: a token, several accepted ones, or the error that ends it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Positions `start` .. `start + count` of one sequence's tokens, the last of them `draft`, if it verifies one."""

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()

    @property
    def brings_tokens(self) -> bool:
        """Whether its sequence gets new tokens: a prompt ends here, or a draft is verified."""
        return bool(self.draft) or self.start + self.count == len(self.sequence.tokens)


@dataclass(slots=True)
class Step:
    """One forward pass: sequences that decode their last token, then pieces of prompts and of drafts.

    `sampled` are those that get new tokens, in the order of the results: all decodes, then prompts that end here and
    drafts. `decodes` is the same list as in the last step if `version` is the same. `copies` are made before the pass.
    """

    decodes: list[Sequence] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    sampled: list[Sequence] = field(default_factory=list)
    version: int = 0
    copies: list[tuple[CopyKind, list[tuple[int, int]]]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decodes or self.pieces or self.copies)

    @property
    def sequences(self) -> list[Sequence]:
        return self.decodes + [piece.sequence for piece in self.pieces]

    def targets(self) -> set[int]:
        """The device blocks that it writes. Others may go on in those that it fills: they are listed before it runs."""
        last = {one.table[(len(one.tokens) - 1) // BLOCK_TOKENS] for one in self.decodes}
        spans = ((p.sequence.table, p.start // BLOCK_TOKENS, p.start + p.count - 1) for p in self.pieces)
        return last.union(*(table[first : end // BLOCK_TOKENS + 1] for table, first, end in spans))

    @property
    def tokens(self) -> int:
        return len(self.decodes) + sum(piece.count for piece in self.pieces)
