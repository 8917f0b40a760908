"""The local engine's core: requests in, steps, chunks out. Synchronous, in one thread; knows no sockets and no asyncio.

`LocalEngine.step` is the whole loop: expire, schedule, run, deliver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine.clock import Clock
from engine.config import BLOCK_TOKENS, EngineConfig
from engine.kv.cache import BlockCache
from engine.protocol import (
    Capabilities,
    EngineError,
    EngineEvent,
    Estimate,
    FinishReason,
    GenerateRequest,
    InvalidRequest,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    PriorityKey,
    PrioritySupport,
    PromptTooLong,
    RetentionSupport,
    SamplingParams,
    Tier,
    TokenChunk,
    Usage,
)
from engine.scheduler import Scheduler, Step
from engine.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from engine.grammar import GrammarCompiler
    from engine.text import TextCodec, TextStream

Delivery = tuple[str, TokenChunk | EngineError]
"""A request's id and what it gets: a chunk, or the error that ends it."""

_MEMORY = 0.9
"""Weight of the past in the running mean of prefill speed."""


class Runner(Protocol):
    """What computes a step: a model on a device, or something that stands for it."""

    def run(self, step: Step) -> list[int | EngineError]: ...

    def wipe(self, blocks: Seq[int]) -> None: ...


@dataclass(slots=True)
class _Call:
    """A live request: its sequence, the text so far, and when what happened (seconds on the clock)."""

    sequence: Sequence
    text: TextStream
    arrived_s: float
    started_s: float | None = None
    first_token_s: float | None = None


