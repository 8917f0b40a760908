"""Categories: what each kind of question may risk, how long its answers live and how much room they get.

Owns the shipped defaults and the rules of combining two policies. Never measures anything: thresholds in force
come from `calibration`, which starts from the `similarity` given here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from semantic_cache.errors import InvalidPolicy

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
UNSURE = "unsure"
"""Name of the category of questions whose kind is neither declared nor recognised."""


class Guard(StrEnum):
    """What must agree between two questions before one's answer may serve the other (see `guards`)."""

    NUMBERS = "numbers"
    DATES = "dates"
    NEGATION = "negation"
    ORDER = "order"
    QUOTES = "quotes"
    IDENTIFIERS = "identifiers"
    ENTITIES = "entities"
    WORDS = "words"


class Sharing(StrEnum):
    """Who else may read an entry, within the tenant. PRINCIPAL: its author alone. SECOND_SIGHTING: others once a
    second principal's own call gave the same answer. TENANT: everyone."""

    PRINCIPAL = "principal"
    SECOND_SIGHTING = "second_sighting"
    TENANT = "tenant"


_BY_STRICTNESS = (Sharing.PRINCIPAL, Sharing.SECOND_SIGHTING, Sharing.TENANT)
LEXICAL = frozenset(Guard) - {Guard.WORDS}


@dataclass(frozen=True, slots=True)
class Category:
    """The policy of one kind of question. Similarity is the cosine, never a distance.

    `similarity` serves until calibration knows better; `floor` is never gone below, whatever calibration or load
    say. `error_target` is the wrong share of semantic hits that is tolerated, `overload_error_target` the same
    under full load. `quota` is the share of the cache's room that is this category's own. `grey` is how far under
    the threshold a near miss is worth the judge's time. `shadow_rate` is the share of semantic hits that is also
    run on the engine to learn whether they were right. `synonyms` adds to what the WORDS guard lets stand for each
    other.
    """

    name: str
    similarity: float
    ttl_s: float
    quota: float
    error_target: float
    floor: float = 0.7
    ttl_max_s: float | None = None
    overload_error_target: float | None = None
    volatile: bool = False
    guards: frozenset[Guard] = LEXICAL
    sharing: Sharing = Sharing.TENANT
    shadow_rate: float = 0.05
    grey: float = 0.05
    synonyms: tuple[frozenset[str], ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("similarity", -1.0, 1.0), ("floor", -1.0, 1.0), ("quota", 0.0, 1.0), ("error_target", 0.0, 1.0),
            ("shadow_rate", 0.0, 1.0), ("grey", 0.0, 1.0),
        ):  # fmt: skip
            self._check(low <= getattr(self, name) <= high, name, f"must lie in [{low:g}, {high:g}]")
        self._check(0 < self.error_target < 1, "error_target", "must lie strictly between 0 and 1")
        self._check(self.ttl_s > 0, "ttl_s", "must be positive")
        self._check(self.ttl_max_s is None or self.ttl_max_s >= self.ttl_s, "ttl_max_s", "must not be under ttl_s")
        self._check(self.error_at_overload >= self.error_target, "overload_error_target", "is under error_target")
        self._check(self.similarity >= self.floor, "similarity", "is under the floor")
        self._check(not (self.volatile and self.relaxes), "volatile", "a volatile category never relaxes under load")

    def _check(self, holds: bool, field: str, message: str) -> None:
        if not holds:
            raise InvalidPolicy(f"category {self.name!r}: {field} {message} (got {getattr(self, field)!r})")

    @property
    def error_at_overload(self) -> float:
        """Tolerated wrong share of hits under full load (0..1)."""
        return self.error_target if self.overload_error_target is None else self.overload_error_target

    @property
    def longest_ttl_s(self) -> float:
        """Seconds after which an answer is never served, whatever the load."""
        return self.ttl_s if self.ttl_max_s is None else self.ttl_max_s

    @property
    def relaxes(self) -> bool:
        """Whether load may lower the threshold or lengthen the time to live."""
        return self.error_at_overload > self.error_target or self.longest_ttl_s > self.ttl_s

    def ttl_at(self, load: float) -> float:
        """Time to live in seconds at a load level of 0..1."""
        return self.ttl_s + load * (self.longest_ttl_s - self.ttl_s)


