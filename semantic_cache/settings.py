"""Settings of the whole cache. What belongs to a category stands in `policy`."""

from __future__ import annotations

from dataclasses import dataclass, field

from semantic_cache.calibration import Prior
from semantic_cache.eviction import Limits


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Everything that is not a category's. `temperature_limit`: calls drawn hotter are left alone.
    `token_seconds`: what a saved token is worth in seconds, for eviction. `error_budget`: None holds every category
    to its own target, a share allocates one budget over all (see `Calibrator`)."""

    limits: Limits = field(default_factory=Limits)
    temperature_limit: float = 0.3
    flight_wait_s: float = 30.0
    token_seconds: float = 0.01
    inserts_per_minute: float = 600.0
    insert_burst: float = 200.0
    reports_per_minute: float = 10.0
    judged_per_minute: float = 600.0
    prior: Prior = field(default_factory=Prior)
    confidence: float = 0.95
    error_budget: float | None = None
    learn_categories: bool = True
