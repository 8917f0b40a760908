"""An LLM call's way past the semantic cache: answered from it at once, or by an engine that it learns from.

Owns the order: lookup, then engine, then keeping. A hit looks to the program like a generation that was very fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Iterator

from pydantic import JsonValue

from engine.protocol import EngineError, FinishReason
from orchestrator.caching.call_cache import LAST, NOTHING, Asked, Generated
from orchestrator.caching.caller import Caller
from orchestrator.caching.traced import embedding_for
from orchestrator.runtime.admitting import admitted
from orchestrator.runtime.calls import CallRun
from orchestrator.runtime.generation import Generation
from orchestrator.runtime.placing import Visitor
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from orchestrator.scheduling import ReadyCall
from orchestrator.telemetry import CONSUMERS, NO_FACTS, Facts
from orchestrator.tools import CallFailure
from orchestrator.tools.values import accept_text, encode_json
from tenuto.wire import LLMCall, TextType

_PIECE = re.compile(r"\s*\S+")


class Answered:
    """One run of an LLM call, cached or generated. `generate` may be called once."""

    def __init__(self, services: Services, program: Program, run: CallRun, call: LLMCall) -> None:
        self._services = services
        self._program = program
        self._run = run
        self._call = call
        self._model = ""
        self._asked_at = 0.0

    async def generate(self) -> tuple[JsonValue, bytes]:
        """The value and its JSON. Cancelling ends a wait for an equal call, or the generation."""
        asked = await self._ask()
        if asked.cached is not None:
            replayed = self._replay(asked)
            if replayed is not None:
                return replayed
            asked = NOTHING
        generation = Generation(self._services, self._program, self._run, self._call, asked)
        try:
            value, encoded = await generation.generate()
        except BaseException:
            self._services.cache.give_up(asked)
            raise
        if self._run.failures and self._call.sampling.temperature > 0:
            self._services.cache.give_up(asked)  # drawn with another seed than the call asks for
        else:
            self._services.cache.keep(asked, generation.made(value))
        return value, encoded

    async def _ask(self) -> Asked:
        program, call, services = self._program, self._call, self._services
        if not services.cache.enabled:
            return NOTHING
        try:
            engine, _ = services.place(call.model, tenant=program.tenant, toolset=program.toolset)
        except EngineError:
            return NOTHING  # the generation will say it better
        self._model, self._asked_at = engine.name, services.clock.wall()
        asked = NOTHING
        with contextlib.suppress(TimeoutError):  # an equal call takes longer than this one may: it goes by itself
            async with asyncio.timeout(call.timeout_s):
                with embedding_for(program.trace, call.id):
                    asked = await services.cache.ask(
                        call,
                        program.values,
                        caller(program),
                        model=engine.name,
                        drives_effects=drives_effects(program, call.id),
                    )
        self._run.account("cache", program.now())
        return asked

    # -- hits -----------------------------------------------------------------------------------

    def _replay(self, asked: Asked) -> tuple[JsonValue, bytes] | None:
        """Let the program see the answer as it sees a generation; None if the value is not one of the call's type."""
        program, run, call, cached = self._program, self._run, self._call, asked.cached
        assert cached is not None
        try:
            value, encoded = accept_text(call.type, _text(asked.value, call), cut=False)
        except CallFailure:
            return None  # an entry that was imported, or a schema that says less than its checker
        self._services.priorities.call_ready(ReadyCall(program.id, call))
        clock = self._services.clock
        producers = program.graph.predecessors(call.id) if program.trace.recording else ()
        trace = program.trace.llm(call, self._model, run.runs, self._asked_at, producers)
        run.cache = cached
        program.start(run)
        text = value if isinstance(value, str) else encoded.decode()
        for piece in _pieces(text):
            program.tokens(run, piece)
        run.account("cache", program.now())
        trace.end_llm(
            clock.wall(),
            usage=None,
            finish=FinishReason.STOP,
            error=None,
            messages=(),
            pieces=(text,),
            facts=self._facts(asked),
        )
        self._services.cache.shadow(asked, self._generate_aside)
        return value, encoded

    def _facts(self, asked: Asked) -> Facts:
        cached = asked.cached
        if cached is None or not self._program.trace.recording:
            return NO_FACTS
        return Facts(
            consumers=self._program.graph.successors(self._call.id)[:CONSUMERS],
            cache_verdict=f"hit: {cached.tier}",
            cache_category=cached.category,
            cache_similarity=cached.similarity,
            cache_age_s=cached.age_s,
            cache_saved_s=cached.saved_s,
            cache_saved_tokens=cached.saved_tokens,
        )

    async def _generate_aside(self) -> Generated:
        """The engine's own answer to a call that has one already, behind all other work. The program never hears of it.

        Raises EngineError, CallFailure.
        """
        program, call, services = self._program, self._call, self._services
        generation = Generation(services, program, self._run, call)
        name = f"cache-shadow/{program.id}"
        nothing = Visitor(name, program.workflow, None, 0, 0, 0, None)
        try:
            async with admitted(services, program, call, name, LAST, lambda engine: nothing) as (engine, _):
                return await generation.aside(engine, name)
        finally:
            services.placing.ended(name)


def caller(program: Program) -> Caller:
    """Whose calls a program's are."""
    return Caller(program.tenant, program.principal, program.metadata.get("user"), program.workflow)


def drives_effects(program: Program, call: str) -> bool:
    """Whether a declared function call that changes the world reads what this call answers."""
    return any(program.effects.has_effect(name) for name in program.graph.successors(call))


def _text(value: JsonValue, call: LLMCall) -> str:
    """The text that the engine might have written."""
    if isinstance(call.type, TextType):
        return value if isinstance(value, str) else ""
    return encode_json(value).decode()


def _pieces(text: str) -> Iterator[str]:
    """A text in words, as an engine would have streamed it, but never in more than a hundred pieces."""
    words = _PIECE.findall(text)
    if not words:
        if text:
            yield text
        return
    words[-1] += text[sum(map(len, words)) :]
    step = math.ceil(len(words) / 100)
    for start in range(0, len(words), step):
        yield "".join(words[start : start + step])
