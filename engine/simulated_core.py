"""The simulated engine's core: the real one with a cost model in place of the forward pass. Knows no event loop.

Scheduler, blocks, tiers and leases are the real engine's. Owns what a step costs, and for how many steps nothing
changes.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from engine.config import BLOCK_TOKENS, EngineConfig
from engine.costs import EngineProfile, Work, pairs_of
from engine.history import Chain
from engine.intake import Prepared, check_key, check_request, check_sampling
from engine.jumps import JumpingScheduler
from engine.kv.cache import CopyKind, Path
from engine.kv.prefix import Digest
from engine.local import LocalEngine
from engine.outputs import Delivery, Output
from engine.protocol import (
    EngineError,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    PromptTooLong,
    TokenChunk,
)
from engine.sequence import Sequence
from engine.step import Result, Step
from engine.streams import PromptBook, StreamCodec, StreamTokens

if TYPE_CHECKING:
    from engine.clock import Clock
    from engine.text import TextCodec

STREAM_TOKENS = 64
"""Tokens of a reference's output that are told at once; those of a spelled-out prompt are told one by one."""
_FAR = 1 << 30
_PROGRAMS = 4096
"""So many more programs than chains are known by their latest request."""


class SimulatedCore(LocalEngine):
    """A `LocalEngine` whose steps cost what a profile says. Its caller lets that time pass between begin and finish."""

    _scheduler_type = JumpingScheduler
    _scheduler: JumpingScheduler

    def __init__(self, profile: EngineProfile, clock: Clock, book: PromptBook, *, lease_share: float = 0.95) -> None:
        config = EngineConfig(
            profile.name,
            name=profile.name,
            token_budget=max(profile.token_budget, profile.max_running + BLOCK_TOKENS),
            max_running=profile.max_running,
            kv_blocks=profile.blocks,
            queue_limit=1 << 20,
            lease_share=lease_share,
            max_lease_ttl_s=3600.0,
        )
        info = ModelInfo(
            profile.name,
            min(profile.context_tokens, profile.blocks * BLOCK_TOKENS),
            StreamCodec.vocab_size,
            profile.kv_bytes_per_token,
        )
        self.codec = StreamCodec(book)
        block_bytes = BLOCK_TOKENS * profile.kv_bytes_per_token
        super().__init__(
            config,
            info,
            _NoRunner(block_bytes / profile.copy_bytes_per_s),
            cast("TextCodec", self.codec),
            clock,
            blocks=profile.blocks,
            host_blocks=profile.host_bytes // block_bytes,
        )
        self.capabilities = replace(self.capabilities, grammar=False, logprobs=False)
        self._profile = profile
        self._skipped = 0
        self._untold: dict[str, int] = {}
        self._latest: dict[str, str] = {}
        """The last ended request of a program, whose chain its next one probably continues."""

    # prompts

    def prepare(self, request: GenerateRequest) -> Prepared:
        """As in the real engine; a prompt that is a reference is never spelled out, nor hashed where it was before."""
        name = self.codec.named(request.messages)
        if name is None:
            return super().prepare(request)
        check_sampling(request.sampling)
        check_key(request.key)
        check_request(request)
        prompt = self.codec.prompt(name, request.program)
        if len(prompt) + 1 > self.model.context_tokens:
            limit = f"the context is {self.model.context_tokens} with at least 1 of output"
            raise PromptTooLong(f"the prompt has {len(prompt)} tokens, {limit}")
        hashes, tail, path = self._known(request, prompt)
        prompt.extend_keys(hashes, request.salt)
        return Prepared(request, cast("list[int]", prompt), "", (None,), hashes, tail, path)

    def _known(
        self, request: GenerateRequest, prompt: StreamTokens
    ) -> tuple[list[Any], tuple[Digest, int] | None, Path | None]:
        """What the program's last chain tells of this prompt: names of its first blocks, and where they lay."""
        chain = self._history.get(self._latest.get(request.program, ""))
        if chain is None or chain.salt != request.salt or not isinstance(chain.tokens, StreamTokens):
            return [], None, None
        common = prompt.common(chain.tokens)
        blocks = common // BLOCK_TOKENS
        tail = (chain.tail, chain.computed) if chain.tail is not None and common >= chain.computed else None
        path, index = chain.path, self._cache.device.index
        if path is not None and blocks < len(path.blocks):
            still = blocks > 0 and index.serial(path.blocks[-1]) == path.serial and path.blocks[-1] in index
            path = self._cache.device.path(path.blocks[:blocks]) if still else None
        return chain.hashes[:blocks], tail, path

    def _chain(self, call: Output) -> Chain:
        self._latest[call.sequence.program] = call.sequence.id
        chain = super()._chain(call)
        if len(self._latest) > 2 * len(self._history) + _PROGRAMS:
            self._latest = {program: id for program, id in self._latest.items() if self._history.get(id)}
        return chain

    # what a step costs

    def cost(self, step: Step) -> float:
        """Seconds of one step."""
        pairs = sum(pairs_of(piece.start, piece.count) for piece in step.pieces)
        work = Work(step.tokens, pairs, self._read(step), len(step.pieces))
        seconds = self._profile.seconds(work, len(step.decodes) + len(step.pieces)) if step.sequences else 0.0
        for kind in {kind for kind, _ in step.copies}:  # each way has a stream of its own beside the computation
            blocks = sum(len(pairs) for way, pairs in step.copies if way is kind)
            seconds = max(seconds, blocks * self._runner.copy_s_per_block)
        return seconds

    def pace(self, step: Step) -> Pace:
        """What steps like this one cost, one after the other: each reads and attends to what the one before added."""
        pairs = sum(piece.count * piece.count for piece in step.pieces)
        return Pace(self.cost(step), self._profile.read_s * len(step.decodes) + self._profile.pair_s * pairs)

    def _read(self, step: Step) -> int:
        """Tokens of KV that the step's decodes read: with `shared_prefix_decode` a block once for all that hold it."""
        decodes = step.decodes
        read = sum([sequence.computed for sequence in decodes]) + len(decodes)
        if self._profile.shared_prefix_decode and len(decodes) > 1:
            own = sum(len(piece.sequence.table) - piece.sequence.adopted for piece in step.pieces)
            held = sum([len(sequence.table) for sequence in decodes])
            read -= max(held - (self._cache.device.pool.active - own), 0) * BLOCK_TOKENS
        return read

    def alike(self, step: Step) -> int:
        """How many steps from this one on change nothing but some tokens more for each of its sequences."""
        steps = _FAR
        for sequence in step.decodes:
            tokens = sequence.tokens
            if not isinstance(tokens, StreamTokens):
                return 1
            most = tokens.output if tokens.output < sequence.max_tokens else sequence.max_tokens
            left = most + sequence.prompt_tokens - tokens.size
            if left < steps:
                steps = left
        return self._scheduler.alike(step, steps)

    # many steps, or one

    def skip(self, step: Step, steps: int, pace: Pace) -> None:
        """`steps` steps like this one are over, fewer than `alike` said; `step` is the next one, which runs."""
        self._scheduler.skip(step, steps)
        self._skipped = steps
        self._began_s += pace.seconds(steps)
        if step.pieces:
            for number in range(steps):
                self._learn(step, pace.first_s + pace.more_s * number)

    def finish_one(self, step: Step) -> list[Delivery]:
        """The step is computed."""
        decodes, sampled = step.decodes, step.sampled
        steps, self._skipped = self._skipped + 1, 0
        if any(type(sequence.tokens) is list for sequence in sampled):
            return self.finish(step, [self._sample(sequence) for sequence in sampled])
        now_s = self._clock.now()
        self._scheduler.advance(step, (0,) * len(sampled))
        if step.pieces:
            for sequence in sampled[len(decodes) :]:
                call = self._outputs.get(sequence.id)
                if call is not None:
                    self._deliver(call, 0, now_s)
            self._learn(step, now_s - self._began_s)
        self._count(decodes, steps)
        deliveries, self._outbox = self._outbox, []
        return deliveries

    def _count(self, decodes: Seq[Sequence], steps: int) -> None:
        """Each of `decodes` has `steps` tokens more: tell of those with enough of them, and of those that end."""
        untold = self._untold
        for sequence in decodes:
            made = untold[sequence.id] = untold.get(sequence.id, 0) + steps
            tokens = cast("StreamTokens", sequence.tokens)
            generated = tokens.size - sequence.prompt_tokens
            if made >= STREAM_TOKENS or generated >= tokens.output or generated >= sequence.max_tokens:
                call = self._outputs.get(sequence.id)
                if call is not None:
                    self._hand_over(call, tokens)

    def _sample(self, sequence: Sequence) -> int:
        """The next token: a function of the prompt's name, the position and, if tokens are drawn, the seed."""
        if isinstance(sequence.tokens, StreamTokens):
            return 0
        params = sequence.sampling
        prefix = tuple(sequence.tokens[: sequence.prompt_tokens])
        drawn = (params.seed, params.temperature) if params.temperature else ()
        return hash((prefix, sequence.generated, drawn)) % StreamCodec.vocab_size

    def _deliver(self, call: Output, result: Result, now_s: float) -> None:
        sequence = call.sequence
        tokens = sequence.tokens
        if not isinstance(tokens, StreamTokens):
            super()._deliver(call, result, now_s)
            return
        self._note_first(call, now_s)
        untold = self._untold[sequence.id] = self._untold.get(sequence.id, 0) + 1
        if untold >= STREAM_TOKENS or sequence.generated >= min(tokens.output, sequence.max_tokens):
            self._hand_over(call, tokens)

    def _hand_over(self, call: Output, tokens: StreamTokens) -> None:
        """Tell of the tokens made since the last time; the output ends if they were its last."""
        sequence = call.sequence
        made = (0,) * self._untold.pop(sequence.id)
        if sequence.generated >= tokens.output:
            self._finish(call, FinishReason.STOP, ".", made)
        elif sequence.generated >= sequence.max_tokens:
            self._finish(call, FinishReason.LENGTH, ".", made)
        else:
            self._emit(call, TokenChunk("", made, index=call.index))

    def _end(self, sequence: Sequence) -> None:
        self._untold.pop(sequence.id, None)
        super()._end(sequence)


