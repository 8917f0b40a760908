"""One attempt of an LLM call: prompt in, value out. Raises `CallFailure`, never an engine's own error."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from hashlib import blake2b

import orjson
from pydantic import JsonValue

from dag.paths import remaining
from dag.plan import read_arguments
from dag.values import PathError, render
from engine.protocol import (
    ChatMessage,
    Engine,
    EngineError,
    EngineLost,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    PriorityKey,
    SamplingParams,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from orchestrator.caching.call_cache import LAST, NOTHING, Asked, Generated
from orchestrator.caching.examples import with_examples
from orchestrator.journal import Recomputed
from orchestrator.retention import Visit, request_id
from orchestrator.runtime.admitting import admitted
from orchestrator.runtime.calls import CallRun
from orchestrator.runtime.gate import Gate
from orchestrator.runtime.needs import needs_of
from orchestrator.runtime.planning import PlanStream
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from orchestrator.scheduling import ReadyCall
from orchestrator.telemetry import CONSUMERS, NO_FACTS, Facts
from orchestrator.tools import CallFailure, FailureType
from orchestrator.tools.values import accept_result, accept_text, encode_json
from tenuto.wire import AskedCall, JsonConstraint, JsonType, LLMCall, Message, ModelTool, RegexConstraint

_PLAN_SLICE = 2_000
"""Characters of a plan that are read at once: some 40 calls, a few milliseconds."""


class Generation:
    """One run of an LLM call on an engine. `generate` may be called once. `asked`: what the cache said to the call."""

    def __init__(
        self, services: Services, program: Program, run: CallRun, call: LLMCall, asked: Asked = NOTHING
    ) -> None:
        self._services = services
        self._program = program
        self._run = run
        self._call = call
        self._asked = asked
        self._place = 0
        self._worked_s = 0.0
        self._pieces: list[str] = []
        self._bytes = 0
        self._logprobs: list[TokenLogprob] = []
        self._told = 0  # of them, with the texts that readers have got
        self._first_chunk_s: float | None = None
        self._visit: Visit | None = None
        self._slack_s: float | None = None
        self._usage: Usage | None = None
        self._finish: FinishReason | None = None
        self._succeeded = False
        self._plan = PlanStream(services, program, run, call, call.plan) if call.plan is not None else None

    async def generate(self) -> tuple[JsonValue, bytes]:
        """The value and its JSON. Cancelling aborts the generation in the engine."""
        program, call, services = self._program, self._call, self._services
        messages = self._messages()
        chain = services.retention.returning(program, call, messages)
        expected = services.statistics.output_tokens(program.workflow, call)
        key = services.priorities.call_ready(ReadyCall(program.id, call))
        try:
            self._place = services.cache.enters()
            needs = partial(needs_of, services, program, call, messages, chain)
            way_in = admitted(services, program, call, program.id, key, needs, waits=self._waits, left=self._left)
            async with way_in as (engine, gate):
                if gate is not None:
                    attempt = program.attempt(self._run)
                    self._visit = services.retention.visit(program, call, engine, attempt, messages, chain)
                return await self._traced(engine, messages, expected, key)
        except EngineError as error:
            raise _failure(error) from error
        finally:
            services.cache.leaves(self._place)

    def _waits(self, engine: Engine) -> None:
        self._run.behind = self._services.occupancy.others(engine.name, self._program.id)

    def _left(self, gate: Gate) -> int:
        """Private tokens of KV that the call has left in the engine, until it is decided what is kept of them.

        If it failed, those of the chain that it never took up.
        """
        usage = self._usage
        if not gate.hold.capacity:
            return 0
        if usage is None or not self._succeeded:
            return self._visit.kept if self._visit is not None else 0
        program, call, footprints = self._program, self._call, self._services.footprints
        gate.room.ended(usage, gate.calls)
        footprints.began(program.id, program.workflow, call, usage.cached_tokens)
        shared = footprints.shared(program.id, program.workflow, call)
        return max(0, usage.prompt_tokens - shared) + usage.output_tokens

    def made(self, value: JsonValue) -> Generated:
        """What the engine made, once `generate` has ended well."""
        usage = self._usage
        seconds = usage.prefill_s + usage.decode_s if usage is not None else 0.0
        return Generated(value, self._finish or FinishReason.ABORTED, seconds or self._worked_s, usage)

    async def aside(self, engine: Engine, program: str) -> Generated:
        """Generate for `program`, a name that no program has, without telling this one. Raises as `generate`."""
        grammar, traceparent = _grammar(self._call, engine), self._program.trace.traceparent
        request = self._request(self._messages(), grammar, 0, LAST, traceparent)
        request = dataclasses.replace(request, id=f"{program}/{self._call.id}", program=program)
        pieces: list[str] = []
        async with asyncio.timeout(self._call.timeout_s):
            async with aclosing(engine.generate(request)) as stream:  # type: ignore[type-var]  # async generators
                async for chunk in stream:
                    pieces.append(chunk.text)
                    if chunk.finish is not None:
                        self._finish, self._usage = chunk.finish, chunk.usage
        value, _ = accept_text(self._call.type, "".join(pieces), cut=self._finish is FinishReason.LENGTH)
        return self.made(value)

    async def _traced(
        self, engine: Engine, messages: tuple[ChatMessage, ...], expected_tokens: int, key: PriorityKey
    ) -> tuple[JsonValue, bytes]:
        """Generate under a span, with every second accounted for."""
        grammar = _grammar(self._call, engine)
        program, clock = self._program, self._services.clock
        producers = program.graph.predecessors(self._call.id) if program.trace.recording else ()
        self._slack_s = self._slack() if program.trace.recording else None
        trace = program.trace.llm(self._call, engine.name, self._run.runs, clock.wall(), producers)
        request = self._request(messages, grammar, expected_tokens, key, trace.traceparent)
        program.start(self._run)
        began_s = program.now()
        error_type: str | None = "cancelled"
        try:
            with self._services.occupancy.holding(engine.name, program.id):
                await self._stream(engine, request)
            value = self._value()
            if self._visit is not None:
                self._visit.ended(self._usage, sum(map(len, self._pieces)))
            error_type = None
            self._succeeded = True
            return value
        except CallFailure as failure:
            error_type = failure.type
            raise
        except Exception as error:
            error_type = type(error).__name__
            raise
        finally:
            self._worked_s = program.now() - began_s
            if self._visit is not None:
                self._visit.left()
            self._account()
            first_chunk_s = None if self._first_chunk_s is None else self._first_chunk_s - began_s
            trace.end_llm(
                clock.wall(),
                usage=self._usage,
                finish=self._finish,
                error=error_type,
                messages=messages,
                pieces=self._pieces,
                facts=self._facts(first_chunk_s),
            )
            self._services.metrics.llm_ended(
                engine.name, program.now() - began_s, first_chunk_s, self._usage, error_type
            )

    def _facts(self, first_chunk_s: float | None) -> Facts:
        """What the attempt's span tells beyond the usage."""
        if not self._program.trace.recording:
            return NO_FACTS
        graph, run = self._program.graph, self._run
        kept = self._visit.found if self._visit is not None else None
        queued = self._usage is not None and self._usage.queue_s > 0
        return Facts(
            consumers=graph.successors(self._call.id)[:CONSUMERS],
            behind=run.behind if queued else (),
            slack_s=self._slack_s,
            evicted=run.recompute.why if run.recompute is not None else None,
            lease_ttl_s=kept.ttl_s if kept is not None else None,
            lease_tier=kept.tier if kept is not None else None,
            lease_outcome=kept.outcome if kept is not None else None,
            first_chunk_s=first_chunk_s,
            cache_verdict=self._asked.status if self._services.cache.enabled else None,
            cache_category=self._asked.category,
            cache_similarity=self._asked.similarity,
        )

    def _slack(self) -> float | None:
        """Seconds that the call may wait until its program must miss its deadline, by what is known of the longest way
        from the call to the end; None without a deadline. O(unfinished calls)."""
        program, statistics = self._program, self._services.statistics
        if program.objective.deadline_s is None:
            return None
        rest = remaining(program.graph, lambda call: statistics.seconds(program.workflow, call) or 0.0)
        return program.objective.deadline_s - program.now() - rest.get(self._call.id, 0.0)

    def _recomputed(self, usage: Usage) -> Recomputed | None:
        """What the engine had to read again, and why it had not been kept."""
        if not usage.recomputed_tokens:
            return None
        if usage.preemptions:
            return Recomputed(usage.recomputed_tokens, "preempted")
        chain = self._visit.chain if self._visit is not None else None
        kept = self._visit.found if self._visit is not None else None
        left_by = chain.call if chain is not None else None
        if kept is not None and kept.outcome == "expired":
            return Recomputed(usage.recomputed_tokens, "expired", left_by)
        if kept is not None and kept.outcome == "pressure":
            return Recomputed(usage.recomputed_tokens, "pressure", left_by)
        return Recomputed(usage.recomputed_tokens, "unleased", left_by)

    def _messages(self) -> tuple[ChatMessage, ...]:
        try:
            values = self._program.values
            messages = tuple(_message(m, values) for m in self._call.messages)
            if self._asked.examples:
                messages = with_examples(messages, self._call, values, self._asked.examples)
        except PathError as error:
            raise CallFailure(FailureType.PATH_MISSING, f"the prompt cannot be made: {error}") from error
        limit = self._services.limits.prompt_bytes
        size = sum(len(message.content) for message in messages)
        if size * 4 > limit:  # UTF-8 takes at most 4 bytes a character: most prompts need no closer look
            size = sum(len(message.content.encode()) for message in messages)
        if size > limit:
            raise CallFailure(
                FailureType.PROMPT_TOO_LARGE, f"the prompt has {size} bytes, the limit is {limit} (limits.prompt_bytes)"
            )
        return messages

    def _request(
        self,
        messages: tuple[ChatMessage, ...],
        grammar: Grammar | None,
        expected_tokens: int,
        key: PriorityKey,
        traceparent: str,
    ) -> GenerateRequest:
        program, run, call = self._program, self._run, self._call
        sampling = call.sampling
        return GenerateRequest(
            id=request_id(program.id, call.id, program.attempt(run)),
            program=program.id,
            messages=messages,
            model=call.model or "",
            call=call.id,
            stage=call.stage or "",
            attempt=run.runs,
            sampling=SamplingParams(
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
                seed=_seed(program.id, call, run.failures),
                stop=sampling.stop,
                logit_bias=tuple(sampling.logit_bias.items()),
                logprobs=-1 if sampling.logprobs is None else sampling.logprobs,
            ),
            key=key,
            grammar=grammar,
            salt=program.tenant,
            expected_tokens=min(expected_tokens, sampling.max_tokens),
            traceparent=traceparent,
            continues=self._visit.continues if self._visit is not None else "",
            hold_s=self._visit.hold_s if self._visit is not None else 0.0,
            adapter=call.adapter or "",
            tools=_tools(call.tools) if call.tools and call.tool_choice != "none" else (),
        )

    async def _stream(self, engine: Engine, request: GenerateRequest) -> None:
        call = self._call
        try:
            async with asyncio.timeout(call.timeout_s) as timer:
                chunks = engine.generate(request)
                async with aclosing(chunks) as stream:  # type: ignore[type-var]  # engines return async generators
                    async for chunk in stream:
                        self._take(chunk)
                        if self._plan is not None:
                            await self._read_plan(self._plan, chunk.text)
        except TimeoutError as error:
            if not timer.expired():
                raise
            message = f"the generation did not end within {call.timeout_s:g} s"
            raise CallFailure(FailureType.TIMEOUT, message, retryable=True) from error
        except EngineError as error:
            raise _failure(error) from error
        if self._finish is None or self._finish is FinishReason.ABORTED:
            raise CallFailure(FailureType.ENGINE_ABORTED, "the engine gave up the generation", retryable=True)

    async def _read_plan(self, plan: PlanStream, text: str) -> None:
        """Let the calls in a piece of text join the program; in a long piece, let the first ones start meanwhile."""
        for start in range(0, len(text), _PLAN_SLICE):
            if start:
                await self._services.clock.sleep(0)
            plan.feed(text[start : start + _PLAN_SLICE])

    def _take(self, chunk: TokenChunk) -> None:
        if self._visit is not None:
            self._visit.begun()
        if chunk.logprobs:
            self._logprobs += chunk.logprobs
        if chunk.text:
            if self._first_chunk_s is None:
                self._first_chunk_s = self._program.now()
                self._services.cache.begins(self._place)
            self._pieces.append(chunk.text)
            self._bytes += len(chunk.text)
            if self._bytes > self._services.limits.value_bytes:
                limit = self._services.limits.value_bytes
                raise CallFailure(
                    FailureType.OUTPUT_TOO_LARGE, f"the output is larger than {limit} bytes (limits.value_bytes)"
                )
            self._program.tokens(self._run, chunk.text, tuple(self._logprobs[self._told :]))
            self._told = len(self._logprobs)
        if chunk.token_ids:
            self._services.priorities.tokens_made(self._program.id, self._call.id, len(chunk.token_ids))
        if chunk.finish is not None:
            self._finish = chunk.finish
            self._usage = chunk.usage
            self._run.finish, self._run.logprobs = chunk.finish, tuple(self._logprobs)

    def _value(self) -> tuple[JsonValue, bytes]:
        if self._plan is not None:
            return accept_result(
                self._call.type, self._plan.close().model_dump(mode="json"), self._services.limits.value_bytes
            )
        return accept_text(self._call.type, "".join(self._pieces), cut=self._finish is FinishReason.LENGTH)

    def _account(self) -> None:
        """Attribute the attempt's seconds: to queue, prefill and decode, as far as the engine told."""
        program, run, usage = self._program, self._run, self._usage
        end_s = program.now()
        if usage is None:
            run.account("decode" if self._pieces else "queue", end_s)
            return
        run.usage = usage
        run.recompute = self._recomputed(usage)
        prefill_s = min(end_s, run.told_s + usage.queue_s)
        decode_s = min(end_s, prefill_s + usage.prefill_s)
        run.account("queue", prefill_s)
        # What had to be read again comes first in a prompt: it was read before what is new.
        run.account("recompute", prefill_s + (decode_s - prefill_s) * _share(usage))
        run.account("prefill", decode_s)
        run.account("decode", end_s)


