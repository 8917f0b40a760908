"""Administration: statistics, explanations, flush, export, import, learning from labelled pairs, labels at start.

Owns no state: functions over the cache's parts. Never on the request path.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semantic_cache.calibration import wilson_interval
from semantic_cache.clock import give_way
from semantic_cache.errors import ConfirmationNeeded, TransferError
from semantic_cache.finder import Finder, Found
from semantic_cache.guards import disagreement, signature
from semantic_cache.index.partitions import VectorIndex
from semantic_cache.judge import Judging
from semantic_cache.keeper import Keeper, NewEntry
from semantic_cache.outcome import CandidateView, Explanation
from semantic_cache.policy import Category, Sharing
from semantic_cache.request import CacheRequest, Keys, barred, keys_of, normalised
from semantic_cache.state import CacheState
from semantic_cache.stats import CacheStats, CategoryCounts, CategoryStats
from semantic_cache.store import EVERYWHERE, EntryRow, Store

_LABELS_AT_START = 20_000
_EXPORT_CHUNK = 500
_LINES_AT_ONCE = 16  # read or written before others have a turn
_ELSEWHERE = 5
Embed = Callable[[str], Awaitable[NDArray[np.float32] | None]]


# -- statistics and explanations --------------------------------------------------------------------


def stats(
    state: CacheState,
    counts: Mapping[str, CategoryCounts],
    judging: Judging,
    digest: str | None,
    load: float,
    flights: int,
    embedder_errors: int,
    store_errors: int,
) -> CacheStats:
    """Everything that is counted, by category."""
    index = state.index
    return CacheStats(
        semantic=index is not None,
        embedder_digest=digest,
        entries=len(state.table),
        bytes=int(state.room.bytes.sum()),
        index_bytes=state.table.nbytes + (0 if index is None else index.nbytes),
        partitions=0 if index is None else len(index),
        load=load,
        flights=flights,
        embedder_errors=embedder_errors,
        store_errors=store_errors,
        judged=judging.asked,
        judge_dropped=judging.dropped,
        judge_failed=judging.failed,
        categories=tuple(_category_stats(state, i, counts[name]) for i, name in enumerate(state.names)),
    )


def _category_stats(state: CacheState, number: int, counts: CategoryCounts) -> CategoryStats:
    name = state.names[number]
    policy, estimate = state.policies[name], state.calibrator.estimate(name)
    hits = counts.exact_hits + counts.semantic_hits + counts.flight_hits
    return CategoryStats(
        category=name,
        entries=int(state.room.entries[number]),
        bytes=int(state.room.bytes[number]),
        quota=policy.quota,
        room_share=float(state.room.shares()[number]),
        lookups=counts.lookups,
        exact_hits=counts.exact_hits,
        semantic_hits=counts.semantic_hits,
        flight_hits=counts.flight_hits,
        hit_rate=hits / counts.lookups if counts.lookups else 0.0,
        misses=dict(counts.misses),
        false_hits=counts.wrong,
        judged_hits=counts.judged,
        false_share=wilson_interval(counts.wrong, counts.judged),
        threshold=estimate.threshold,
        overload_threshold=estimate.overload_threshold,
        expected_error=estimate.expected_error,
        error_bound=estimate.error_bound,
        error_target=policy.error_target,
        labels=state.calibrator.labels(name),
        from_defaults=estimate.from_defaults,
        saved_s=counts.saved_s,
        saved_tokens=counts.saved_tokens,
        stored=counts.stored,
        refused=dict(counts.refused),
        evicted=counts.evicted,
        stale=counts.stale,
        quarantined=counts.quarantined,
        promoted=counts.promoted,
    )


async def explain(
    request: CacheRequest,
    vector: NDArray[np.float32] | None,
    state: CacheState,
    store: Store,
    finder: Finder,
    load: float,
    wall_s: float,
    temperature_limit: float,
) -> Explanation:
    """Walk through a lookup without counting it or changing anything."""
    category, declared = finder.category(request, vector)
    keys = keys_of(request, private=declared and category.sharing is Sharing.PRINCIPAL)
    outcome, found = await _would(request, keys, category, vector, finder, load, temperature_limit)
    rows = 0 if state.index is None else state.index.rows_in(keys.partition)
    return Explanation(
        outcome=outcome,
        partition=keys.partition.hex(),
        rows=rows,
        category=category.name,
        declared=declared,
        threshold=None if found is None else found.threshold,
        load=load,
        ttl_s=category.ttl_at(load),
        candidates=() if found is None else tuple(_views(found, wall_s)),
        elsewhere=() if rows else await _elsewhere(store, request, keys),
    )


async def _would(
    request: CacheRequest,
    keys: Keys,
    category: Category,
    vector: NDArray[np.float32] | None,
    finder: Finder,
    load: float,
    temperature_limit: float,
) -> tuple[str, Found | None]:
    reason = barred(request, temperature_limit)
    if reason is not None:
        return f"bypass: {reason}", None
    exact = await finder.exact(request, keys, category, load)
    found = None
    if vector is not None and request.mode != "exact":
        found = await finder.semantic(request, keys, category, vector, load)
    if isinstance(exact, EntryRow):  # the neighbours tell why this call was not answered before it had an entry
        return f"hit: exact, entry {exact.id}", found
    if request.mode == "exact" or request.question is None:
        return f"miss: exact tier only, {exact}", None
    if found is None:
        return "miss: the question is not embedded", None
    if found.serves and found.best is not None:
        return f"hit: semantic, entry {found.best.row.id}", found
    return "miss: " + ("below the threshold" if found.best else found.refusal or "nothing near"), found


def _views(found: Found, wall_s: float) -> Iterable[CandidateView]:
    for considered in found.considered:
        near = considered.neighbour
        served = near is found.best and found.serves
        verdict = considered.refusal or ("served" if served else f"{near.effective:.3f} under {found.threshold:.3f}")
        yield CandidateView(
            entry=near.row.id,
            question=near.row.question,
            similarity=near.similarity,
            effective=near.effective,
            category=near.row.category,
            age_s=wall_s - near.row.created,
            verdict=verdict,
        )


async def _elsewhere(store: Store, request: CacheRequest, keys: Keys) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The tenant's partitions of the same template that differ in the fewest parts."""
    rows = await store.query(
        "SELECT key, parts FROM partitions WHERE tenant = ? AND template IS ? AND key != ? LIMIT 500",
        (request.tenant, request.template, keys.partition),
    )
    own, differing = keys.parts.items(), []
    for key, text in rows:
        parts = json.loads(text)
        differing.append((key.hex(), tuple(sorted(n for n, d in own if parts.get(n) != d))))
    return tuple(sorted(differing, key=lambda d: len(d[1]))[:_ELSEWHERE])