class LocalEngine:
    """Generates with one model. Every method returns at once, but for `step`, which runs one forward pass."""

    def __init__(
        self,
        config: EngineConfig,
        info: ModelInfo,
        runner: Runner,
        codec: TextCodec,
        clock: Clock,
        *,
        blocks: int,
        eos_ids: tuple[int, ...] = (),
    ) -> None:
        self.model = info
        self.capabilities = Capabilities(
            priority=PrioritySupport.MUTABLE,
            retention=RetentionSupport.HARD,
            max_lease_ttl_s=config.max_lease_ttl_s,
            grammar=True,
            estimate=True,
            kv_tokens=blocks * BLOCK_TOKENS,
            max_running=config.max_running,
        )
        self._runner, self._codec, self._clock = runner, codec, clock
        self._eos_ids = frozenset(eos_ids)
        self._grammars: GrammarCompiler | None = None
        self._cache = BlockCache(
            blocks,
            clock,
            lease_blocks=int(blocks * config.lease_share),
            max_ttl_s=config.max_lease_ttl_s,
            block_bytes=info.kv_bytes_per_token * BLOCK_TOKENS,
        )
        self._scheduler = Scheduler(
            self._cache,
            token_budget=config.token_budget,
            max_running=config.max_running,
            queue_limit=config.queue_limit,
        )
        self._calls: dict[str, _Call] = {}
        self._outbox: list[Delivery] = []
        self._prefill_s_per_token = 0.0
        self._began_s = 0.0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._outbox)

    def next_deadline_s(self) -> float | None:
        """When `step` has something to do even without work: the next lease's end, on the clock."""
        return self._cache.leases.next_deadline_s()

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request; its chunks come from `step`. Raises the `EngineError` that refuses it."""
        if request.id in self._calls:
            raise InvalidRequest(f"request id {request.id!r} is in use")
        check_sampling(request.sampling)
        check_key(request.key)
        limit = self.model.context_tokens
        prompt = self._prompt(request, limit)
        sequence = Sequence(
            id=request.id,
            program=request.program,
            tokens=prompt,
            max_tokens=min(request.sampling.max_tokens, limit - len(prompt)),
            sampling=request.sampling,
            key=request.key,
            salt=request.salt,
            matcher=self._compiler().matcher(request.grammar) if request.grammar is not None else None,
        )
        self._scheduler.add(sequence)
        self._calls[request.id] = _Call(sequence, self._codec.stream(request.sampling.stop), self._clock.now())

    def abort(self, request: str) -> None:
        """End a request now; its last chunk says `ABORTED`."""
        call = self._calls.get(request)
        if call is not None:
            self._finish(call, FinishReason.ABORTED, call.text.flush(), ())

    def reprioritize(self, program: str, key: PriorityKey) -> None:
        check_key(key)
        self._scheduler.reprioritize(program, key)

    def retain(self, lease: Lease) -> LeaseGrant:
        return self._cache.leases.grant(lease, self._cache.chain(lease.token_ids, lease.salt))

    def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return self._cache.leases.extend(lease, ttl_s)

    def release(self, lease: str, outcome: LeaseOutcome) -> None:
        self._cache.leases.release(lease, outcome)

    def demote(self, lease: str) -> LeaseGrant:
        """There is no lower tier: the blocks are given up."""
        self._cache.leases.release(lease, LeaseOutcome.PRESSURE)
        return LeaseGrant(lease, 0, None, 0.0)

    def prefetch(self, lease: str, within_s: float) -> None:
        """What a lease holds is on the device already."""

    def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        """Seconds by the measured mean of prefill; 0 until a prompt was run."""
        cached = len(self._cache.chain(prompt_ids, salt)) * BLOCK_TOKENS
        cached = min(cached, max(len(prompt_ids) - 1, 0) // BLOCK_TOKENS * BLOCK_TOKENS)
        queued = self._scheduler.waiting_tokens
        return Estimate(
            cached_tokens={Tier.DEVICE: cached},
            prefill_s=(len(prompt_ids) - cached) * self._prefill_s_per_token,
            queue_s=queued * self._prefill_s_per_token,
        )

    def drain_events(self) -> list[EngineEvent]:
        return self._cache.drain_events()

    def step(self) -> list[Delivery]:
        """Run one forward pass if there is work; what the requests get from it."""
        step = self.begin()
        return self.finish(step, self._run(step) if step else [])

    def begin(self) -> Step:
        """Expire leases and take the next step's work; it is empty only if there is none. `finish` must follow."""
        self._began_s = self._clock.now()
        self._cache.leases.expire(self._scheduler.is_queued)
        step = self._scheduler.schedule()
        for piece in step.pieces:
            call = self._calls[piece.sequence.id]
            if call.started_s is None:
                call.started_s = self._began_s
        return step

    def finish(self, step: Step, results: Seq[int | EngineError]) -> list[Delivery]:
        """The step is computed: `results` go to `step.sampled`. What the requests get, refusals and aborts included."""
        if step:
            ended_s = self._clock.now()
            self._scheduler.advance(step, [result if isinstance(result, int) else None for result in results])
            for sequence, result in zip(step.sampled, results, strict=True):
                self._deliver(self._calls[sequence.id], result, ended_s)
            self._learn(step, ended_s - self._began_s)
        deliveries, self._outbox = self._outbox, []
        return deliveries

    def check(self) -> None:
        """Raise AssertionError unless all bookkeeping agrees."""
        self._scheduler.check()

    # one step's results

    def _run(self, step: Step) -> list[int | EngineError]:
        try:
            return self._runner.run(step)
        except Exception as error:  # whatever the device says, only this step's requests suffer
            fault = error if isinstance(error, EngineError) else EngineError(f"the forward pass failed: {error}")
            sampled = {sequence.id for sequence in step.sampled}
            for sequence in step.sequences:
                if sequence.id not in sampled:
                    self._fail(self._calls[sequence.id], fault)
            return [fault for _ in step.sampled]

    def _deliver(self, call: _Call, result: int | EngineError, now_s: float) -> None:
        """Turn a request's next token into a chunk, and end the request if it is its last."""
        if isinstance(result, EngineError):
            self._fail(call, result)
            return
        sequence, matcher = call.sequence, call.sequence.matcher
        if call.first_token_s is None:
            call.first_token_s = now_s
        if result in self._eos_ids and (matcher is not None or not sequence.sampling.ignore_eos):
            self._finish(call, FinishReason.STOP, call.text.flush(), (result,))
            return
        text = call.text.push(result)
        if matcher is not None:
            try:
                matcher.accept(result)
            except EngineError as error:
                self._fail(call, error)
                return
        if call.text.stopped:
            self._finish(call, FinishReason.STOP, text, (result,))
        elif matcher is not None and matcher.complete:
            self._finish(call, FinishReason.STOP, text + call.text.flush(), (result,))
        elif sequence.generated >= sequence.max_tokens:
            self._finish(call, FinishReason.LENGTH, text + call.text.flush(), (result,))
        else:
            self._outbox.append((sequence.id, TokenChunk(text, (result,))))

    def _finish(self, call: _Call, finish: FinishReason, text: str, token_ids: tuple[int, ...]) -> None:
        sequence, now_s = call.sequence, self._clock.now()
        started_s = now_s if call.started_s is None else call.started_s
        first_s = now_s if call.first_token_s is None else call.first_token_s
        usage = Usage(
            prompt_tokens=sequence.prompt_tokens,
            cached_tokens=sequence.cached_tokens,
            output_tokens=sequence.generated,
            queue_s=started_s - call.arrived_s,
            prefill_s=first_s - started_s,
            decode_s=now_s - first_s,
            preemptions=sequence.preemptions,
        )
        self._outbox.append((sequence.id, TokenChunk(text, token_ids, finish, usage)))
        self._end(sequence)

    def _fail(self, call: _Call, error: EngineError) -> None:
        """End one request with an error; nothing that it computed is used again."""
        sequence = call.sequence
        table = list(sequence.table)
        self._scheduler.forget(sequence)
        self._outbox.append((sequence.id, error))
        self._end(sequence)
        self._runner.wipe([block for block in table if self._cache.pool.is_free(block)])

    def _end(self, sequence: Sequence) -> None:
        self._scheduler.end(sequence)
        del self._calls[sequence.id]

    def _learn(self, step: Step, seconds: float) -> None:
        """Keep a running mean of seconds per prompt token, from steps that are mostly prompts."""
        tokens = step.tokens
        if tokens - len(step.decodes) < max(len(step.decodes), BLOCK_TOKENS):
            return
        rate = seconds / tokens
        known = self._prefill_s_per_token
        self._prefill_s_per_token = rate if known == 0.0 else _MEMORY * known + (1 - _MEMORY) * rate

    def _prompt(self, request: GenerateRequest, limit: int) -> list[int]:
        """The request's prompt as ids. Raises `InvalidRequest`, `PromptTooLong`."""
        if bool(request.messages) == bool(request.prompt_ids):
            raise InvalidRequest("a request needs either messages or prompt_ids")
        if request.messages:
            text = self._codec.render(request.messages)
            if len(text) > limit * self._codec.longest_token:
                raise PromptTooLong(f"the prompt has {len(text)} characters, the context is {limit} tokens")
            prompt = self._codec.encode(text)
            if not prompt:
                raise InvalidRequest("the rendered prompt is empty")
        else:
            prompt = list(request.prompt_ids)
        if len(prompt) + 1 > limit:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, the context is {limit} with at least 1 of output"
            )
        if request.prompt_ids:
            check_ids(prompt, self.model.vocab_size)
        return prompt

    def _compiler(self) -> GrammarCompiler:
        """Built when the first grammar comes: large vocabularies take a second."""
        if self._grammars is None:
            from engine.grammar import GrammarCompiler

            self._grammars = GrammarCompiler(self._codec.to_json(), self.model.vocab_size, tuple(self._eos_ids))
        return self._grammars