def _share(usage: Usage) -> float:
    """The share of the prefill that went to tokens which the engine had computed before."""
    computed = usage.prompt_tokens - usage.cached_tokens
    return min(1.0, usage.recomputed_tokens / computed) if computed > 0 else 0.0


def _message(message: Message, values: Mapping[str, JsonValue]) -> ChatMessage:
    """A message of the prompt as engines get it. Raises PathError."""
    content = render(message.parts, values)
    if message.role in ("system", "user"):
        return ChatMessage(message.role, content)
    return ChatMessage(
        message.role, content, tuple(_asked(call) for call in message.tool_calls), message.tool_call_id or ""
    )


def _asked(call: AskedCall) -> str:
    """A call that the prompt tells of, in OpenAI's shape. Templates want the arguments as an object."""
    arguments = read_arguments(call.arguments)
    function = {"name": call.name, "arguments": call.arguments if isinstance(arguments, str) else arguments}
    return encode_json({"id": call.id, "type": "function", "function": function}).decode()


def _tools(tools: tuple[ModelTool, ...]) -> tuple[str, ...]:
    """The tools as chat templates know them."""
    return tuple(encode_json({"type": "function", "function": tool.model_dump()}).decode() for tool in tools)


def _call_schema(tools: tuple[ModelTool, ...]) -> str:
    """JSON Schema of one call of one of the tools, as function-calling models write it."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": {"type": "object", **tool.parameters}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return encode_json(calls[0] if len(calls) == 1 else {"anyOf": calls}).decode()


def _failure(error: EngineError) -> CallFailure:
    return CallFailure(
        error.name, str(error) or error.name, retryable=error.retryable, lost=isinstance(error, EngineLost)
    )


def _seed(program: str, call: LLMCall, failures: int) -> int:
    """The attempt's seed: the call's own for the first one, another for each retry, equal for a run that was lost.

    Without a seed of its own a call draws from one made of its names, so that a program's siblings differ.
    """
    seed = call.sampling.seed
    if seed is not None and not failures:
        return seed
    name = f"{program}/{call.id}" if seed is None else str(seed)
    return int.from_bytes(blake2b(f"{name}/{failures}".encode(), digest_size=8).digest()) >> 1


def _grammar(call: LLMCall, engine: Engine) -> Grammar | None:
    """What the engine shall enforce. JSON output is checked afterwards anyway; other constraints only it can hold."""
    able = engine.capabilities.grammar
    if call.sampling.logprobs is not None and not engine.capabilities.logprobs:
        message = f"engine {engine.name!r} does not tell log probabilities"
        raise CallFailure(FailureType.LOGPROBS_UNSUPPORTED, message)
    if call.plan is not None:
        return None  # its text is a plan; its value is what became of it
    if isinstance(call.type, JsonType):
        return Grammar(GrammarKind.JSON_SCHEMA, orjson.dumps(call.type.json_schema).decode()) if able else None
    must_call = call.must_call
    if call.constraint is None and not must_call:
        return None
    if not able:
        what = "call of a tool" if call.constraint is None else call.constraint.kind
        message = f"engine {engine.name!r} cannot hold the output to a {what}"
        raise CallFailure(FailureType.CONSTRAINT_UNSUPPORTED, message)
    if call.constraint is None:
        return Grammar(GrammarKind.JSON_SCHEMA, _call_schema(must_call), tool_call=True)
    if isinstance(call.constraint, JsonConstraint):
        return Grammar(GrammarKind.JSON_SCHEMA, encode_json(call.constraint.json_schema).decode())
    if isinstance(call.constraint, RegexConstraint):
        return Grammar(GrammarKind.REGEX, call.constraint.pattern)
    return Grammar(GrammarKind.LARK, call.constraint.lark)
