"""What the cache counts, by category, since the start of the process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class CategoryCounts:
    """Counters of one category. `judged`, `wrong`: semantic hits whose rightness became known, by shadow or report."""

    lookups: int = 0
    exact_hits: int = 0
    semantic_hits: int = 0
    flight_hits: int = 0
    misses: Counter[str] = field(default_factory=Counter)
    saved_s: float = 0.0
    saved_tokens: int = 0
    stored: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    evicted: int = 0
    quarantined: int = 0
    stale: int = 0
    promoted: int = 0
    judged: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class CategoryStats:
    """One row of `SemanticCache.stats`. Shares are 0..1; the interval of false hits is Wilson's at 95 %."""

    category: str
    entries: int
    bytes: int
    quota: float
    room_share: float
    lookups: int
    exact_hits: int
    semantic_hits: int
    flight_hits: int
    hit_rate: float
    misses: dict[str, int]
    false_hits: int
    judged_hits: int
    false_share: tuple[float, float]
    threshold: float
    overload_threshold: float
    expected_error: float
    error_bound: float
    error_target: float
    labels: float
    from_defaults: bool
    saved_s: float
    saved_tokens: int
    stored: int
    refused: dict[str, int]
    evicted: int
    stale: int
    quarantined: int
    promoted: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The whole cache. `semantic`: whether there is an embedder; without one the exact tier works alone."""

    semantic: bool
    embedder_digest: str | None
    entries: int
    bytes: int
    index_bytes: int
    partitions: int
    load: float
    flights: int
    embedder_errors: int
    store_errors: int
    judged: int
    judge_dropped: int
    judge_failed: int
    categories: tuple[CategoryStats, ...]
