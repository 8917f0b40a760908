"""What a lookup comes to: a hit, a miss with a ticket, or a bypass."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from semantic_cache.flights import Flight
from semantic_cache.request import Answer, CacheRequest, Keys
from semantic_cache.store import EntryRow


class Tier(StrEnum):
    """EXACT: the same call. SEMANTIC: a question near enough. FLIGHT: an equal call that was under way."""

    EXACT = "exact"
    SEMANTIC = "semantic"
    FLIGHT = "flight"


@dataclass(frozen=True, slots=True)
class Shadow:
    """A hit that should also be run on the engine, off the critical path; its answer goes to `SemanticCache.shadow`."""

    entry: int
    category: str
    similarity: float
    request: CacheRequest
    cached_question: str
    cached: JsonValue


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer from the cache. `number` names this hit in a report; `saved_s` and `saved_tokens` are what the
    engine's own answer cost when it was made."""

    number: int
    tier: Tier
    entry: int | None
    value: JsonValue
    category: str
    similarity: float
    age_s: float
    saved_s: float
    saved_tokens: int
    cached_question: str | None = None
    shadow: Shadow | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A question like the asked one, with its answer: for the prompt, where the call asked for examples."""

    question: str
    answer: JsonValue
    similarity: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The nearest entry that might have served. `effective`: its similarity as its own record makes it count."""

    row: EntryRow
    similarity: float
    effective: float


@dataclass(slots=True, eq=False)
class Ticket:
    """The right, and the duty, to end a miss: give it to `store` with the engine's answer, or to `abandon`.

    `bumps`: the count of tag bumps when the call began; an answer made from older data is not kept.
    """

    request: CacheRequest
    keys: Keys
    category: str
    declared: bool
    bumps: int
    flight: Flight[Answer | Hit] | None = None
    vector: NDArray[np.float32] | None = None
    neighbour: Neighbour | None = None
    grey: bool = False
    judged: bool = False
    open: bool = True


@dataclass(frozen=True, slots=True)
class Miss:
    """Ask the engine. `reason` is why there was no hit, in one word; `detail` says more."""

    reason: str
    ticket: Ticket
    detail: str = ""
    similarity: float | None = None
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Bypass:
    """The cache has no part in this call: nothing was looked up and nothing will be kept."""

    reason: str


Outcome: TypeAlias = Hit | Miss | Bypass


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer is kept. `entry` may be an older one that says the same."""

    entry: int


@dataclass(frozen=True, slots=True)
class NotStored:
    """The answer is not kept, and why, in one word."""

    reason: str


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One neighbour as `explain` shows it; `verdict` is "served" or why it was not."""

    entry: int
    question: str | None
    similarity: float
    effective: float
    category: str
    age_s: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call would or would not be answered now. Nothing is counted or changed by asking.

    `elsewhere`: partitions of the tenant's same template that differ, with the parts that do.
    """

    outcome: str
    partition: str
    rows: int
    category: str
    declared: bool
    threshold: float | None
    load: float
    ttl_s: float
    candidates: tuple[CandidateView, ...] = ()
    elsewhere: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())
