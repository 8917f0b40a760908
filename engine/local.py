"""The local engine's core: requests in, steps, chunks out. Synchronous, in one thread; knows no sockets and no asyncio.

`LocalEngine.step` is the whole loop: expire, schedule, run, deliver.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, ClassVar, Protocol

from engine.clock import Clock
from engine.config import BLOCK_TOKENS, EngineConfig
from engine.history import Chain, History
from engine.intake import Intake, Prepared, check_key
from engine.kv.cache import BlockCache, CopyKind
from engine.kv.prefix import Digest, extend_chain
from engine.outputs import Delivery, Output, Request
from engine.protocol import (
    Capabilities,
    EngineError,
    EngineEvent,
    EngineEventKind,
    EngineStep,
    Estimate,
    FinishReason,
    GenerateRequest,
    InvalidRequest,
    KVBlocks,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    PriorityKey,
    PrioritySupport,
    RetentionSupport,
    Tier,
    TokenChunk,
    Usage,
)
from engine.scheduler import Scheduler
from engine.sequence import Sequence
from engine.speculation import Speculator
from engine.step import Result, Step

if TYPE_CHECKING:
    from engine.lora import AdapterPool
    from engine.text import TextCodec

_MEMORY = 0.9
"""Weight of the past in running means: of prefill speed, and of output lengths."""


class Runner(Protocol):
    """What computes a step: a model on a device, or something that stands for it.

    Runs and copies take effect in the order of the calls. `copy_s_per_block`: seconds to move one block between the
    tiers, measured or known; 0 if neither.
    """

    copy_s_per_block: float

    def run(self, step: Step) -> Seq[Result]:
        """Compute the step's positions; what each of `step.sampled` gets."""
        ...

    def copy(self, kind: CopyKind, pairs: Seq[tuple[int, int]]) -> None:
        """Copy whole blocks: (source, target)."""
        ...

    def wipe(self, blocks: Seq[int]) -> None:
        """Overwrite device blocks whose contents may be NaN."""
        ...


