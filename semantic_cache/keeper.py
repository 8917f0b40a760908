"""Keeping: what is admitted, shared, promoted, evicted, quarantined and learned.

Owns every change of state and store, in the order that makes a crash harmless: into the store first and then into
memory when something comes, out of memory first and then out of the store when something goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import JsonValue

from semantic_cache.admission import InsertRates
from semantic_cache.clock import CacheClock, give_way
from semantic_cache.errors import StoreError, UnknownEntry
from semantic_cache.eviction import victims
from semantic_cache.judge import JudgeCase, Judging
from semantic_cache.outcome import Neighbour, NotStored, Shadow, Stored, Ticket
from semantic_cache.policy import Sharing, expired
from semantic_cache.request import Answer, CacheRequest, canonical, normalised, unfit
from semantic_cache.state import CacheState, delete_statements
from semantic_cache.stats import CategoryCounts
from semantic_cache.store import EVERYWHERE, EntryRow, IndexRow, Statement, Store

_INSERT = (
    "INSERT INTO entries (id, tenant, partition, exact, category, declared, question, vector, digest, body, seconds,"
    " tokens, created, expires, bump, author, shared, origin, source) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_AUDIT = "INSERT INTO audit (at, kind, tenant, entry, principal, detail) VALUES (?, ?, ?, ?, ?, ?)"
_LABEL = "INSERT INTO labels (at, category, entry, similarity, correct, source, digest) VALUES (?, ?, ?, ?, ?, ?, ?)"
_SWEEP_EVERY = 256
_AT_ONCE = 32  # entries handled before others have a turn


@dataclass(frozen=True, slots=True)
class NewEntry:
    """An entry to be kept. `body` None: it shares the body of the entry `source`."""

    tenant: str
    partition: bytes
    exact: bytes
    category: str
    declared: bool
    question: str | None
    vector: np.ndarray[tuple[int], np.dtype[np.float16]] | None
    body: bytes | None
    seconds: float
    tokens: int
    created: float
    expires: float
    bump: int
    author: str
    shared: bool
    origin: str
    tags: tuple[str, ...] = ()
    source: int | None = None
    parts: str = "{}"
    template: str | None = None


@dataclass(slots=True)
class Keeper:
    """All writing. `counts` are the statistics it adds to."""

    state: CacheState
    store: Store
    clock: CacheClock
    judging: Judging
    rates: InsertRates
    counts: dict[str, CategoryCounts]
    digest: str | None
    token_seconds: float
    rng: random.Random
    _inserts: int = 0
    _dirty: set[int] = field(default_factory=set)
    _inserting: set[asyncio.Future[list[int | None]]] = field(default_factory=set)
    _bumping: set[asyncio.Task[int]] = field(default_factory=set)
    _draws: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._draws = np.random.default_rng(self.rng.getrandbits(32))

    # -- coming in ------------------------------------------------------------------------------

    async def keep(self, ticket: Ticket, answer: Answer) -> Stored | NotStored:
        """Admit the engine's answer, and learn from it how right the neighbour would have been."""
        request, counts = ticket.request, self.counts[ticket.category]
        refusal = self._refusal(ticket, answer)
        if refusal not in ("stale", "function_calls") and answer.finish == "stop":
            self._compare_neighbour(ticket, answer)
        if refusal is not None:
            counts.refused[refusal] += 1
            return NotStored(refusal)
        older = self.state.exact(ticket.keys.exact, request.principal)
        if older is not None and not self._outdated(older, ticket):
            return Stored(older)
        self._second_sighting(ticket, answer)
        category, wall = self.state.policies[ticket.category], self.clock.wall()
        new = NewEntry(
            tenant=request.tenant,
            partition=ticket.keys.partition,
            exact=ticket.keys.exact,
            category=category.name,
            declared=ticket.declared,
            question=None if request.question is None else normalised(request.question),
            vector=None if ticket.vector is None else ticket.vector.astype(np.float16),
            body=canonical(answer.value),
            seconds=answer.seconds,
            tokens=answer.prompt_tokens + answer.output_tokens,
            created=wall,
            expires=wall + category.longest_ttl_s,
            bump=ticket.bumps,
            author=request.principal or "",
            shared=category.sharing is Sharing.TENANT,
            origin="call",
            tags=tuple(request.tags),
            parts=json.dumps(ticket.keys.parts),
            template=request.template,
        )
        (entry,) = await self.insert([new], replaces=() if older is None else (older,))
        counts.stored += 1
        return Stored(entry) if entry is not None else NotStored("stale")

    def _refusal(self, ticket: Ticket, answer: Answer) -> str | None:
        request = ticket.request
        reason = unfit(answer, self.state.room.limits.answer_bytes)
        if reason is not None:
            return reason
        if self.state.stale(request.tenant, request.tags, ticket.bumps):
            return "stale"
        if not request.keep:
            return "not_asked"
        if request.principal is None:
            return "no_principal"
        if not self.rates.take(request.tenant, request.principal, self.clock.now()):
            return "rate"
        return None

    def _outdated(self, entry: int, ticket: Ticket) -> bool:
        """Whether an entry of the same call is to be replaced: past its ordinary time, or older than was asked for."""
        state, wall = self.state, self.clock.wall()
        table, slot = state.table, state.table.slot(entry)
        own = state.policies[state.names[int(table.category[slot])]]
        age_s, left_s = wall - float(table.created[slot]), float(table.expires[slot]) - wall
        return expired(age_s, left_s, (state.policies[ticket.category], own), 0.0, ticket.request.max_age_s)

    async def insert(self, new: Sequence[NewEntry], replaces: Iterable[int] = ()) -> list[int | None]:
        """Commit entries in one transaction and make them findable; None for one that a bump overtook meanwhile.

        Goes on to its end when the caller is cancelled, so that memory and store agree.
        """
        task = asyncio.ensure_future(self._insert(new, tuple(replaces)))
        self._inserting.add(task)
        task.add_done_callback(self._inserting.discard)
        return await asyncio.shield(task)

    async def _insert(self, new: Sequence[NewEntry], replaces: tuple[int, ...]) -> list[int | None]:
        statements = self._forget(replaces) + await self._make_room(len(new))
        table, ids = self.state.table, [self.state.table.allocate() for _ in new]
        for at, (entry, row) in enumerate(zip(ids, new, strict=True), start=1):
            statements += self._row_statements(entry, row)
            if at % _AT_ONCE == 0:
                await give_way()
        statements.append(("INSERT OR REPLACE INTO meta VALUES ('sequence', ?)", (table.sequence,)))
        try:
            await self.store.write(statements)
        except StoreError:
            for entry in ids:
                table.give_back(entry)
            raise
        kept: list[int | None] = []
        for at, (entry, row) in enumerate(zip(ids, new, strict=True), start=1):
            if at % _AT_ONCE == 0:
                await give_way()
            self.state.put(self._index_row(entry, row), row.vector)
            overtaken = self.state.stale(row.tenant, row.tags, row.bump)
            if overtaken or (row.source is not None and not table.alive(row.source)):
                await self.drop([entry])
            kept.append(entry if table.alive(entry) else None)
        self._inserts += len(new)
        if self._inserts >= _SWEEP_EVERY:
            self._inserts = 0
            self.judging.spawn(self.sweep())
        return kept

    def _row_statements(self, entry: int, row: NewEntry) -> list[Statement]:
        vector = None if row.vector is None else row.vector.tobytes()
        return [
            (
                _INSERT,
                (entry, row.tenant, row.partition, row.exact, row.category, row.declared, row.question, vector,
                 self.digest if vector is not None else None, row.body, row.seconds, row.tokens, row.created,
                 row.expires, row.bump, row.author, row.shared, row.origin, row.source),
            ),
            ("INSERT OR IGNORE INTO partitions VALUES (?,?,?,?)", (row.partition, row.tenant, row.template, row.parts)),
            *(("INSERT INTO tags VALUES (?, ?)", (tag, entry)) for tag in row.tags),
        ]  # fmt: skip

    @staticmethod
    def _index_row(entry: int, row: NewEntry) -> IndexRow:
        size = len(row.body or b"") + len(row.question or "") + (0 if row.vector is None else row.vector.nbytes)
        return IndexRow(
            entry, row.tenant, row.partition, row.exact, row.category, row.author, row.shared, row.created, row.expires,
            0, 0.0, row.seconds, row.tokens, size, row.source, row.vector is not None,
        )  # fmt: skip

    async def _make_room(self, count: int) -> list[Statement]:
        """Evict until `count` more fit; the statements that write it down."""
        statements: list[Statement] = []
        room = self.state.room
        while room.full(count) and len(self.state.table):
            if statements:
                await give_way()
            category = room.debtor()
            gone = victims(self.state.table, category, self.clock.wall(), self.token_seconds, self._draws)
            self.counts[self.state.names[category]].evicted += len(gone)
            statements += self._forget(gone)
        return statements

    # -- going out ------------------------------------------------------------------------------

    def _forget(self, entries: Iterable[int]) -> list[Statement]:
        """Out of memory now; the statements that take it out of the store."""
        gone = [one for entry in entries for one in self.state.remove(entry)]
        self._dirty.difference_update(gone)
        return delete_statements(gone)

    async def delete(self, entries: Iterable[int]) -> None:
        """Delete entries, those in quarantine too."""
        ids, statements = list(entries), list[Statement]()
        for start in range(0, len(ids), _AT_ONCE):
            statements += self._forget(ids[start : start + _AT_ONCE])
            await give_way()
        await self.store.write(statements + delete_statements(ids))

    async def drop(self, entries: Iterable[int]) -> int:
        """Delete entries; returns how many there were."""
        before = len(self.state.table)
        statements = self._forget(entries)
        count = before - len(self.state.table)
        if statements:
            await self.store.write(statements)
        return count

    async def sweep(self) -> None:
        """Delete what is past its time, write the counted hits down."""
        rows = await self.store.query("SELECT id FROM entries WHERE expires <= ? LIMIT 1000", (self.clock.wall(),))
        await self._write_hits()
        await self.delete(row[0] for row in rows)

    def hit(self, entry: int) -> None:
        """Count a hit; it is written down with the next sweep."""
        self.state.hit(entry, self.clock.wall())
        self._dirty.add(entry)
        if len(self._dirty) >= _SWEEP_EVERY:
            self.judging.spawn(self._write_hits())

    async def _write_hits(self) -> None:
        await self.store.write(self._hit_statements())

    async def close(self) -> None:
        """Finish what is being inserted and write the counted hits down."""
        await asyncio.gather(*self._inserting, *self._bumping, return_exceptions=True)
        with contextlib.suppress(StoreError):
            await self._write_hits()

    def _hit_statements(self) -> list[Statement]:
        table, dirty = self.state.table, [e for e in self._dirty if self.state.table.alive(e)]
        self._dirty.clear()
        sql = "UPDATE entries SET hits = ?, last_hit = ? WHERE id = ?"
        return [(sql, (int(table.hits[table.slot(e)]), float(table.last_hit[table.slot(e)]), e)) for e in dirty]

    def bump(self, tag: str, tenant: str | None) -> asyncio.Task[int]:
        """Invalidate everything that depends on a tag: in memory before this returns, on the disk when the task ends,
        with how many entries went. The task goes on when who waits for it is cancelled."""
        scope = EVERYWHERE if tenant is None else tenant
        task = asyncio.ensure_future(self._write_bump(tag, scope, self.state.bump(scope, tag)))
        self._bumping.add(task)
        task.add_done_callback(self._bumping.discard)
        return task

    async def _write_bump(self, tag: str, scope: str, number: int) -> int:
        noted: Statement = ("INSERT OR REPLACE INTO bumps VALUES (?, ?, ?)", (scope, tag, number))
        await self.store.write([noted], durable=True)
        rows = await self.store.query(
            "SELECT e.id, e.category FROM tags t JOIN entries e ON e.id = t.entry"
            " WHERE t.tag = ? AND (? = '*' OR e.tenant = ?) AND e.bump < ?",
            (tag, scope, scope, number),
        )
        for _, category in rows:
            self._counts(category).stale += 1
        await self.delete(row[0] for row in rows)
        return len(rows)

    async def quarantine(self, entry: int, tenant: str, principal: str | None, reason: str) -> None:
        """Serve an entry, and what was promoted to it, no more; keep it for the record. Raises UnknownEntry."""
        row = (await self.store.entries([entry])).get(entry)
        if row is None or row.tenant != tenant:
            raise UnknownEntry(f"no entry {entry}")
        self._counts(row.category).quarantined += 1
        gone, wall = self.state.remove(entry), self.clock.wall()
        await self.store.write(
            [
                *(("UPDATE entries SET quarantined = ? WHERE id = ?", (wall, one)) for one in gone or [entry]),
                (_AUDIT, (wall, "quarantined", tenant, entry, principal, reason)),
            ]
        )

    # -- learning -------------------------------------------------------------------------------

    def _compare_neighbour(self, ticket: Ticket, answer: Answer) -> None:
        """A miss that had a neighbour tells for nothing whether that would have been right."""
        neighbour = ticket.neighbour
        if neighbour is None or ticket.judged:
            return
        case = self._case(ticket.request, ticket.category, neighbour, answer)
        ticket.judged = self.judging.submit(
            case, lambda same: self.learn(ticket.category, neighbour.row.id, neighbour.similarity, same, "miss")
        )

    def verify_grey(self, ticket: Ticket) -> None:
        """Ask the judge about a near miss while the engine works; if it is the same, promote the question."""
        neighbour = ticket.neighbour
        if neighbour is None or ticket.request.principal is None:
            return

        async def verdict(same: bool) -> None:
            if not ticket.judged:
                ticket.judged = True
                await self.learn(ticket.category, neighbour.row.id, neighbour.similarity, same, "judge")
            if same:
                await self._promote(ticket, neighbour)

        self.judging.submit(self._case(ticket.request, ticket.category, neighbour, None), verdict)

    async def _promote(self, ticket: Ticket, neighbour: Neighbour) -> None:
        """Let the question point at the neighbour's answer, unless it has one of its own by now."""
        row, request = neighbour.row, ticket.request
        taken = self.state.exact(ticket.keys.exact, request.principal) is not None
        if taken or not self.state.table.alive(row.id) or not request.keep or ticket.vector is None:
            return
        new = NewEntry(
            tenant=row.tenant,
            partition=row.partition,
            exact=ticket.keys.exact,
            category=row.category,
            declared=False,
            question=normalised(request.question or ""),
            vector=ticket.vector.astype(np.float16),
            body=None,
            seconds=row.seconds,
            tokens=row.tokens,
            created=row.created,
            expires=row.expires,
            bump=row.bump,
            author=row.author,
            shared=row.shared,
            origin="promoted",
            tags=row.tags,
            source=row.id,
            parts=json.dumps(ticket.keys.parts),
            template=request.template,
        )
        await self.insert([new])
        self.counts[ticket.category].promoted += 1

    def _second_sighting(self, ticket: Ticket, answer: Answer) -> None:
        """Another principal got an answer to the same call: if it is the same one, the first may be shared."""
        request = ticket.request
        first = self.state.unshared(ticket.keys.exact)
        if first is None or self.state.policies[ticket.category].sharing is not Sharing.SECOND_SIGHTING:
            return
        self.judging.spawn(self._sight(first, request, ticket.category, answer))

    async def _sight(self, first: int, request: CacheRequest, category: str, answer: Answer) -> None:
        row = (await self.store.entries([first])).get(first)
        sharing = None if row is None else self.state.policies.get(row.category, self.state.policies.unsure).sharing
        if row is None or sharing is not Sharing.SECOND_SIGHTING or row.author == request.principal:
            return

        async def verdict(same: bool) -> None:
            if same and self.state.table.alive(row.id):
                await self.store.write([("UPDATE entries SET shared = 1 WHERE id = ?", (row.id,))])
                if self.state.table.alive(row.id):
                    self.state.share(row.id, row.exact)

        self.judging.submit(self._case(request, category, Neighbour(row, 1.0, 1.0), answer), verdict)

    def shadow(self, shadow: Shadow, answer: Answer) -> None:
        """Compare a hit with what the engine says to the same question."""
        case = JudgeCase(
            shadow.category, shadow.request.tenant, shadow.request.question or "", shadow.cached_question,
            shadow.cached, shadow.similarity, answer.value, True,
        )  # fmt: skip

        async def verdict(same: bool) -> None:
            self._counts(shadow.category).judged += 1
            await self.learn(shadow.category, shadow.entry, shadow.similarity, same, "shadow")
            if not same:
                self._counts(shadow.category).wrong += 1

        self.judging.submit(case, verdict)

    async def learn(self, category: str, entry: int, similarity: float, right: bool, source: str) -> None:
        """Take in one label, and write it down."""
        if category not in self.counts:
            return
        self.state.calibrator.label(category, entry, similarity, right)
        row = (self.clock.wall(), category, entry, similarity, right, source, self.digest or "")
        await self.store.write([(_LABEL, row)])

    def _case(self, request: CacheRequest, category: str, neighbour: Neighbour, answer: Answer | None) -> JudgeCase:
        return JudgeCase(
            category, request.tenant, request.question or "", neighbour.row.question or "", value_of(neighbour.row),
            neighbour.similarity, None if answer is None else answer.value, answer is not None,
        )  # fmt: skip

    def _counts(self, category: str) -> CategoryCounts:
        return self.counts.get(category, self.counts[self.state.policies.unsure.name])


def value_of(row: EntryRow) -> JsonValue:
    """The answer's value, as it was given."""
    value: JsonValue = json.loads(row.body.decode("utf-8", "surrogatepass"))
    return value
