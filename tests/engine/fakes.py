"""A runner whose "KV" is a hash of the token prefix, and a codec without text: the engine without a model.

What a slot holds is a pure function of the tokens before it, so a block that is reused wrongly, read before it is
written or overwritten shows at once.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.clock import Clock
from engine.config import BLOCK_TOKENS, EngineConfig
from engine.kv.cache import CopyKind
from engine.local import LocalEngine
from engine.protocol import EngineError, ModelInfo, NumericalFault
from engine.scheduler import Step
from engine.sequence import Sequence

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


def next_token(state: int) -> int:
    return state % (VOCAB - 1) + 1


def expected_output(prompt: Seq[int], count: int) -> list[int] | None:
    """What any correct engine generates; None if the prompt is poisoned."""
    state = 1
    for token in prompt:
        state = extend_hash(state, token)
    if state == NAN:
        return None
    out: list[int] = []
    for _ in range(count):
        out.append(next_token(state))
        state = extend_hash(state, out[-1])
    return out


class FakeRunner:
    """Slots of `blocks` blocks; fails the test when a sequence's table does not hold its own prefix."""

    copy_s_per_block = 0.0

    def __init__(self, blocks: int, host_blocks: int = 0) -> None:
        self.host: list[list[int | None]] = [[None] * BLOCK_TOKENS for _ in range(host_blocks)]
        self.kv: list[int | None] = [None] * (blocks * BLOCK_TOKENS)
        self.steps = 0
        self.tokens = 0
        self.crash: Exception | None = None

    def run(self, step: Step) -> list[int | EngineError]:
        self.steps += 1
        self.tokens += step.tokens
        if self.crash is not None:
            error, self.crash = self.crash, None
            raise error
        for sequence in step.decodes:
            self._write(sequence, sequence.computed, 1)
        for piece in step.pieces:
            self._write(piece.sequence, piece.start, piece.count)
        return [self._sample(sequence) for sequence in step.sampled]

    def copy(self, kind: CopyKind, pairs: Seq[tuple[int, int]]) -> None:
        for source, target in pairs:
            at, to = source * BLOCK_TOKENS, target * BLOCK_TOKENS
            if kind is CopyKind.DEVICE_TO_HOST:
                self.host[target] = self.kv[at : at + BLOCK_TOKENS]
            elif kind is CopyKind.HOST_TO_DEVICE:
                self.kv[to : to + BLOCK_TOKENS] = self.host[source]
            else:
                self.kv[to : to + BLOCK_TOKENS] = self.kv[at : at + BLOCK_TOKENS]

    def wipe(self, blocks: Seq[int]) -> None:
        for block in blocks:
            for slot in range(block * BLOCK_TOKENS, (block + 1) * BLOCK_TOKENS):
                self.kv[slot] = None

    def _slot(self, sequence: Sequence, position: int) -> int:
        return sequence.table[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS

    def _write(self, sequence: Sequence, start: int, count: int) -> None:
        state: int = 1
        for position in range(start):
            state = extend_hash(state, sequence.tokens[position])
            assert self.kv[self._slot(sequence, position)] == state, f"{sequence.id}: wrong KV at {position}"
        for position in range(start, start + count):
            state = extend_hash(state, sequence.tokens[position])
            self.kv[self._slot(sequence, position)] = state

    def _sample(self, sequence: Sequence) -> int | EngineError:
        state = self.kv[self._slot(sequence, len(sequence.tokens) - 1)]
        assert state is not None
        return NumericalFault("NaN") if state == NAN else next_token(state)


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
    runner = FakeRunner(blocks, host_blocks)
    codec = FakeCodec()
    engine = LocalEngine(config, info, runner, codec, clock, blocks=blocks, host_blocks=host_blocks)  # type: ignore[arg-type]
    return engine, runner
