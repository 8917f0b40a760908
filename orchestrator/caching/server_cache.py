"""The semantic cache of one server: opened and closed with it, asked by its calls, looked after by its API.

Owns the translation between the server's words and the cache's. Never decides what may be served: that is
`semantic_cache`.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from pathlib import Path
from random import Random

from pydantic import JsonValue

from engine.protocol import FinishReason
from orchestrator.caching.background import Background, EngineJudge
from orchestrator.caching.call_cache import Asked, Example, Generate, Generated
from orchestrator.caching.caller import Caller
from orchestrator.caching.embedding import load_embedder
from orchestrator.caching.options import CacheOptions
from orchestrator.caching.requests import cache_request
from orchestrator.caching.traced import TracedEmbedder
from orchestrator.caching.waiting import Waiting
from orchestrator.clock import OrchestratorClock
from orchestrator.engines import EnginePool
from orchestrator.journal import Cached
from orchestrator.telemetry import Metrics, NullMetrics, names
from semantic_cache import (
    Answer,
    Bypass,
    CacheClosed,
    CacheError,
    CacheStats,
    Explanation,
    FlushPlan,
    Hit,
    InvalidRequest,
    SemanticCache,
    Shadow,
)
from semantic_cache.embedders import Embedder
from tenuto.wire import EffectClass, FunctionCall, LLMCall

log = logging.getLogger(__name__)

DATABASE = "answers.db"


class ServerCache:
    """A `CallCache`. Invariant: every ticket that `ask` hands out is ended once, by `keep` or `give_up`."""

    enabled = True

    def __init__(
        self,
        options: CacheOptions,
        engines: EnginePool,
        clock: OrchestratorClock,
        rng: Random,
        *,
        weights: str = "",
        embedder: Embedder | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`weights` tells apart what stood behind the same model names at different times. `embedder` stands in for
        the one that the options name. Raises InvalidPolicy."""
        self.options = options
        self._policies = options.policies()  # what is wrong with the settings is told before anything is opened
        self._settings = options.settings()
        self._engines = engines
        self._clock = clock
        self._rng = rng
        self._revision = "".join(f"@{part}" for part in (weights, options.revision) if part)
        self._waiting = Waiting()
        self._shadows = Background(options.shadows)
        self._storing: set[asyncio.Task[None]] = set()
        self._cache: SemanticCache | None = None
        self._embedder = embedder
        self._metrics = metrics or NullMetrics()
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.without_embedder = ""

    # -- life -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the embedder and open the store. Raises StoreError, ModelFilesError."""
        options = self.options
        if options.directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="tenuto-cache-")
        directory = options.directory or Path(self._temporary.name if self._temporary else ".")
        if self._embedder is None:
            loop = asyncio.get_running_loop()
            with self._clock.outside():
                loading = loop.run_in_executor(None, load_embedder, options, directory)
                self._embedder, self.without_embedder = await loading
        if options.mode == "semantic" and self._embedder is None:
            log.warning("the semantic cache answers equal calls only: %s", self.without_embedder)
        traced = None if self._embedder is None else TracedEmbedder(self._embedder, self._clock, self._metrics, options)
        self._cache = await SemanticCache.open(
            directory / DATABASE,
            embedder=traced,
            policies=self._policies,
            judge=None if options.judge_model is None else EngineJudge(self._engines, options.judge_model),
            settings=self._settings,
            clock=self._clock,
            rng=self._rng,
        )

    async def close(self) -> None:
        """Finish what is being stored, stop learning, close the store."""
        await self._shadows.close()
        await asyncio.gather(*self._storing, return_exceptions=True)
        if self._cache is not None:
            await self._cache.close()
        if self._embedder is not None:
            await self._embedder.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def settle(self) -> None:
        """Return once nothing is stored or judged any more."""
        while self._storing:
            await asyncio.wait(set(self._storing))
        await self.cache.settle()

    async def idle(self) -> None:
        """As `settle`, and no shadow call runs any more."""
        await self._shadows.settle()
        await self.settle()

    @property
    def cache(self) -> SemanticCache:
        """The open cache. Raises CacheClosed before `open`."""
        if self._cache is None:
            raise CacheClosed("the cache has not been opened")
        return self._cache

    # -- what a running call asks -----------------------------------------------------------------

    def lookups(self) -> list[tuple[int, dict[str, str]]]:
        if self._cache is None:
            return []
        found = []
        for row in self._cache.stats().categories:
            hits = {"hit: exact": row.exact_hits, "hit: semantic": row.semantic_hits, "hit: flight": row.flight_hits}
            misses = {f"miss: {reason}": count for reason, count in row.misses.items()}
            for verdict, count in (hits | misses).items():
                if count:
                    found.append((count, {names.CACHE_CATEGORY: row.category, names.CACHE_VERDICT: verdict}))
        return found

    async def ask(
        self, call: LLMCall, values: Mapping[str, JsonValue], caller: Caller, *, model: str, drives_effects: bool
    ) -> Asked:
        self._observe()
        try:
            request = cache_request(
                call,
                values,
                caller,
                model=self._model(model),
                exact=self.options.mode == "exact",
                drives_effects=drives_effects,
            )
            outcome = await self.cache.lookup(request)
        except (InvalidRequest, CacheClosed) as error:
            return Asked(f"bypass: {error}")
        if isinstance(outcome, Hit):
            return Asked("hit", _cached(outcome), outcome.value, shadow=outcome.shadow)
        if isinstance(outcome, Bypass):
            return Asked(f"bypass: {outcome.reason}")
        examples = tuple(Example(e.question, e.answer) for e in outcome.examples)
        reason = f"miss: {outcome.reason}" + (f" ({outcome.detail})" if outcome.detail else "")
        ticket, similarity = outcome.ticket, outcome.similarity
        return Asked(reason, ticket=ticket, examples=examples, category=ticket.category, similarity=similarity)

    def keep(self, asked: Asked, made: Generated) -> None:
        if asked.ticket is not None:
            task = asyncio.get_running_loop().create_task(self._store(asked, made))
            self._storing.add(task)
            task.add_done_callback(self._storing.discard)

    async def _store(self, asked: Asked, made: Generated) -> None:
        assert asked.ticket is not None
        try:
            await self.cache.store(asked.ticket, _answer(made))
        except CacheError as error:  # closing, or a value that JSON cannot hold: the call has its answer all the same
            log.debug("an answer was not kept: %s", error)
            self.cache.abandon(asked.ticket)

    def give_up(self, asked: Asked) -> None:
        if asked.ticket is not None:
            self.cache.abandon(asked.ticket)

    def shadow(self, asked: Asked, generate: Generate) -> None:
        if asked.shadow is not None and self.cache.load == 0:
            self._shadows.start(self._compare(asked.shadow, generate))

    async def _compare(self, shadow: Shadow, generate: Generate) -> None:
        self.cache.shadow(shadow, _answer(await generate()))

    def enters(self) -> int:
        return self._waiting.enter(self._clock.now())

    def begins(self, number: int) -> None:
        self._waiting.begin(number)

    def leaves(self, number: int) -> None:
        self._waiting.leave(number)

    def wrote(self, tenant: str, call: FunctionCall) -> Awaitable[None] | None:
        """A write makes stale what is tagged with its `effect_key`; any call what its `bumps` name."""
        key = None if call.effect is EffectClass.READ else call.effect_key
        tags = tuple(dict.fromkeys((*((key,) if key else ()), *call.bumps)))
        if not tags:
            return None
        try:
            writing = [self.cache.bump_now(tag, tenant) for tag in tags]
        except CacheClosed:
            return None  # the server stops: the call's end is not recorded either, and it is bumped again at the start
        return asyncio.shield(self._bumped(tags, writing))

    @staticmethod
    async def _bumped(tags: tuple[str, ...], writing: list[asyncio.Task[int]]) -> None:
        for fault in await asyncio.gather(*writing, return_exceptions=True):
            if isinstance(fault, BaseException):
                log.error("the cache could not write down a bump of %s, it holds until a restart: %s", tags, fault)

    def _observe(self) -> None:
        """Tell the cache how loaded the engines are. Every lookup does: no timer is needed."""
        now, places = self._clock.now(), self._places()
        self.cache.observe_load(
            queue_s=self._waiting.oldest_s(now),
            target_s=self.options.queue_target_s,
            running=min(self._waiting.inside, places) if places else 0,
            capacity=places or 1,
        )

    def _places(self) -> int:
        """How many calls the engines can run at once; 0 if one of them does not say."""
        found = [state.capabilities.max_running if state.capabilities else 0 for state in self._engines.states()]
        return sum(found) if all(found) else 0

    def _model(self, name: str) -> str:
        return name[: 200 - len(self._revision)] + self._revision

    # -- what an administrator asks ---------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Everything that is counted."""
        return self.cache.stats()

    async def explain(
        self, call: LLMCall, values: Mapping[str, JsonValue], caller: Caller, *, model: str, drives_effects: bool
    ) -> Explanation:
        """Why this call would or would not be answered now. Raises InvalidRequest."""
        request = cache_request(
            call,
            values,
            caller,
            model=self._model(model),
            exact=self.options.mode == "exact",
            drives_effects=drives_effects,
        )
        return await self.cache.explain(request)

    async def bump(self, tag: str, tenant: str, *, dry_run: bool) -> int:
        """Invalidate what depends on a tag; returns how many entries."""
        return await self.cache.bump(tag, tenant, dry_run=dry_run)

    async def report(self, *, tenant: str, principal: str, hit: int | None, entry: int | None, reason: str) -> int:
        """A user says that an answer was wrong. Raises UnknownEntry, InvalidRequest."""
        if self._storing:  # it may be one of these
            await asyncio.wait(set(self._storing))
        return await self.cache.report_bad(tenant=tenant, principal=principal, hit=hit, entry=entry, reason=reason)

    async def flush(self, *, tenant: str, category: str | None, confirm: str | None) -> FlushPlan:
        """Plan or do a flush of the tenant's entries. Raises ConfirmationNeeded."""
        return await self.cache.flush(tenant=tenant, category=category, confirm=confirm)

    def export(self, tenant: str) -> AsyncIterator[str]:
        """The tenant's entries as JSON lines."""
        return self.cache.export(tenant)

    async def import_(self, lines: Iterable[str], *, author: str) -> int:
        """Take in exported lines. Raises TransferError."""
        return await self.cache.import_(lines, author=author)

    async def tune(self, lines: Iterable[str]) -> int:
        """Calibrate from labelled pairs. Raises TransferError, InvalidRequest."""
        return await self.cache.learn_pairs(lines)


def _cached(hit: Hit) -> Cached:
    return Cached(
        hit=hit.number,
        tier=hit.tier.value,
        category=hit.category,
        similarity=hit.similarity,
        age_s=hit.age_s,
        saved_s=hit.saved_s,
        saved_tokens=hit.saved_tokens,
        entry=hit.entry,
    )


def _answer(made: Generated) -> Answer:
    usage = made.usage
    return Answer(
        made.value,
        finish="stop" if made.finish is FinishReason.STOP else "length",
        seconds=max(0.0, made.seconds),
        prompt_tokens=0 if usage is None else usage.prompt_tokens,
        output_tokens=0 if usage is None else usage.output_tokens,
    )