def check_ids(ids: Seq[int], vocab_size: int) -> None:
    """Raise `InvalidRequest` naming the first id that the model does not know."""
    for token in ids:
        if not isinstance(token, int) or not 0 <= token < vocab_size:
            raise InvalidRequest(f"prompt id {token!r} is outside the vocabulary of {vocab_size}")


def check_key(key: PriorityKey) -> None:
    """Raise `InvalidRequest` unless keys can be ordered: a tuple of numbers, none of them NaN."""
    if not isinstance(key, tuple) or not all(isinstance(part, int | float) and part == part for part in key):
        raise InvalidRequest(f"a priority key must be a tuple of numbers, not {key!r}")


def check_sampling(params: SamplingParams) -> None:
    """Raise `InvalidRequest` naming the parameter that is out of range."""
    rules = (
        ("max_tokens", isinstance(params.max_tokens, int) and params.max_tokens >= 1, "a whole number from 1"),
        ("temperature", 0.0 <= params.temperature < math.inf, "a number from 0"),
        ("top_p", 0.0 < params.top_p <= 1.0, "above 0 and at most 1"),
        ("top_k", isinstance(params.top_k, int) and params.top_k >= 0, "0 (off) or a whole number above"),
        ("min_p", 0.0 <= params.min_p <= 1.0, "0 to 1"),
        ("seed", isinstance(params.seed, int), "a whole number"),
        ("stop", all(isinstance(stop, str) and stop for stop in params.stop), "strings that are not empty"),
    )
    for name, fits, wanted in rules:
        if not fits:
            raise InvalidRequest(f"sampling.{name} must be {wanted}, not {getattr(params, name)!r}")
