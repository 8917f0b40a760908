"""One output as the scheduler and the runner see it: tokens, how far they are computed, where their KV lies."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from engine.config import BLOCK_TOKENS
from engine.kv.blocks import Blocks, blocks_of
from engine.kv.cache import Path
from engine.kv.prefix import Digest, extend_chain, tail_digest
from engine.protocol import PriorityKey, SamplingParams

if TYPE_CHECKING:
    from engine.grammar import Matcher
    from engine.lora import Adapter


def blocks_for(tokens: int) -> int:
    """Blocks that `tokens` positions take."""
    return -(-tokens // BLOCK_TOKENS)


class State(Enum):
    """WAITING with a `table`: paused, its KV stays on the device; with `saved`: swapped, it is held on the host."""

    WAITING = auto()
    RUNNING = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and what was generated after it.

    `computed` tokens have their KV in the blocks of `table`; the rest of `tokens` is still to be run. `hashes` names
    the full blocks of `tokens`; the first `adopted` blocks were not computed by this sequence, the first `shared` of
    them were on the device already; `cached_tokens` were found before the first new token, `recomputed_tokens` had
    been evicted. `tail`: (digest, tokens) of a partial block that may be gone on with where the full blocks end.
    `path`: where an earlier chain's prefix of these tokens lay; `continues`: that chain's request. `expected` is the
    output length to plan memory with, and `owed` the blocks it will still take by that. `draft`: tokens guessed to
    come next, to be verified in one step; `logprob`: the sum over the output, if the sampler was asked for it, and
    `scores` (logprob, most probable tokens with theirs) of tokens that were not delivered yet.
    `decoding`: the prompt is done; `stalled`: there is no memory for the next token;
    `queued`: it waits and holds nothing on the device, `entry` is
    its place in the queue. `row` is the sequence's place in
    the runner's batch while it runs, and `synced` how many entries of `table` the runner knows.
    """

    id: str
    program: str
    tokens: list[int]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    key: PriorityKey = (0.0,)
    salt: str = ""
    matcher: Matcher | None = None
    expected: int = 0
    continues: str = ""
    arrival: int = 0
    state: State = State.WAITING
    prompt_tokens: int = 0
    computed: int = 0
    adopted: int = 0
    shared: int = 0
    cached_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    owed: int = 0
    table: Blocks[int] = field(default_factory=blocks_of)
    saved: Blocks[int] = field(default_factory=blocks_of)
    hashes: list[Any] = field(default_factory=list)
    tail: tuple[Digest, int] | None = None
    path: Path | None = None
    row: int = -1
    synced: int = 0
    draft: tuple[int, ...] = ()
    logprob: float = 0.0
    scores: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    adapter: Adapter | None = None
    decoding: bool = False
    stalled: bool = False
    queued: bool = False
    entry: list[Any] | None = None

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)

    @property
    def order(self) -> tuple[PriorityKey, int]:
        """What sequences are served by: the key, then arrival. Unique."""
        return self.key, self.arrival

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_tokens

    @property
    def mean_logprob(self) -> float:
        return self.logprob / max(self.generated, 1)

    @property
    def remaining(self) -> int:
        """Output tokens still expected; a block's worth of one that outlives its estimate."""
        return min(max(self.expected - self.generated, BLOCK_TOKENS), self.max_tokens - self.generated)

    def hash_blocks(self) -> list[Any]:
        """The digests of all full blocks of `tokens`, each computed once."""
        extend_chain(self.hashes, self.tokens, self.salt)
        return self.hashes

    def tail_digest(self) -> Digest | None:
        """The name of the partial last block of what is computed; None if there is none."""
        return tail_digest(self.hash_blocks(), self.tokens, self.computed, self.salt)

    def check_on_device(self) -> None:
        """Raise AssertionError unless what it holds on the device and what is computed agree."""
        assert not self.queued, "one that holds blocks waits as if it held none"
        assert self.computed <= len(self.table) * BLOCK_TOKENS, "a table is too short"
        assert self.computed < len(self.tokens), "a sequence has nothing left to compute"
        assert not self.decoding or self.computed == len(self.tokens) - 1, "a decode is not at its end"
