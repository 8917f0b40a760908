"""One request as the scheduler and the runner see it: tokens, how far they are computed, where their KV lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from engine.config import BLOCK_TOKENS
from engine.kv.prefix import extend_chain
from engine.protocol import PriorityKey, SamplingParams

if TYPE_CHECKING:
    from engine.grammar import Matcher


def blocks_for(tokens: int) -> int:
    """Blocks that `tokens` positions take."""
    return -(-tokens // BLOCK_TOKENS)


class State(Enum):
    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what was generated after it.

    `computed` tokens have their KV in the blocks of `table`; the rest of `tokens` is still to be run. `hashes` names
    the full blocks of `tokens`; the first `adopted` blocks were computed by others, `cached_tokens` before the first
    new token. `row` is the sequence's place in the runner's batch while it runs, and `synced` how
    many entries of `table` the runner knows.
    """

    id: str
    program: str
    tokens: list[int]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    key: PriorityKey = (0.0,)
    salt: str = ""
    matcher: Matcher | None = None
    arrival: int = 0
    state: State = State.WAITING
    prompt_tokens: int = 0
    computed: int = 0
    adopted: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    table: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    row: int = -1
    synced: int = 0

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def order(self) -> tuple[PriorityKey, int]:
        """What sequences are served by: the key, then arrival. Unique."""
        return self.key, self.arrival

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    def hash_blocks(self) -> list[bytes]:
        """The hashes of all full blocks of `tokens`, each computed once."""
        extend_chain(self.hashes, self.tokens, self.salt)
        return self.hashes