# -- invalidation -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlushPlan:
    """What a flush deletes, or has deleted when `done`. `confirm` is the phrase that does it."""

    entries: int
    confirm: str
    done: bool


async def depending(store: Store, tag: str, tenant: str | None) -> int:
    """How many entries depend on a tag."""
    scope = EVERYWHERE if tenant is None else tenant
    ((count,),) = await store.query(
        "SELECT count(*) FROM tags t JOIN entries e ON e.id = t.entry WHERE t.tag = ? AND (? = '*' OR e.tenant = ?)",
        (tag, scope, scope),
    )
    return int(count)


async def flush(
    keeper: Keeper, store: Store, tenant: str | None, category: str | None, confirm: str | None
) -> FlushPlan:
    """Plan a flush, or do it when `confirm` repeats the plan's phrase. Quarantined entries go too."""
    rows = await store.query(
        "SELECT id FROM entries WHERE (? IS NULL OR tenant = ?) AND (? IS NULL OR category = ?)",
        (tenant, tenant, category, category),
    )
    phrase = f"flush {'all tenants' if tenant is None else tenant} {'all categories' if category is None else category}"
    if confirm is None:
        return FlushPlan(len(rows), phrase, done=False)
    if confirm != phrase:
        raise ConfirmationNeeded(f"to delete {len(rows)} entries, confirm with {phrase!r}")
    await keeper.delete([row[0] for row in rows])
    return FlushPlan(len(rows), phrase, done=True)