class LocalEngine:
    """Generates with one model. Every method returns at once, but for `step`, which runs one forward pass."""

    _scheduler_type: ClassVar[type[Scheduler]] = Scheduler

    def __init__(
        self,
        config: EngineConfig,
        info: ModelInfo,
        runner: Runner,
        codec: TextCodec,
        clock: Clock,
        *,
        blocks: int,
        host_blocks: int = 0,
        eos_ids: tuple[int, ...] = (),
        adapters: AdapterPool | None = None,
    ) -> None:
        self.model = info
        copy_s = runner.copy_s_per_block
        self.capabilities = Capabilities(
            priority=PrioritySupport.MUTABLE,
            retention=RetentionSupport.HARD,
            max_lease_ttl_s=config.max_lease_ttl_s,
            fork=True,
            prefetch=host_blocks > 0,
            grammar=True,
            logprobs=True,
            estimate=True,
            kv_tokens=blocks * BLOCK_TOKENS,
            host_kv_tokens=host_blocks * BLOCK_TOKENS,
            host_tokens_per_s=BLOCK_TOKENS / copy_s if copy_s and host_blocks else 0.0,
            max_running=config.max_running,
        )
        self._runner, self._codec, self._clock = runner, codec, clock
        self._eos_ids = frozenset(eos_ids)
        self._history = History()
        self._intake = Intake(info, codec, self._history, self._eos_ids, adapters)
        self._cache = BlockCache(
            blocks,
            clock,
            host_blocks=host_blocks,
            lease_share=config.lease_share,
            max_ttl_s=config.max_lease_ttl_s,
            block_bytes=info.kv_bytes_per_token * BLOCK_TOKENS,
        )
        self._scheduler = self._scheduler_type(
            self._cache,
            token_budget=config.token_budget,
            max_running=config.max_running,
            queue_limit=config.queue_limit,
        )
        self._expected: dict[str, GenerateRequest] = {}
        self._requests: dict[str, Request] = {}
        self._outputs: dict[str, Output] = {}
        self._outbox: list[Delivery] = []
        self._output_tokens = 0.0
        self._began_s = 0.0
        self._step_share = config.trace_steps
        self._step_credit = 0.0
        self._step_events: list[EngineEvent] = []
        self._speculator = Speculator(config.draft_tokens) if config.draft_tokens else None

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._outbox) or bool(self._cache.copies)

    def next_deadline_s(self) -> float | None:
        """When `step` has something to do even without work: the next lease's end, on the clock."""
        return self._cache.leases.next_deadline_s()

    # requests

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request; its chunks come from `step`. Raises the `EngineError` that refuses it."""
        self.expect(request)
        try:
            prepared = self.prepare(request)
        except BaseException:
            self.refuse(request)
            raise
        self.accept(request, prepared)

    def expect(self, request: GenerateRequest) -> None:
        """`request` will be accepted or refused soon: until then its program's leases do not expire."""
        if request.id in self._requests or request.id in self._expected:
            raise InvalidRequest(f"request id {request.id!r} is in use")
        self._expected[request.id] = request
        self._scheduler.queue.expect(request.program)

    def prepare(self, request: GenerateRequest) -> Prepared:
        """The slow part of taking a request; any one thread may do it. Raises the `EngineError` that refuses it."""
        return self._intake.prepare(request)

    def refuse(self, request: GenerateRequest) -> bool:
        """An expected request will not come; whether it was still expected."""
        if self._expected.get(request.id) is not request:
            return False
        del self._expected[request.id]
        self._scheduler.queue.expected(request.program)
        self._scheduler.settle(request.program)
        return True

    def accept(self, expected: GenerateRequest, prepared: Prepared) -> None:
        """Queue an expected request; nothing happens if it was aborted meanwhile. Raises `QueueFull`."""
        asked, prompt = prepared.request, prepared.prompt
        if self._expected.get(asked.id) is not expected:
            return
        request = Request(asked, prepared.text, self._clock.now())
        most = min(asked.sampling.max_tokens, self.model.context_tokens - len(prompt))
        for index, matcher in enumerate(prepared.matchers):
            sequence = Sequence(
                id=f"{asked.id}#{index}" if index else asked.id,
                program=asked.program,
                tokens=prompt[:] if index else prompt,
                max_tokens=most,
                sampling=prepared.sampling(index),
                key=asked.key,
                salt=asked.salt,
                matcher=matcher,
                expected=min(asked.expected_tokens or int(self._output_tokens) or most, most),
                continues=asked.continues,
                adapter=prepared.adapter,
            )
            request.outputs.append(Output(request, sequence, self._codec.stream(asked.sampling.stop), index))
        first = request.outputs[0]
        sequence = first.sequence
        sequence.hashes, sequence.tail, sequence.path = prepared.hashes, prepared.tail, prepared.path
        try:
            self._queue(first)
            self._requests[asked.id] = request
        finally:
            self.refuse(expected)

    def abort(self, request: str) -> None:
        """End a request now; the last chunk of each of its outputs says `ABORTED`."""
        expected = self._expected.get(request)
        if expected is not None:
            self.refuse(expected)
            usage = Usage(0, 0, 0, 0.0, 0.0, 0.0)
            self._outbox.append((request, TokenChunk("", (), FinishReason.ABORTED, usage)))
        elif request in self._requests:
            for output in list(self._requests[request].outputs):
                self._finish(output, FinishReason.ABORTED, output.text.flush(), ())

    def reprioritize(self, program: str, key: PriorityKey) -> None:
        check_key(key)
        self._scheduler.reprioritize(program, key)

    def limit_running(self, limit: int) -> None:
        if not isinstance(limit, int) or limit < 1:
            raise InvalidRequest(f"the limit of running sequences must be a whole number from 1, not {limit!r}")
        self._scheduler.limit_running(limit)

    # leases

    def retain(self, lease: Lease) -> LeaseGrant:
        """Raises `InvalidRequest` for a TTL, rank or number of tokens that makes no sense."""
        if lease.tokens < 0:
            raise InvalidRequest(f"a lease's tokens must be 0 (all) or more, not {lease.tokens}")
        path = None
        digests: list[Digest] = []
        chain = self._history.get(lease.request) if lease.request and not lease.token_ids else None
        if lease.token_ids:
            extend_chain(digests, lease.token_ids, lease.salt)
        elif chain is not None:
            path, digests = chain.path, chain.digests()
        elif lease.request in self._outputs:
            sequence = self._outputs[lease.request].sequence
            digests = sequence.hash_blocks()[: sequence.computed // BLOCK_TOKENS]
        if lease.tokens and lease.tokens // BLOCK_TOKENS < len(digests):
            digests = digests[: lease.tokens // BLOCK_TOKENS]
        return self._cache.leases.grant(lease, digests, path)

    def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return self._cache.leases.extend(lease, ttl_s)

    def release(self, lease: str, outcome: LeaseOutcome) -> None:
        self._cache.leases.release(lease, outcome)

    def demote(self, lease: str) -> LeaseGrant:
        return self._cache.leases.demote(lease)

    def prefetch(self, lease: str, within_s: float) -> None:
        self._cache.leases.prefetch(lease, within_s)

    def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        """Seconds by the measured mean of prefill; 0 until a prompt was run."""
        digests: list[Digest] = []
        extend_chain(digests, prompt_ids, salt)
        limit = max(len(prompt_ids) - 1, 0) // BLOCK_TOKENS
        device = len(self._cache.find(digests, limit))
        host = len(self._cache.host.index.run(digests, device, limit))
        cached = {Tier.DEVICE: device * BLOCK_TOKENS, Tier.HOST: host * BLOCK_TOKENS}
        if not self.capabilities.host_kv_tokens:
            del cached[Tier.HOST]
        rate = self._scheduler.tables.prefill_s_per_token
        return Estimate(
            cached_tokens=cached,
            prefill_s=(len(prompt_ids) - (device + host) * BLOCK_TOKENS) * rate + host * self._runner.copy_s_per_block,
            queue_s=self._scheduler.queue.tokens * rate,
        )

    def drain_events(self) -> list[EngineEvent]:
        told, self._step_events = self._step_events, []
        return self._cache.drain_events() + told

    def kv_blocks(self) -> tuple[KVBlocks, ...]:
        """What the memory is used for: the device, then the host tier if there is one."""
        stores = (self._cache.device, self._cache.host)
        pools = ((store.tier, store.pool) for store in stores if store.pool.total)
        return tuple(KVBlocks(tier, pool.free, pool.active, pool.leased, pool.cached) for tier, pool in pools)

    # steps

    def step(self) -> list[Delivery]:
        """Run one forward pass if there is work; what the requests get from it."""
        step = self.begin()
        return self.finish(step, self._run(step) if step else [])

    def begin(self) -> Step:
        """Expire leases and take the next step's work; it is empty only if there is none. `finish` must follow."""
        self._began_s = self._clock.now()
        leases = self._cache.leases
        leases.expire(self._scheduler.queue.has)
        leases.fetch_wanted()
        self._scheduler.tables.copy_s_per_block = self._runner.copy_s_per_block
        if self._speculator is not None:
            for sequence, draft in self._speculator.drafts(s for s in self._scheduler.running if s.decoding):
                self._scheduler.draft(sequence, draft)
        copy_s, block_s = self._runner.copy_s_per_block, BLOCK_TOKENS * self._scheduler.tables.prefill_s_per_token
        self._cache.spills = copy_s <= block_s or not block_s
        step = self._scheduler.schedule()
        step.copies, self._cache.copies = self._cache.copies, []
        for piece in step.pieces:
            request = self._outputs[piece.sequence.id].request
            if request.started_s is None:
                request.started_s = self._began_s
        return step

    def finish(self, step: Step, results: Seq[Result]) -> list[Delivery]:
        """The step is computed: `results` go to `step.sampled`. What the requests get, refusals and aborts included."""
        if step:
            ended_s = self._clock.now()
            if self._step_share:
                self._tell(step, ended_s - self._began_s)
            self._scheduler.advance(step, results)
            if self._speculator is not None:
                self._speculator.learn(step, results, ended_s - self._began_s)
            for sequence, result in zip(step.sampled, results, strict=True):
                output = self._outputs.get(sequence.id)
                if output is not None:
                    self._deliver(output, result, ended_s)
            self._learn(step, ended_s - self._began_s)
        deliveries, self._outbox = self._outbox, []
        return deliveries

    def check(self) -> None:
        """Raise AssertionError unless all bookkeeping agrees."""
        self._scheduler.check()
        assert {id(output) for r in self._requests.values() for output in r.outputs if output.queued} == {
            id(output) for output in self._outputs.values()
        }, "an output without a request"

    # one step's results

    def _run(self, step: Step) -> Seq[Result]:
        try:
            for kind, pairs in step.copies:
                self._runner.copy(kind, pairs)
            return self._runner.run(step) if step.sequences else []
        except Exception as error:  # whatever the device says, only this step's requests suffer
            fault = error if isinstance(error, EngineError) else EngineError(f"the forward pass failed: {error}")
            self._distrust(step)
            sampled = {sequence.id for sequence in step.sampled}
            for sequence in step.sequences:
                output = self._outputs.get(sequence.id)
                if output is not None and sequence.id not in sampled:
                    self._fail(output, fault)
            return [fault for _ in step.sampled]

    def _distrust(self, step: Step) -> None:
        """Nobody knows what a failed step has written: its blocks and its copies' targets are used no more."""
        self._scheduler.restart(step.targets(), step.sequences)
        for kind, pairs in step.copies:
            targets = [target for _, target in pairs]
            store = self._cache.host if kind is CopyKind.DEVICE_TO_HOST else self._cache.device
            for digest in filter(None, map(store.index.name, targets)):
                self._cache.forget(digest)
            if store is self._cache.device:
                self._scheduler.restart(set(targets), step.sequences)

    def _deliver(self, output: Output, result: Result, now_s: float) -> None:
        """Turn an output's next tokens into a chunk, and end the output if one is its last."""
        if isinstance(result, Exception):
            self._fail(output, result if isinstance(result, EngineError) else EngineError(repr(result)))
            return
        self._note_first(output, now_s)
        tokens = (result,) if isinstance(result, int) else result
        text = ""
        for count, token in enumerate(tokens, 1):
            try:
                finish, piece = output.take(token, len(tokens) - count, self._eos_ids)
            except EngineError as error:
                self._fail(output, error)
                return
            text += piece
            if finish is not None:
                output.cut(len(tokens) - count)
                self._finish(output, finish, text, tokens[:count])
                return
        logprobs = output.logprobs(tokens, self._codec)
        self._emit(output, TokenChunk(text, tokens, index=output.index, logprobs=logprobs))

    def _note_first(self, output: Output, now_s: float) -> None:
        """With its first output's first token a request's prompt is computed, and its other outputs begin."""
        if output.first_token_s is None:
            output.first_token_s = now_s
            if len(output.request.outputs) > 1 and not output.index:
                self._fork(output)

    def _fork(self, first: Output) -> None:
        """The prompt of several outputs is computed: the others go on from its blocks, a copy of the partial one."""
        source = first.sequence
        tokens, table = source.prompt_tokens, source.table
        digest = self._scheduler.tables.publish_tail(source)
        path = self._cache.device.path(table[: (tokens - 1) // BLOCK_TOKENS])
        for output in first.request.outputs[1:]:
            sequence = output.sequence
            sequence.hashes, sequence.path = source.hashes[: tokens // BLOCK_TOKENS], path
            sequence.tail = None if digest is None else (digest, tokens)
            self._queue(output, forked=True)

    def _queue(self, output: Output, *, forked: bool = False) -> None:
        self._scheduler.add(output.sequence, forked=forked)
        self._outputs[output.sequence.id] = output
        output.queued = True

    def _emit(self, output: Output, chunk: TokenChunk) -> None:
        """Send a chunk, or keep it until it is known whether its output is among the best."""
        self._outbox += output.request.told(output, chunk)

    def _finish(self, output: Output, finish: FinishReason, text: str, token_ids: tuple[int, ...]) -> None:
        """End an output, and its request with the last of them."""
        sequence, request = output.sequence, output.request
        usage, logprobs = output.usage(self._clock.now()), output.logprobs(token_ids, self._codec)
        self._emit(output, TokenChunk(text, token_ids, finish, usage, output.index, logprobs))
        chain = self._chain(output) if output.queued and not output.index else None
        self._close(output)
        if chain is not None:
            self._history.add(chain)
        if finish is FinishReason.ABORTED:
            return
        known = self._output_tokens
        self._output_tokens = _MEMORY * known + (1 - _MEMORY) * sequence.generated if known else sequence.generated
        if chain is not None and request.asked.hold_s > 0:
            # Before anyone else can take the blocks. Its rank gives way to nobody's until the holder says which it is.
            rank = math.inf
            lease = Lease(chain.request, sequence.program, (), request.asked.hold_s, rank=rank, request=chain.request)
            self._cache.leases.grant(lease, chain.digests(), chain.path)

    def _chain(self, output: Output) -> Chain:
        """What an ending output leaves to those who continue or lease it."""
        sequence, device = output.sequence, self._cache.device
        full = sequence.computed // BLOCK_TOKENS
        tail = self._scheduler.tables.publish_tail(sequence) if sequence.table else None
        return Chain(
            sequence.id,
            sequence.salt,
            sequence.tokens,
            sequence.prompt_tokens,
            sequence.computed,
            sequence.hash_blocks(),
            output.request.text,
            tail if sequence.computed % BLOCK_TOKENS else None,
            device.path(sequence.table[:full]),
        )

    def _fail(self, output: Output, error: EngineError) -> None:
        """End a request with an error; nothing that its faulty output computed is used again."""
        table = list(output.sequence.table)
        self._scheduler.tables.forget(output.sequence)
        self._scheduler.end(output.sequence, keep=False)
        self._outbox.append((output.request.asked.id, error))
        for other in list(output.request.outputs):
            self._close(other)
        self._runner.wipe([block for block in table if self._cache.device.pool.is_free(block)])

    def _close(self, output: Output) -> None:
        request = output.request
        request.outputs.remove(output)
        if output.queued:
            self._end(output.sequence)
        if not request.outputs:
            del self._requests[request.asked.id]

    def _end(self, sequence: Sequence) -> None:
        del self._outputs[sequence.id]
        self._scheduler.end(sequence)
        if self._speculator is not None:
            self._speculator.forget(sequence.id)

    def _tell(self, step: Step, seconds: float) -> None:
        """An event of every so many steps, that names the requests in it."""
        self._step_credit += self._step_share
        if self._step_credit < 1.0 or not step.sequences:
            return
        self._step_credit -= 1.0
        asked = (
            self._outputs[sequence.id].request.asked for sequence in step.sequences if sequence.id in self._outputs
        )
        named = tuple(dict.fromkeys(request.traceparent for request in asked if request.traceparent is not None))
        told = EngineStep(seconds, len(step.decodes), step.tokens - len(step.decodes), named)
        self._step_events.append(EngineEvent(EngineEventKind.STEP, "", 0, step=told))

    def _learn(self, step: Step, seconds: float) -> None:
        """Keep a running mean of seconds per prompt token, from steps that are mostly prompts."""
        if not step.pieces or any(piece.draft for piece in step.pieces):
            return
        tokens = step.tokens
        if tokens - len(step.decodes) < max(len(step.decodes), BLOCK_TOKENS):
            return
        rate = seconds / tokens
        known = self._scheduler.tables.prefill_s_per_token
        self._scheduler.tables.prefill_s_per_token = rate if known == 0.0 else _MEMORY * known + (1 - _MEMORY) * rate
