"""Finding what may serve: the exact entry, or the best neighbour that every rule lets through.

Owns the order of the rules. Reads state and store; changes nothing and counts nothing, so that `explain` is the same
code as `lookup`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semantic_cache.categories import CategoryHead
from semantic_cache.clock import CacheClock
from semantic_cache.guards import disagreement, signature
from semantic_cache.outcome import Neighbour
from semantic_cache.policy import Category, Sharing, expired
from semantic_cache.request import CacheRequest, Keys
from semantic_cache.state import CacheState
from semantic_cache.store import EntryRow, Store

CANDIDATES = 4
MORE_CANDIDATES = 32
OBSERVED_BELOW_FLOOR = 0.1
"""Neighbours this far under a category's floor are still looked at: they teach the curve where wrong begins."""


@dataclass(frozen=True, slots=True)
class Considered:
    """A neighbour and the verdict on it: None when only its similarity can stand in its way."""

    neighbour: Neighbour
    refusal: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a semantic search came to. `best`: the neighbour with the highest effective similarity that no rule
    refuses; it serves from `threshold` on. `refusal`: why the nearest was refused, if it was."""

    considered: tuple[Considered, ...]
    best: Neighbour | None
    threshold: float

    @property
    def serves(self) -> bool:
        return self.best is not None and self.best.effective >= self.threshold

    @property
    def refusal(self) -> str | None:
        return next((c.refusal for c in self.considered if c.refusal is not None), None)


class Finder:
    """Lookups over a state and its store."""

    def __init__(self, state: CacheState, store: Store, clock: CacheClock) -> None:
        self._state = state
        self._store = store
        self._clock = clock
        self.head: CategoryHead | None = None

    def category(self, request: CacheRequest, vector: NDArray[np.float32] | None) -> tuple[Category, bool]:
        """The call's category and whether it was declared; unknown and unrecognised ones are `unsure`."""
        policies = self._state.policies
        if request.category is not None:
            known = policies.get(request.category)
            return (known, True) if known is not None else (policies.unsure, False)
        if self.head is not None and vector is not None:
            name, _ = self.head.predict(vector)
            if name is not None and name in policies:
                return policies[name], False
        return policies.unsure, False

    async def exact(self, request: CacheRequest, keys: Keys, category: Category, load: float) -> EntryRow | str:
        """The entry of the very same call, or in one word why there is none."""
        entry = self._state.exact(keys.exact, request.principal)
        if entry is None:
            return "unknown"
        row = (await self._store.entries([entry])).get(entry)
        if row is None or row.exact != keys.exact:
            return "unknown"
        return self._refusal(request, row, category, load) or row

    async def semantic(
        self, request: CacheRequest, keys: Keys, category: Category, vector: NDArray[np.float32], load: float
    ) -> Found:
        """Search the partition and weigh what is near. Every rule is checked after the rows were read, so that what
        happened meanwhile (a bump, a report) counts."""
        considered = await self._consider(request, keys, category, vector, load, CANDIDATES)
        refused = len(considered) == CANDIDATES and all(c.refusal is not None for c in considered)
        if refused and considered[-1].neighbour.similarity >= category.floor:
            # questions that differ in a number or a name crowd around each other: the right one may be further out
            considered = await self._consider(request, keys, category, vector, load, MORE_CANDIDATES)
        fit = [c.neighbour for c in considered if c.refusal is None]
        best = max(fit, key=lambda n: n.effective, default=None)
        return Found(tuple(considered), best, self._threshold(category, best, load))

    async def _consider(
        self,
        request: CacheRequest,
        keys: Keys,
        category: Category,
        vector: NDArray[np.float32],
        load: float,
        count: int,
    ) -> list[Considered]:
        """The `count` nearest, each with the verdict on it."""
        state, question = self._state, request.question or ""
        near = state.nearest(
            keys.partition, vector, request.tenant, request.principal, count, category.floor - OBSERVED_BELOW_FLOOR
        )
        if not near:
            return []
        rows = await self._store.entries([entry for entry, _ in near])
        asked = signature(question)
        considered: list[Considered] = []
        for entry, similarity in near:
            row = rows.get(entry)
            if row is None or row.question is None or row.partition != keys.partition:
                continue
            neighbour = Neighbour(row, similarity, state.calibrator.effective(similarity, entry))
            refusal = self._refusal(request, row, category, load)
            if refusal is None:
                guards = category.guards | self._of(row).guards
                differs = disagreement(asked, signature(row.question), guards, category.synonyms)
                refusal = None if differs is None else str(differs)
            considered.append(Considered(neighbour, refusal))
        return considered

    def _threshold(self, category: Category, best: Neighbour | None, load: float) -> float:
        own = self._state.calibrator.threshold(category.name, load)
        if best is None or best.row.category == category.name:
            return own
        return max(own, self._state.calibrator.threshold(self._of(best.row).name, load))

    def _refusal(self, request: CacheRequest, row: EntryRow, category: Category, load: float) -> str | None:
        """Why an entry may not serve this call, whatever its question: gone, not shared, stale or too old."""
        state, entry_category = self._state, self._of(row)
        if not state.table.alive(row.id):
            return "gone"
        mine = request.principal is not None and row.author == request.principal
        if not mine and (not row.shared or Sharing.PRINCIPAL in (category.sharing, entry_category.sharing)):
            return "not_shared"
        if state.stale(request.tenant, row.tags, row.bump):
            return "stale"
        wall = self._clock.wall()
        if expired(wall - row.created, row.expires - wall, (category, entry_category), load, request.max_age_s):
            return "expired"
        return None

    def _of(self, row: EntryRow) -> Category:
        return self._state.policies.get(row.category, self._state.policies.unsure)
