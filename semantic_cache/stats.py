"""What the cache counts: by category, and by stage for the scheduler. Since the start of the process."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

_STAGES = 10_000


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


class StageRates:
    """How often each stage's calls are answered from the cache: half weight after `half_life` lookups.

    A prior of one miss keeps a stage that was never seen at 0.
    """

    def __init__(self, half_life: float = 200.0) -> None:
        self._keep = 0.5 ** (1 / half_life)
        self._stages: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, stage: str | None, hit: bool) -> None:
        """One lookup of a stage's call."""
        if stage is None:
            return
        hits, all_ = self._stages.pop(stage, (0.0, 1.0))
        self._stages[stage] = (hits * self._keep + hit, all_ * self._keep + 1)
        if len(self._stages) > _STAGES:
            self._stages.popitem(last=False)

    def expected(self, stage: str) -> float:
        """Probability that the stage's next call is a hit."""
        hits, all_ = self._stages.get(stage, (0.0, 1.0))
        return hits / all_