class Pace(NamedTuple):
    """Steps of a jump: the first takes `first_s` seconds, each later one `more_s` more than the one before."""

    first_s: float
    more_s: float

    def seconds(self, steps: int) -> float:
        """What the first `steps` steps take."""
        return steps * (self.first_s + self.more_s * (steps - 1) / 2)

    def begun(self, elapsed_s: float, most: int) -> int:
        """How many steps have begun after `elapsed_s`, 1 to `most`: the least n with `seconds(n) > elapsed_s`."""
        elapsed_s = max(elapsed_s, 0.0)
        if self.seconds(most) <= elapsed_s:
            return most
        half, linear = self.more_s / 2, self.first_s - self.more_s / 2
        root = (linear * linear + 4 * half * elapsed_s) ** 0.5
        steps = min(int(2 * elapsed_s / (linear + root)) + 1, most)
        while steps > 1 and self.seconds(steps - 1) > elapsed_s:
            steps -= 1
        while steps < most and self.seconds(steps) <= elapsed_s:
            steps += 1
        return steps


class _NoRunner:
    """Stands where a model would: a simulated step has no tensors."""

    def __init__(self, copy_s_per_block: float) -> None:
        self.copy_s_per_block = copy_s_per_block

    def run(self, step: Step) -> list[Result]:
        raise EngineError("a simulated engine is stepped by its event loop")

    def copy(self, kind: CopyKind, pairs: Seq[tuple[int, int]]) -> None:
        return

    def wipe(self, blocks: Seq[int]) -> None:
        return
