"""A runner whose "KV" is a hash of the token prefix, and a codec without text: the engine without a model.

What a slot holds is a pure function of the tokens before it, so a block that is reused wrongly, read before it is
written or overwritten shows at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.clock import Clock, ManualClock
from engine.config import BLOCK_TOKENS, EngineConfig
from engine.kv.cache import CopyKind
from engine.local import LocalEngine
from engine.protocol import EngineError, ModelInfo, NumericalFault, Tier
from engine.sequence import Sequence
from engine.step import Result, Step

VOCAB = 1000
POISON = 0
"""A prompt token that makes everything computed from it NaN."""
NAN = -1
_PRIME = (1 << 61) - 1


def extend_hash(previous: int, token: int) -> int:
    """The "KV" of a position: of the position before it and its token."""
    if previous == NAN or token == POISON:
        return NAN
    return (previous * 1_000_003 + token + 7) % _PRIME


def next_token(state: int, seed: int = 0) -> int:
    return (state + seed) % (VOCAB - 1) + 1


def expected_output(prompt: Seq[int], count: int, seed: int = 0) -> list[int] | None:
    """What any correct engine generates; None if the prompt is poisoned."""
    state = 1
    for token in prompt:
        state = extend_hash(state, token)
    if state == NAN:
        return None
    out: list[int] = []
    for _ in range(count):
        out.append(next_token(state, seed))
        state = extend_hash(state, out[-1])
    return out


def logprob_of(token: int) -> float:
    """How probable the fake model holds a token to be."""
    return -token / VOCAB


class FakeRunner:
    """Slots of blocks in two tiers; fails the test when a sequence's table does not hold its own prefix."""

    def __init__(self, blocks: int, host_blocks: int = 0, clock: ManualClock | None = None) -> None:
        self.kv: list[list[int | None]] = [[None] * BLOCK_TOKENS for _ in range(blocks)]
        self.host: list[list[int | None]] = [[None] * BLOCK_TOKENS for _ in range(host_blocks)]
        self.steps = self.tokens = self.copied = 0
        self.crash: Exception | None = None
        self.copy_s_per_block = 0.0
        self.s_per_token = 0.0
        self._clock = clock
        self._states: dict[int, tuple[Sequence, list[int]]] = {}

    def run(self, step: Step) -> list[Result]:
        self.steps += 1
        self.tokens += step.tokens
        if self._clock is not None:
            self._clock.advance(self.s_per_token * step.tokens)
        self._crash()
        for sequence in step.decodes:
            self._write(sequence, sequence.computed, 1, ())
        for piece in step.pieces:
            self._write(piece.sequence, piece.start, piece.count, piece.draft)
        drafts = {piece.sequence.id: piece.draft for piece in step.pieces if piece.draft}
        results: list[Result] = []
        for sequence in step.sampled:
            if sequence.id in drafts:
                results.append(self._verify(sequence, drafts[sequence.id]))
            else:
                results.append(self._sample(sequence, self._states_of(sequence, ())[-1]))
        if len(self._states) > 4 * len(step.sequences) + 64:
            self._states = {key: value for key, value in self._states.items() if value[0] in set(step.sequences)}
        return results

    def copy(self, kind: CopyKind, pairs: Seq[tuple[int, int]]) -> None:
        self._crash()
        sources = self.host if kind is CopyKind.HOST_TO_DEVICE else self.kv
        targets = self.host if kind is CopyKind.DEVICE_TO_HOST else self.kv
        self.copied += len(pairs)
        for source, target in pairs:
            targets[target][:] = sources[source]

    def contents(self, tier: Tier, block: int) -> bytes:
        return repr((self.kv if tier is Tier.DEVICE else self.host)[block]).encode()

    def wipe(self, blocks: Seq[int]) -> None:
        for block in blocks:
            self.kv[block][:] = [None] * BLOCK_TOKENS

    def _crash(self) -> None:
        if self.crash is not None:
            error, self.crash = self.crash, None
            raise error

    def _states_of(self, sequence: Sequence, draft: tuple[int, ...]) -> list[int]:
        """What the "KV" of each position of a sequence must be."""
        _, states = self._states.setdefault(id(sequence), (sequence, []))
        for token in sequence.tokens[len(states) :]:
            states.append(extend_hash(states[-1] if states else 1, token))
        if not draft:
            return states
        guessed = list(states)
        for token in draft:
            guessed.append(extend_hash(guessed[-1], token))
        return guessed

    def _write(self, sequence: Sequence, start: int, count: int, draft: tuple[int, ...]) -> None:
        states, table = self._states_of(sequence, draft), sequence.table
        for index in range(-(-start // BLOCK_TOKENS)):
            first = index * BLOCK_TOKENS
            held = min(start - first, BLOCK_TOKENS)
            assert self.kv[table[index]][:held] == states[first : first + held], f"{sequence.id}: wrong KV in {index}"
        for position in range(start, start + count):
            self.kv[table[position // BLOCK_TOKENS]][position % BLOCK_TOKENS] = states[position]

    def _verify(self, sequence: Sequence, draft: tuple[int, ...]) -> Result:
        """The guessed tokens that are right, and the one after them."""
        accepted: list[int] = []
        for state in self._states_of(sequence, draft)[len(sequence.tokens) - 1 :]:
            token = self._sample(sequence, state)
            if isinstance(token, EngineError):
                return token
            accepted.append(token)
            if len(accepted) > len(draft) or token != draft[len(accepted) - 1]:
                break
        return tuple(accepted)

    def _sample(self, sequence: Sequence, state: int) -> int | EngineError:
        if state == NAN:
            return NumericalFault("NaN")
        token = next_token(state, sequence.sampling.seed)
        if sequence.sampling.logprobs >= 0:
            sequence.logprob += logprob_of(token)
            sequence.scores.append((logprob_of(token), []))
        return token


class FakeText:
    """An output without text."""

    stopped = False

    def push(self, token: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


class FakeCodec:
    """A codec for prompts that are ids."""

    longest_token = 1

    def stream(self, stops: Seq[str] = ()) -> FakeText:
        return FakeText()


def fake_engine(
    clock: Clock,
    blocks: int,
    *,
    context_tokens: int = 512,
    token_budget: int = 64,
    max_running: int = 8,
    host_blocks: int = 0,
    **settings: float,
) -> tuple[LocalEngine, FakeRunner]:
    """A local engine over a `FakeRunner`."""
    config = EngineConfig(
        "fake",
        token_budget=token_budget,
        max_running=max_running,
        kv_blocks=blocks,
        **settings,  # type: ignore[arg-type]
    )
    info = ModelInfo("fake", min(context_tokens, blocks * BLOCK_TOKENS), VOCAB, 1)
    runner = FakeRunner(blocks, host_blocks, clock if isinstance(clock, ManualClock) else None)
    codec = FakeCodec()
    engine = LocalEngine(config, info, runner, codec, clock, blocks=blocks, host_blocks=host_blocks)  # type: ignore[arg-type]
    return engine, runner
