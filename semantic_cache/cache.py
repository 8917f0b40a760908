"""The semantic cache: one class, ready to be asked before an engine is and told after it has answered.

Owns the order of a lookup and the life of its parts. Never calls an engine: a miss hands out a ticket, a hit may
ask for a shadow call, and both come back here.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from semantic_cache import admin
from semantic_cache.admission import InsertRates
from semantic_cache.calibration import Calibrator
from semantic_cache.clock import CacheClock, SystemClock
from semantic_cache.embedders.protocol import Embedder
from semantic_cache.errors import CacheClosed, EmbedderError, InvalidRequest, StoreError, UnknownEntry
from semantic_cache.finder import Finder, Found
from semantic_cache.flights import Flights
from semantic_cache.judge import Judge, Judging, SameAnswer
from semantic_cache.keeper import Keeper, value_of
from semantic_cache.load import LoadLevel
from semantic_cache.outcome import (
    Bypass,
    Example,
    Explanation,
    Hit,
    Miss,
    NotStored,
    Outcome,
    Shadow,
    Stored,
    Ticket,
    Tier,
)
from semantic_cache.policy import Category, Policies, Sharing
from semantic_cache.request import MAX_QUESTION_CHARS, Answer, CacheRequest, barred, keys_of, unfit
from semantic_cache.settings import CacheSettings
from semantic_cache.state import CacheState
from semantic_cache.stats import CacheStats, CategoryCounts
from semantic_cache.store import EntryRow, Store
from semantic_cache.upkeep import Upkeep

_REMEMBERED_HITS = 10_000


@dataclass(frozen=True, slots=True)
class _GivenHit:
    entry: int | None
    exact: bytes
    principal: str | None
    tenant: str
    category: str
    similarity: float
    tier: Tier


class SemanticCache:
    """See the module. Made by `open`, ended by `close`; in between every method may be called from many tasks.

    Invariant: a hit was committed, is no older than its category allows, belongs to the asking call's partition, is
    readable by its principal and is newer than the last bump of each of its tags at the moment it is returned.
    """

    def __init__(
        self,
        store: Store,
        state: CacheState,
        *,
        embedder: Embedder | None,
        judge: Judge,
        settings: CacheSettings,
        clock: CacheClock,
        rng: random.Random,
        graphs: Path,
    ) -> None:
        self._store = store
        self._state = state
        self._embedder = embedder
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._load = LoadLevel()
        self._counts = {name: CategoryCounts() for name in state.names}
        self._finder = Finder(state, store, clock)
        self._flights: Flights[Answer | Hit] = Flights(settings.flight_wait_s)
        self._judging = Judging(judge, clock, per_minute=settings.judged_per_minute)
        self._keeper = Keeper(
            state=state,
            store=store,
            clock=clock,
            judging=self._judging,
            rates=InsertRates(settings.inserts_per_minute, settings.insert_burst),
            counts=self._counts,
            digest=None if embedder is None else embedder.digest,
            token_seconds=settings.token_seconds,
            rng=rng,
        )
        self._reports = InsertRates(settings.reports_per_minute, max(1.0, settings.reports_per_minute))
        self._given: OrderedDict[int, _GivenHit] = OrderedDict()
        self._numbers = 0
        self._upkeep = Upkeep(state, store, self._finder, self._judging, embedder, graphs, settings.learn_categories)
        self._closed = False
        self._embedder_errors = self._store_errors = 0

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        embedder: Embedder | None = None,
        policies: Policies | None = None,
        judge: Judge | None = None,
        settings: CacheSettings | None = None,
        clock: CacheClock | None = None,
        rng: random.Random | None = None,
    ) -> SemanticCache:
        """Open or create the cache kept at `path` (its graphs lie beside it, in `<name>.graphs/`).

        Without an embedder the exact tier works alone (`stats().semantic` says so). The embedder is not closed by
        the cache. Raises StoreError.
        """
        settings, policies, clock = settings or CacheSettings(), policies or Policies(), clock or SystemClock()
        calibrator = Calibrator(
            policies, prior=settings.prior, confidence=settings.confidence, budget=settings.error_budget
        )
        state = CacheState(policies, settings.limits, calibrator, None if embedder is None else embedder.dimensions)
        store = await Store.open(path, clock)
        graphs = path.with_name(path.name + ".graphs")
        digest = None if embedder is None else embedder.digest
        try:
            await store.drop_unservable(clock.wall())
            await state.load(store, digest, graphs)
            await admin.load_labels(state, store, digest)
        except BaseException:
            await store.close()
            raise
        cache = cls(
            store, state, embedder=embedder, judge=judge or SameAnswer(), settings=settings, clock=clock,
            rng=rng or random.Random(), graphs=graphs,
        )  # fmt: skip
        cache._upkeep.start()
        return cache

    # -- asking ---------------------------------------------------------------------------------

    async def lookup(self, request: CacheRequest) -> Outcome:
        """Ask for a call's answer. A `Miss` carries a ticket that must go to `store` or `abandon`.

        What goes wrong inside (embedder, disk) makes a miss, never an error. Raises CacheClosed.
        """
        self._open_or_raise()
        reason = barred(request, self._settings.temperature_limit)
        if reason is not None:
            return Bypass(reason)
        category, declared = self._finder.category(request, None)
        keys = keys_of(request, private=declared and category.sharing is Sharing.PRINCIPAL)
        ticket = Ticket(request, keys, category.name, declared, self._state.bump_count)
        outcome: Hit | Miss | None = await self._exact(ticket) or await self._join(ticket, category)
        if outcome is None:
            try:
                outcome = await self._search(ticket)
            except BaseException:
                self.abandon(ticket)
                raise
            if isinstance(outcome, Hit):
                self._land(ticket, outcome)
        self._count(ticket.category, outcome)
        return outcome

    async def _exact(self, ticket: Ticket) -> Hit | None:
        category = self._state.policies[ticket.category]
        try:
            found = await self._finder.exact(ticket.request, ticket.keys, category, self._load.level)
        except StoreError:
            self._store_errors += 1
            return None
        return self._hit(ticket, found, Tier.EXACT, 1.0) if isinstance(found, EntryRow) else None

    async def _join(self, ticket: Ticket, category: Category) -> Hit | None:
        """Lead the flight of this call, or wait for who does. None: this call is on its own."""
        request = ticket.request
        whose = "" if category.sharing is Sharing.TENANT else repr(request.principal)
        key = b"%b|%d|%b" % (ticket.keys.exact, ticket.bumps if request.tags else 0, whose.encode())
        while (flight := self._flights.lead(key)) is None:
            try:
                landed = await self._flights.follow(key)
            except TimeoutError:
                return None
            if self._state.stale(request.tenant, request.tags, ticket.bumps):
                return None
            if isinstance(landed, Hit):
                return self._given_again(ticket, landed)
            if isinstance(landed, Answer):
                return self._number(
                    ticket, Tier.FLIGHT, None, landed.value, 1.0, 0.0, landed.seconds,
                    landed.prompt_tokens + landed.output_tokens,
                )  # fmt: skip
            self._open_or_raise()
        ticket.flight = flight
        return None

    async def _search(self, ticket: Ticket) -> Hit | Miss:
        request = ticket.request
        if request.mode == "exact" or request.question is None:
            return Miss("exact_only", ticket)
        if self._embedder is None:
            return Miss("no_embedder", ticket)
        vector = await self._embed(request.question)
        if vector is None:
            return Miss("not_embedded", ticket)
        ticket.vector = vector
        category, declared = self._finder.category(request, vector)
        ticket.category, ticket.declared = category.name, declared
        try:
            found = await self._finder.semantic(request, ticket.keys, category, vector, self._load.level)
        except StoreError:
            self._store_errors += 1
            return Miss("store_error", ticket)
        best = found.best
        if best is not None:
            self._state.calibrator.seen(category.name, best.effective)
            if found.serves:
                return self._hit(ticket, best.row, Tier.SEMANTIC, best.similarity)
            ticket.neighbour = best
            ticket.grey = best.effective >= found.threshold - category.grey
            if ticket.grey:
                self._keeper.verify_grey(ticket)
        return self._miss(ticket, found)

    async def _embed(self, question: str) -> NDArray[np.float32] | None:
        if self._embedder is None or len(question) > MAX_QUESTION_CHARS:
            return None
        try:
            with self._clock.outside():
                return await self._embedder.embed(question)
        except EmbedderError:
            self._embedder_errors += 1
            return None

    def _miss(self, ticket: Ticket, found: Found) -> Miss:
        wanted = ticket.request.examples
        examples = tuple(
            Example(n.row.question or "", value_of(n.row), n.similarity)
            for n in (
                c.neighbour for c in found.considered[:wanted] if c.refusal not in ("gone", "not_shared", "stale")
            )
        )
        if found.best is not None:
            reason = "grey" if ticket.grey else "below_threshold"
            detail = f"{found.best.effective:.3f} under {found.threshold:.3f}"
            return Miss(reason, ticket, detail, found.best.similarity, examples)
        if found.refusal is not None:
            return Miss("refused", ticket, found.refusal, found.considered[0].neighbour.similarity, examples)
        return Miss("nothing_near", ticket)

    # -- hits -----------------------------------------------------------------------------------

    def _hit(self, ticket: Ticket, row: EntryRow, tier: Tier, similarity: float) -> Hit:
        self._keeper.hit(row.id)
        value, request = value_of(row), ticket.request
        shadow = None
        rate = self._state.policies[ticket.category].shadow_rate
        if tier is Tier.SEMANTIC and self._rng.random() < rate:
            shadow = Shadow(row.id, ticket.category, similarity, request, row.question or "", value)
        age = max(0.0, self._clock.wall() - row.created)
        return self._number(ticket, tier, row.id, value, similarity, age, row.seconds, row.tokens, row.question, shadow)

    def _given_again(self, ticket: Ticket, hit: Hit) -> Hit:
        """The leader's hit, for one who waited for it."""
        return self._number(
            ticket, hit.tier, hit.entry, hit.value, hit.similarity, hit.age_s, hit.saved_s, hit.saved_tokens,
            hit.cached_question,
        )  # fmt: skip

    def _number(
        self, ticket: Ticket, tier: Tier, entry: int | None, value: JsonValue, similarity: float, age_s: float,
        saved_s: float, tokens: int, question: str | None = None, shadow: Shadow | None = None,
    ) -> Hit:  # fmt: skip
        self._numbers += 1
        request = ticket.request
        self._given[self._numbers] = _GivenHit(
            entry, ticket.keys.exact, request.principal, request.tenant, ticket.category, similarity, tier
        )
        if len(self._given) > _REMEMBERED_HITS:
            self._given.popitem(last=False)
        return Hit(
            number=self._numbers, tier=tier, entry=entry, value=value, category=ticket.category, similarity=similarity,
            age_s=age_s, saved_s=saved_s, saved_tokens=tokens, cached_question=question, shadow=shadow,
        )  # fmt: skip

    def _count(self, category: str, outcome: Hit | Miss) -> None:
        counts = self._counts[category]
        counts.lookups += 1
        if isinstance(outcome, Miss):
            counts.misses[outcome.reason] += 1
            return
        counts.saved_s += outcome.saved_s
        counts.saved_tokens += outcome.saved_tokens
        counts.exact_hits += outcome.tier is Tier.EXACT
        counts.semantic_hits += outcome.tier is Tier.SEMANTIC
        counts.flight_hits += outcome.tier is Tier.FLIGHT

    # -- telling --------------------------------------------------------------------------------

    async def store(self, ticket: Ticket, answer: Answer) -> Stored | NotStored:
        """End a miss with the engine's answer: who waits for the same call gets it, and it is kept if it may be.

        Raises InvalidRequest: the ticket was used before; CacheClosed.
        """
        self._open_or_raise()
        if not ticket.open:
            raise InvalidRequest("this ticket was ended before")
        ticket.open = False
        request = ticket.request
        stale = self._state.stale(request.tenant, request.tags, ticket.bumps)
        fit = unfit(answer, self._settings.limits.answer_bytes) is None
        if fit and not stale and ticket.flight is not None:
            self._flights.tell(ticket.flight, answer)  # also for who comes before it can be found in the store
        else:
            self._land(ticket, None)
        try:
            kept = await self._keeper.keep(ticket, answer)
        except StoreError:
            self._store_errors += 1
            return NotStored("store_error")
        finally:
            self._land(ticket, None)
        if isinstance(kept, Stored) and ticket.declared and ticket.vector is not None:
            self._upkeep.taught()
        self._upkeep.index()
        return kept

    def abandon(self, ticket: Ticket) -> None:
        """End a miss without an answer (the call failed or was cancelled): the next who waits goes to the engine."""
        ticket.open = False
        self._land(ticket, None)

    def _land(self, ticket: Ticket, result: Answer | Hit | None) -> None:
        if ticket.flight is not None:
            self._flights.land(ticket.flight, result)

    def shadow(self, shadow: Shadow, answer: Answer) -> None:
        """Bring the engine's answer to a hit that asked for a shadow call."""
        self._open_or_raise()
        if answer.finish == "stop" and not answer.function_calls:
            self._keeper.shadow(shadow, answer)

    async def report_bad(
        self, *, tenant: str, principal: str, hit: int | None = None, entry: int | None = None, reason: str = ""
    ) -> int:
        """A user says that a hit, or an entry, was wrong: it is quarantined at once and counted in calibration.

        Returns the entry. Raises UnknownEntry (also for another tenant's), InvalidRequest when this principal
        reports too often or names neither.
        """
        self._open_or_raise()
        given = None if hit is None else self._given.get(hit)
        if hit is not None and (given is None or given.tenant != tenant):
            raise UnknownEntry(f"no hit {hit} is remembered")
        if given is not None:  # of a flight's answer the entry came later
            entry = given.entry or self._state.exact(given.exact, given.principal)
            if entry is None:
                raise UnknownEntry(f"the answer of hit {hit} was not kept")
        if entry is None:
            raise InvalidRequest("a report names a hit or an entry")
        if not self._reports.take(tenant, principal, self._clock.now()):
            raise InvalidRequest(
                f"{principal!r} reports more than {self._settings.reports_per_minute:g} times a minute"
            )
        await self._keeper.quarantine(entry, tenant, principal, reason)
        if given is not None and given.tier is Tier.SEMANTIC:
            counts = self._counts[given.category]
            counts.judged += 1
            counts.wrong += 1
            await self._keeper.learn(given.category, entry, given.similarity, False, "report")
        return entry

    async def bump(self, tag: str, tenant: str | None = None, *, dry_run: bool = False) -> int:
        """What `tag` names has changed: nothing that depends on it is served any more, from this moment on.

        `tenant` None: for all tenants. Returns how many entries went (or would go, on a dry run). The bump is on
        the disk when this returns.
        """
        self._open_or_raise()
        if dry_run:
            return await admin.depending(self._store, tag, tenant)
        return await asyncio.shield(self._keeper.bump(tag, tenant))

    def bump_now(self, tag: str, tenant: str) -> asyncio.Task[int]:
        """As `bump`, in force before this returns; the task ends when it is on the disk too. Raises CacheClosed."""
        self._open_or_raise()
        return self._keeper.bump(tag, tenant)

    def observe_load(self, *, queue_s: float, target_s: float, running: int, capacity: int) -> float:
        """Tell how loaded the engines are; returns the level in force (0..1)."""
        now = self._clock.now()
        return self._load.observe(now, queue_s=queue_s, target_s=target_s, running=running, capacity=capacity)

    @property
    def load(self) -> float:
        """The load level in force (0..1)."""
        return self._load.level

    # -- administration -------------------------------------------------------------------------

    def stats(self) -> CacheStats:
        """Counts, room, calibration and savings, by category."""
        return admin.stats(
            self._state, self._counts, self._judging, None if self._embedder is None else self._embedder.digest,
            self._load.level, len(self._flights), self._embedder_errors, self._store_errors,
        )  # fmt: skip

    async def explain(self, request: CacheRequest) -> Explanation:
        """Why this call would or would not be answered now."""
        self._open_or_raise()
        vector = None if request.question is None else await self._embed(request.question)
        limit = self._settings.temperature_limit
        return await admin.explain(
            request, vector, self._state, self._store, self._finder, self._load.level, self._clock.wall(), limit
        )

    async def flush(
        self, *, tenant: str | None = None, category: str | None = None, confirm: str | None = None
    ) -> admin.FlushPlan:
        """Delete everything of a tenant, a category, or at all. Without `confirm` it only tells what would go and
        the phrase that confirms it. Raises ConfirmationNeeded when `confirm` is another phrase."""
        self._open_or_raise()
        return await admin.flush(self._keeper, self._store, tenant, category, confirm)

    def export(self, tenant: str | None = None) -> AsyncIterator[str]:
        """All live entries as JSON lines, with vectors; of one tenant or of all."""
        self._open_or_raise()
        return admin.export(self._store, tenant)

    async def import_(self, lines: Iterable[str], *, author: str) -> int:
        """Take in what `export` wrote, as one transaction; returns how many entries came. Entries that are there
        already, are past their time or stand under a later bump are left out. Raises TransferError: nothing came."""
        self._open_or_raise()
        taken = await admin.import_(self._keeper, self._state, lines, author, self._clock.wall())
        self._upkeep.index()
        return taken

    async def learn_pairs(self, lines: Iterable[str]) -> int:
        """Calibrate from labelled pairs of questions (JSON lines `{"category", "a", "b", "same"}`); returns how many
        taught something. Raises TransferError for a bad line, InvalidRequest without an embedder."""
        self._open_or_raise()
        if self._embedder is None:
            raise InvalidRequest("pairs can only be learned with an embedder")
        return await admin.learn_pairs(self._keeper, self._state, self._embed, lines)

    # -- life -----------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Return once nothing goes on in the background: judging, index work, sweeps."""
        await self._judging.settle()

    async def close(self) -> None:
        """End the background work, commit what is being written, close the store. Calls that wait for
        another's answer get CacheClosed."""
        if self._closed:
            return
        self._closed = True
        self._flights.land_all()
        self._upkeep.stop()
        await self._judging.close()
        await self._keeper.close()
        await self._store.close()

    def _open_or_raise(self) -> None:
        if self._closed:
            raise CacheClosed("the cache is closed")
