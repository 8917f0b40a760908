"""Room: how full each category is, and which entries go when there is none left.

Owns the accounts of entries and bytes by category. Never deletes anything itself. Quotas are lent: a category may
use more than its share while others leave theirs unused; when room is needed, the one furthest over its share gives
back first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semantic_cache.errors import InvalidPolicy
from semantic_cache.index.table import MAX_ENTRIES, EntryTable
from semantic_cache.policy import Category

ENTRY_OVERHEAD = 1_000
"""Bytes counted for each entry besides its body, question and vector: rows, keys and the graph's links."""

_SAMPLE = 1_024
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the cache may hold. `answer_bytes`: the largest single answer."""

    entries: int = 100_000
    bytes: int = 2**30
    answer_bytes: int = 256 * 1024

    def __post_init__(self) -> None:
        if not 1 <= self.entries <= MAX_ENTRIES:
            raise InvalidPolicy(f"limits: entries must lie in 1..{MAX_ENTRIES}, not {self.entries}")
        if self.bytes < self.answer_bytes or self.answer_bytes < 1:
            raise InvalidPolicy("limits: bytes must hold at least one answer of answer_bytes")


class Room:
    """Entries and bytes by category, kept in step with the table by `taken` and `freed`."""

    def __init__(self, policies: Mapping[str, Category], limits: Limits) -> None:
        self.limits = limits
        self._quotas = np.array([c.quota for c in policies.values()])
        self.entries: NDArray[np.int64] = np.zeros(len(policies), dtype=np.int64)
        self.bytes: NDArray[np.int64] = np.zeros(len(policies), dtype=np.int64)

    def taken(self, category: int, size: int) -> None:
        """An entry came."""
        self.entries[category] += 1
        self.bytes[category] += size

    def freed(self, category: int, size: int) -> None:
        """An entry went."""
        self.entries[category] -= 1
        self.bytes[category] -= size

    def full(self, coming: int = 1) -> bool:
        """Whether something must go before `coming` more entries are kept."""
        return bool(self.entries.sum() + coming > self.limits.entries or self.bytes.sum() >= self.limits.bytes)

    def shares(self) -> NDArray[np.float64]:
        """Each category's share of the whole room: of entries or of bytes, whichever is larger."""
        shares: NDArray[np.float64] = np.maximum(self.entries / self.limits.entries, self.bytes / self.limits.bytes)
        return shares

    def debtor(self) -> int:
        """The category that gives back first: the furthest over its quota among those that hold anything."""
        over = np.where(self.entries > 0, self.shares() - self._quotas, -np.inf)
        return int(over.argmax())


def value_density(table: EntryTable, slots: NDArray[np.int64], now: float, token_seconds: float) -> NDArray[np.float64]:
    """Expected saving per byte: P(another hit before expiry) x (seconds + `token_seconds` x tokens) / bytes.

    Hits come as a Poisson process whose rate is estimated from the entry's own hits with a prior of half a hit in an
    hour, and halves with every hour-scaled gap since the last hit, so that what was hot once does not stay for ever.
    """
    age = np.maximum(now - table.created[slots], 0.0)
    idle = np.maximum(now - np.maximum(table.last_hit[slots], table.created[slots]), 0.0)
    rate = (table.hits[slots] + 0.5) / (age + 3600.0)
    patience = 1.0 / (1.0 + idle * rate)
    left = np.maximum(table.expires[slots] - now, 0.0)
    again = -np.expm1(-rate * patience * left)
    saved = table.seconds[slots] + token_seconds * table.tokens[slots] + 1e-3
    density: NDArray[np.float64] = again * saved / (table.size[slots] + ENTRY_OVERHEAD)
    return density


def victims(
    table: EntryTable, category: int, now: float, token_seconds: float, rng: np.random.Generator
) -> Sequence[int]:
    """Up to 16 ids of the category with the least value among a random sample: constant work at any size.

    Expired entries come first, as their value is 0.
    """
    small = table.end <= _SAMPLE
    slots = np.arange(table.end) if small else np.unique(rng.integers(0, table.end, _SAMPLE))
    slots = slots[(table.ids[slots] != 0) & (table.category[slots] == category)]
    if not len(slots):  # a small category that the sample missed
        slots = np.flatnonzero((table.ids[: table.end] != 0) & (table.category[: table.end] == category))
    density = value_density(table, slots, now, token_seconds)
    count = min(_BATCH, max(1, len(slots) // 8))
    worst = slots[np.argsort(density, kind="stable")[:count]]
    return [int(i) for i in table.ids[worst]]