# -- moving entries ---------------------------------------------------------------------------------


class _Line(BaseModel):
    """One exported entry."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tenant: str = Field(min_length=1, max_length=200)
    partition: str = Field(pattern="^[0-9a-f]{32}$")
    exact: str = Field(pattern="^[0-9a-f]{32}$")
    category: str = Field(max_length=200)
    declared: bool
    question: str | None
    vector: str | None
    digest: str | None
    body: str
    seconds: float = Field(ge=0, allow_inf_nan=False)
    tokens: int = Field(ge=0, lt=2**31)
    created: float = Field(allow_inf_nan=False)
    expires: float = Field(allow_inf_nan=False)
    shared: bool
    tags: list[str] = Field(max_length=64)
    template: str | None
    parts: dict[str, str]


async def export(store: Store, tenant: str | None) -> AsyncIterator[str]:
    """Entries outside quarantine, one JSON line each."""
    last = -1
    while True:
        rows = await store.query(
            "SELECT e.id, e.tenant, e.partition, e.exact, e.category, e.declared, e.question, e.vector, e.digest,"
            " coalesce(e.body, o.body), e.seconds, e.tokens, e.created, e.expires, e.shared,"
            " (SELECT json_group_array(tag) FROM tags WHERE entry = e.id), p.template, p.parts"
            " FROM entries e LEFT JOIN entries o ON o.id = e.source LEFT JOIN partitions p ON p.key = e.partition"
            " WHERE e.id > ? AND (? IS NULL OR e.tenant = ?) AND e.quarantined IS NULL ORDER BY e.id LIMIT ?",
            (last, tenant, tenant, _EXPORT_CHUNK),
        )
        for at, row in enumerate(rows, start=1):
            yield json.dumps(_exported(row), ensure_ascii=True)
            if at % _LINES_AT_ONCE == 0:
                await give_way()
        if len(rows) < _EXPORT_CHUNK:
            return
        last = rows[-1][0]


def _exported(row: tuple[Any, ...]) -> dict[str, Any]:
    (_, tenant, partition, exact, category, declared, question, vector, digest, body, seconds, tokens, created, expires,
     shared, tags, template, parts) = row  # fmt: skip
    return {
        "tenant": tenant,
        "partition": partition.hex(),
        "exact": exact.hex(),
        "category": category,
        "declared": bool(declared),
        "question": question,
        "vector": None if vector is None else base64.b64encode(vector).decode(),
        "digest": digest,
        "body": base64.b64encode(body).decode(),
        "seconds": seconds,
        "tokens": tokens,
        "created": created,
        "expires": expires,
        "shared": bool(shared),
        "tags": json.loads(tags),
        "template": template,
        "parts": json.loads(parts or "{}"),
    }


async def import_(keeper: Keeper, state: CacheState, lines: Iterable[str], author: str, wall_s: float) -> int:
    """Check every line, then insert all of them at once."""
    new: list[NewEntry] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and (entry := _imported(line, number, keeper.digest, author, state)) is not None:
            new.append(entry)
        if number % _LINES_AT_ONCE == 0:
            await give_way()
    fresh = [e for e in new if e.expires > wall_s and state.exact(e.exact, None if e.shared else e.author) is None]
    unique = list({e.exact: e for e in fresh}.values())
    if not unique:
        return 0
    return sum(entry is not None for entry in await keeper.insert(unique))


def _imported(line: str, number: int, digest: str | None, author: str, state: CacheState) -> NewEntry | None:
    try:
        row = _Line.model_validate_json(line)
        body = base64.b64decode(row.body, validate=True)
        json.loads(body.decode("utf-8", "surrogatepass"))
        vector = None
        if row.vector is not None and row.digest == digest and state.index is not None:
            vector = _vector(base64.b64decode(row.vector, validate=True), state.index)
    except ValidationError as error:
        first = error.errors()[0]
        raise TransferError(number, f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}") from None
    except (binascii.Error, ValueError) as error:
        raise TransferError(number, str(error)) from None
    if state.stale(row.tenant, row.tags, 0):
        return None
    return NewEntry(
        tenant=row.tenant,
        partition=bytes.fromhex(row.partition),
        exact=bytes.fromhex(row.exact),
        category=row.category,
        declared=row.declared,
        question=row.question,
        vector=vector,
        body=body,
        seconds=row.seconds,
        tokens=row.tokens,
        created=row.created,
        expires=row.expires,
        bump=state.bump_count,
        author=author,
        shared=row.shared,
        origin="import",
        tags=tuple(dict.fromkeys(row.tags)),
        parts=json.dumps(row.parts),
        template=row.template,
    )


def _vector(blob: bytes, index: VectorIndex) -> NDArray[np.float16]:
    vector = np.frombuffer(blob[: len(blob) // 2 * 2], dtype=np.float16)
    length = float(np.linalg.norm(vector.astype(np.float32)))
    if len(blob) != 2 * index.dimensions or not 0.98 < length < 1.02:
        raise ValueError(f"vector: not a unit vector of {index.dimensions} dimensions")
    return vector


# -- learning ---------------------------------------------------------------------------------------


class _Pair(BaseModel):
    """One labelled pair: may the answer to `a` be given to `b`?"""

    model_config = ConfigDict(extra="forbid", strict=True)

    category: str
    a: str = Field(min_length=1)
    b: str = Field(min_length=1)
    same: bool


async def learn_pairs(keeper: Keeper, state: CacheState, embed: Embed, lines: Iterable[str]) -> int:
    """Feed pairs to the calibrator. Pairs that a guard keeps apart teach nothing: they are never served."""
    pairs: list[_Pair] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pairs.append(_Pair.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            raise TransferError(number, f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}") from None
        if pairs[-1].category not in state.policies:
            raise TransferError(number, f"category: there is no {pairs[-1].category!r}")
    taught = 0
    for pair in pairs:
        policy = state.policies[pair.category]
        a, b = normalised(pair.a), normalised(pair.b)
        if a == b or disagreement(signature(b), signature(a), policy.guards, policy.synonyms) is not None:
            continue
        one, other = await embed(a), await embed(b)
        if one is not None and other is not None:
            similarity = float(one @ other)
            state.calibrator.seen(pair.category, similarity)
            await keeper.learn(pair.category, 0, similarity, pair.same, "pair")
            taught += 1
    state.calibrator.recalibrate()
    return taught


async def load_labels(state: CacheState, store: Store, digest: str | None) -> None:
    """Bring the newest labels of this embedder back into calibration; of each embedder older ones are forgotten."""
    aged = "SELECT id, row_number() OVER (PARTITION BY digest ORDER BY id DESC) AS age FROM labels"
    forget = f"DELETE FROM labels WHERE id IN (SELECT id FROM ({aged}) WHERE age > ?)"
    await store.write([(forget, (_LABELS_AT_START,))])
    rows = await store.query(
        "SELECT category, entry, similarity, correct FROM labels WHERE digest = ? ORDER BY id DESC LIMIT ?",
        (digest or "", _LABELS_AT_START),
    )
    for category, entry, similarity, correct in reversed(rows):
        if category in state.policies:
            state.calibrator.seen(category, similarity)
            state.calibrator.label(category, entry if state.table.alive(entry) else 0, similarity, bool(correct))
    state.calibrator.recalibrate()


async def declared_vectors(
    state: CacheState, store: Store, digest: str, per_category: int
) -> dict[str, NDArray[np.float32]]:
    """The newest vectors of questions whose category was declared, by category: [n, dimensions] each."""
    examples: dict[str, NDArray[np.float32]] = {}
    for name in state.names:
        rows = await store.query(
            "SELECT vector FROM entries WHERE declared = 1 AND category = ? AND digest = ? AND vector IS NOT NULL"
            " ORDER BY id DESC LIMIT ?",
            (name, digest, per_category),
        )
        if rows:
            flat = np.frombuffer(b"".join(row[0] for row in rows), dtype=np.float16).astype(np.float32)
            examples[name] = flat.reshape(len(rows), -1)
    return examples