def strictest(categories: Iterable[Category], name: str = UNSURE) -> Category:
    """The policy that is at least as strict as every given one, in every field."""
    all_ = tuple(categories)
    if not all_:
        raise InvalidPolicy("the strictest of no category is undefined")
    return Category(
        name=name,
        similarity=max(c.similarity for c in all_),
        floor=max(c.floor for c in all_),
        ttl_s=min(c.ttl_s for c in all_),
        quota=min(c.quota for c in all_),
        error_target=min(c.error_target for c in all_),
        volatile=True,
        guards=frozenset[Guard]().union(*(c.guards for c in all_)),
        sharing=min((c.sharing for c in all_), key=_BY_STRICTNESS.index),
        shadow_rate=max(c.shadow_rate for c in all_),
        grey=min(c.grey for c in all_),
    )


def expired(age_s: float, left_s: float, categories: Iterable[Category], load: float, max_age_s: float | None) -> bool:
    """Whether an answer is too old to serve, by the categories of who asks and of the answer, and by what is asked for.
    `left_s`: until it is too old for anyone."""
    lives_s = min(category.ttl_at(load) for category in categories)
    return age_s > lives_s or left_s <= 0 or (max_age_s is not None and age_s > max_age_s)


SHIPPED: tuple[Category, ...] = (
    Category(
        "code", similarity=0.95, floor=0.85, ttl_s=30 * DAY_S, quota=0.2, error_target=0.01, guards=frozenset(Guard),
        sharing=Sharing.SECOND_SIGHTING,
    ),
    Category(
        "sql", similarity=0.85, floor=0.7, ttl_s=7 * DAY_S, quota=0.2, error_target=0.01, guards=frozenset(Guard),
    ),
    Category(
        "factual", similarity=0.92, floor=0.8, ttl_s=DAY_S, ttl_max_s=3 * DAY_S, quota=0.25, error_target=0.02,
        overload_error_target=0.05,
    ),
    Category("volatile", similarity=0.95, floor=0.9, ttl_s=MINUTE_S, quota=0.05, error_target=0.01, volatile=True),
    Category(
        "chat", similarity=0.9, floor=0.7, ttl_s=DAY_S, ttl_max_s=3 * DAY_S, quota=0.2, error_target=0.05,
        overload_error_target=0.08,
    ),
    Category(
        "personal", similarity=0.95, floor=0.9, ttl_s=HOUR_S, quota=0.05, error_target=0.01,
        sharing=Sharing.PRINCIPAL,
    ),
)  # fmt: skip
"""The defaults. Similarities are starting points for the bundled embedder, not promises: calibration replaces them."""


class Policies(Mapping[str, Category]):
    """Categories by name. `unsure` is always there: the strictest of all, with a small room of its own."""

    def __init__(self, categories: Iterable[Category] = SHIPPED) -> None:
        named: dict[str, Category] = {}
        for category in categories:
            if category.name in named:
                raise InvalidPolicy(f"category {category.name!r} is given twice")
            named[category.name] = category
        if sum(c.quota for c in named.values()) > 1 + 1e-9:
            raise InvalidPolicy("the quotas of all categories add up to more than 1")
        if UNSURE not in named:
            named[UNSURE] = strictest(named.values())
        self._named = named

    def __getitem__(self, name: str) -> Category:
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    @property
    def unsure(self) -> Category:
        """The policy of questions whose kind is not known."""
        return self._named[UNSURE]

    def with_changes(self, name: str, **changes: object) -> Policies:
        """A copy with fields of one category changed.

        Raises InvalidPolicy: unknown category or field, or a contradiction.
        """
        if name not in self._named:
            raise InvalidPolicy(f"no category {name!r}; there are {', '.join(sorted(self._named))}")
        try:
            changed = dataclasses.replace(self._named[name], **changes)  # type: ignore[arg-type]  # checked below
        except TypeError as error:
            raise InvalidPolicy(f"category {name!r}: {error}") from None
        return Policies(
            changed if c.name == name else c for c in self._named.values() if c.name != UNSURE or name == UNSURE
        )
