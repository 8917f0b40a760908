"""A model that a worker answers for, as an engine: how scripted and recorded doubles take part in real programs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import orjson

from engine.protocol import (
    Capabilities,
    ChatMessage,
    EngineError,
    EngineEvent,
    EngineLost,
    Estimate,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    PriorityKey,
    TokenChunk,
    UnknownAdapter,
    Usage,
)
from orchestrator.clock import OrchestratorClock
from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.pool import WorkerPool
from tenuto.wire import (
    AskedCall,
    Constraint,
    GrammarConstraint,
    ModelTask,
    ModelTool,
    RegexConstraint,
    RenderedMessage,
    Sampling,
)

_PIECE = re.compile(r"\s*\S+\s*|\s+")
_MOST_CHUNKS = 64


class HostedModelError(EngineError):
    """The worker that answers for the model reported an error, or none is connected."""

    def __init__(self, name: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.name = name
        self.retryable = retryable


class WorkerEngine:
    """Satisfies `engine.protocol.Engine` for one model of one toolset.

    A hosted model has no tokens: its texts come in pieces of words, and one word counts as one token. It keeps
    nothing, so priorities and leases mean nothing to it. Constraints are handed on and never enforced here.
    """

    def __init__(self, pool: WorkerPool, *, clock: OrchestratorClock, tenant: str, toolset: str, model: str) -> None:
        self._pool = pool
        self._clock = clock
        self._tenant = tenant
        self._toolset = toolset
        self._model = model

    @property
    def name(self) -> str:
        return self._model

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(grammar=True)

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(name=self._model, context_tokens=2**31 - 1, vocab_size=0)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        """The worker's answer in pieces. Raises EngineLost, HostedModelError."""
        if request.adapter:
            raise UnknownAdapter(f"model {self._model!r} is hosted by a worker: it has no adapter {request.adapter!r}")
        asked_s = self._clock.now()
        started_s = asked_s

        def started() -> None:
            nonlocal started_s
            started_s = self._clock.now()

        try:
            text = await self._pool.ask(self._tenant, self._toolset, self._task(request), started)
        except CallFailure as failure:
            if failure.lost:
                raise EngineLost(failure.message) from failure
            raise HostedModelError(failure.type, failure.message, retryable=failure.retryable) from failure
        if not isinstance(text, str):
            message = f"model {self._model!r} answered with no text"
            raise HostedModelError(FailureType.MODEL_ANSWER_INVALID, message, retryable=False)
        words = _PIECE.findall(text)
        step = max(1, -(-len(words) // _MOST_CHUNKS))
        for index in range(0, len(words), step):
            yield TokenChunk(text="".join(words[index : index + step]), token_ids=())
        usage = Usage(
            prompt_tokens=sum(len(message.content.split()) for message in request.messages),
            cached_tokens=0,
            output_tokens=len(words),
            queue_s=started_s - asked_s,
            prefill_s=0.0,
            decode_s=self._clock.now() - started_s,
        )
        yield TokenChunk(text="", token_ids=(), finish=FinishReason.STOP, usage=usage)

    def _task(self, request: GenerateRequest) -> ModelTask:
        sampling = request.sampling
        schema, constraint = _constraint(request.grammar)
        return ModelTask.model_construct(
            kind="model",
            task="",
            program=request.program,
            call=request.call,
            model=self._model,
            stage=request.stage or None,
            messages=tuple(_message(message) for message in request.messages),
            tools=tuple(ModelTool.model_validate(orjson.loads(text)["function"]) for text in request.tools),
            sampling=Sampling.model_construct(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
                seed=sampling.seed,
                stop=sampling.stop,
            ),
            constraint=constraint,
            json_schema=schema,
            attempt=request.attempt,
            traceparent=request.traceparent,
        )

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        return

    async def limit_running(self, limit: int) -> None:
        return

    async def retain(self, lease: Lease) -> LeaseGrant:
        return _nothing(lease.id)

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return _nothing(lease)

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        return

    async def demote(self, lease: str) -> LeaseGrant:
        return _nothing(lease)

    async def prefetch(self, lease: str, within_s: float) -> None:
        return

    async def abort(self, request: str) -> None:
        return

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        return Estimate(cached_tokens={}, prefill_s=0.0, queue_s=0.0)

    async def events(self) -> AsyncIterator[EngineEvent]:
        """Nothing is ever resident, so nothing ever changes."""
        return
        yield

    async def close(self) -> None:
        return


def _message(message: ChatMessage) -> RenderedMessage:
    calls = tuple(orjson.loads(text) for text in message.tool_calls)
    asked = [
        AskedCall(id=call["id"], name=call["function"]["name"], arguments=orjson.dumps(call["function"]["arguments"]))
        for call in calls
    ]
    return RenderedMessage.model_validate(
        {
            "role": message.role,
            "content": message.content,
            "tool_calls": asked,
            "tool_call_id": message.tool_call_id or None,
        }
    )


def _nothing(lease: str) -> LeaseGrant:
    return LeaseGrant(lease=lease, bytes=0, tier=None, expires_in_s=0.0)


def _constraint(grammar: Grammar | None) -> tuple[dict[str, object] | None, Constraint | None]:
    """The grammar as a task carries it: (JSON Schema, other constraint)."""
    if grammar is None:
        return None, None
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        return orjson.loads(grammar.source), None
    if grammar.kind is GrammarKind.REGEX:
        return None, RegexConstraint(pattern=grammar.source)
    return None, GrammarConstraint(lark=grammar.source)
