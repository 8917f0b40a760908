"""Doubles for the cache's tests: an embedder whose similarities are chosen, judges that were told, and short hands."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semantic_cache import (
    Answer,
    CacheRequest,
    CacheSettings,
    Category,
    Hit,
    JudgeCase,
    Miss,
    Policies,
    QuestionHole,
    SemanticCache,
)
from semantic_cache.clock import ManualClock
from semantic_cache.errors import EmbedderError

DIMENSIONS = 16


def at(cosine: float, direction: int = 1) -> NDArray[np.float32]:
    """A unit vector with this cosine to `at(1.0)`."""
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    vector[0], vector[direction] = cosine, math.sqrt(1 - cosine**2)
    return vector


class ChosenEmbedder:
    """Vectors by text; an unknown text gets a direction of its own, far from all others."""

    digest = "chosen"
    dimensions = DIMENSIONS

    def __init__(self, **vectors: NDArray[np.float32]) -> None:
        self.vectors: dict[str, NDArray[np.float32] | None] = dict(vectors)
        self.calls: list[str] = []
        self.broken = False

    async def embed(self, text: str) -> NDArray[np.float32] | None:
        self.calls.append(text)
        if self.broken:
            raise EmbedderError("told to fail")
        if text not in self.vectors:
            rng = np.random.default_rng(random.Random(text).getrandbits(32))
            vector = rng.standard_normal(DIMENSIONS).astype(np.float32)
            self.vectors[text] = vector / np.float32(np.linalg.norm(vector))
        return self.vectors[text]

    async def close(self) -> None: ...


class ToldJudge:
    """Says what a function says of the case; keeps the cases."""

    def __init__(self, verdict: Callable[[JudgeCase], bool | None]) -> None:
        self.verdict = verdict
        self.cases: list[JudgeCase] = []

    async def same(self, case: JudgeCase) -> bool | None:
        self.cases.append(case)
        return self.verdict(case)


PLAIN = Category(
    "plain", similarity=0.9, ttl_s=3600.0, quota=0.5, error_target=0.05, guards=frozenset(), shadow_rate=0.0
)


def policies(*more: Category) -> Policies:
    """PLAIN and others."""
    return Policies([PLAIN, *more])


def ask(
    question: str | None,
    *,
    tenant: str = "t",
    principal: str | None = "p",
    category: str | None = "plain",
    **more: object,
) -> CacheRequest:
    """A request with a short prompt around the question."""
    pieces = ("Answer: ",) if question is None else ("Answer: ", QuestionHole())
    return CacheRequest(
        tenant=tenant, model="m", messages=(("user", pieces),), question=question, principal=principal,
        category=category, **more,
    )  # type: ignore[arg-type]  # fmt: skip


async def opened(
    path: Path,
    *,
    embedder: ChosenEmbedder | None = None,
    clock: ManualClock | None = None,
    judge: ToldJudge | None = None,
    settings: CacheSettings | None = None,
    categories: Policies | None = None,
) -> SemanticCache:
    """A cache on a fresh or existing file, with a clock that stands still."""
    return await SemanticCache.open(
        path / "cache.db", embedder=embedder, policies=categories or policies(), judge=judge, settings=settings,
        clock=clock or ManualClock(), rng=random.Random(0),
    )  # fmt: skip


async def put(cache: SemanticCache, request: CacheRequest, value: object = "answer", **cost: object) -> int:
    """Look up, miss, and store an answer; returns its entry."""
    outcome = await cache.lookup(request)
    assert isinstance(outcome, Miss), outcome
    stored = await cache.store(outcome.ticket, Answer(value, **cost))  # type: ignore[arg-type]
    await cache.settle()
    return stored.entry  # type: ignore[union-attr]


async def hit(cache: SemanticCache, request: CacheRequest) -> Hit:
    """Look up and expect a hit."""
    outcome = await cache.lookup(request)
    assert isinstance(outcome, Hit), outcome
    return outcome


async def miss(cache: SemanticCache, request: CacheRequest) -> Miss:
    """Look up, expect a miss and abandon it."""
    outcome = await cache.lookup(request)
    assert isinstance(outcome, Miss), outcome
    cache.abandon(outcome.ticket)
    return outcome
