"""The learned category, the judge's budget, and the load policy end to end."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semantic_cache import Answer, CacheSettings, Category, JudgeCase, Miss, SameAnswer
from semantic_cache.categories import fit
from semantic_cache.clock import ManualClock
from semantic_cache.judge import Judging
from tests.semantic_cache.doubles import ChosenEmbedder, ToldJudge, ask, at, hit, miss, opened, policies, put


def cluster(direction: int, count: int, seed: int, spread: float = 0.35) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = spread * rng.standard_normal((count, 16)).astype(np.float32)
    x[:, direction] += 1
    normed: NDArray[np.float32] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return normed


def test_the_head_recognises_what_it_was_taught_and_is_unsure_of_the_rest() -> None:
    head = fit({"a": cluster(0, 200, 0), "b": cluster(1, 60, 1), "c": cluster(2, 200, 2), "few": cluster(3, 5, 3)})
    assert head is not None
    assert head.names == ("a", "b", "c")
    said = [head.predict(v) for v in cluster(1, 100, 9)]
    named = [name for name, _ in said if name is not None]
    assert named.count("b") >= 75
    assert named.count("b") / len(named) >= head.confidence, "a name that is said is right as often as it promises"
    strange = [head.predict(v)[0] for v in cluster(7, 100, 9)]
    assert strange.count(None) >= 60


def test_a_head_needs_two_categories_with_examples() -> None:
    assert fit({}) is None
    assert fit({"a": cluster(0, 100, 0), "b": cluster(1, 19, 1)}) is None


async def test_undeclared_calls_get_the_category_that_declared_ones_taught(tmp_path: Path) -> None:
    other = Category(
        "other", similarity=0.95, ttl_s=60, quota=0.1, error_target=0.05, guards=frozenset(), shadow_rate=0.0
    )
    vectors = {f"p{i}": v for i, v in enumerate(cluster(0, 120, 0, 0.1))}
    vectors |= {f"o{i}": v for i, v in enumerate(cluster(1, 120, 1, 0.1))}
    chosen = ChosenEmbedder(**vectors, new=cluster(0, 1, 5, 0.1)[0], strange=cluster(9, 1, 5, 0.1)[0])
    cache = await opened(
        tmp_path, embedder=chosen, categories=policies(other), settings=CacheSettings(insert_burst=9999)
    )
    for i in range(120):
        for name, category in ((f"p{i}", "plain"), (f"o{i}", "other")):
            outcome = await cache.lookup(ask(name, category=category, variables={"i": i}))
            assert isinstance(outcome, Miss)
            await cache.store(outcome.ticket, Answer("x"))
    await cache.settle()
    assert (await cache.explain(ask("new", category=None))).category == "plain"
    assert (await cache.explain(ask("strange", category=None))).category == "unsure"
    assert not (await cache.explain(ask("new", category=None))).declared
    await cache.close()


@pytest.mark.parametrize(
    ("cached", "fresh", "verdict"),
    [
        ("Paris", " paris ", True),
        ("Paris", "Rome", False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1], [2], False),
        ("long " * 60, "other " * 60, None),
        ({"text": "long " * 60}, {"text": "other " * 60}, False),
    ],
)
async def test_the_free_judge(cached: object, fresh: object, verdict: bool | None) -> None:
    case = JudgeCase("c", "t", "q", "q2", cached, 0.9, fresh, has_fresh=True)  # type: ignore[arg-type]
    assert await SameAnswer().same(case) is verdict
    assert await SameAnswer().same(JudgeCase("c", "t", "q", "q2", cached, 0.9)) is None  # type: ignore[arg-type]


async def test_judging_has_a_budget_and_survives_its_judge() -> None:
    clock, verdicts = ManualClock(), []

    class Moody(ToldJudge):
        async def same(self, case: JudgeCase) -> bool | None:
            if case.question == "bad":
                raise RuntimeError("judge is out")
            return await super().same(case)

    async def verdict(same: bool) -> None:
        verdicts.append(same)

    judging = Judging(Moody(lambda case: case.question == "yes"), clock, per_minute=4)
    accepted = [
        judging.submit(JudgeCase("c", "t", q, "", None, 1.0), verdict) for q in ("yes", "no", "bad", "yes", "yes")
    ]
    await judging.settle()
    assert accepted == [True, True, True, True, False]
    assert sorted(verdicts) == [False, True, True]
    assert (judging.asked, judging.dropped, judging.failed) == (4, 1, 1)
    clock.advance(15)
    assert judging.submit(JudgeCase("c", "t", "no", "", None, 1.0), verdict)
    await judging.close()


async def test_closing_ends_a_judge_that_never_answers() -> None:
    class Never(ToldJudge):
        async def same(self, case: JudgeCase) -> bool | None:
            await asyncio.Event().wait()
            return None

    async def verdict(same: bool) -> None: ...

    judging = Judging(Never(lambda case: None), ManualClock())
    judging.submit(JudgeCase("c", "t", "q", "", None, 1.0), verdict)
    await asyncio.sleep(0)
    await judging.close()


async def test_under_load_relaxed_categories_serve_more_and_strict_ones_do_not(tmp_path: Path) -> None:
    relaxing = Category(
        "relaxing", similarity=0.95, ttl_s=100, ttl_max_s=300, quota=0.2, error_target=0.01, overload_error_target=0.3,
        guards=frozenset(), shadow_rate=0.0,
    )  # fmt: skip
    clock = ManualClock()
    steps = 400
    chosen = ChosenEmbedder(**{f"q{i}": at(1 - 0.3 * i / steps) for i in range(steps)}, near=at(0.84))
    cache = await opened(tmp_path, embedder=chosen, categories=policies(relaxing), clock=clock)
    rng = np.random.default_rng(0)
    for name in ("plain", "relaxing"):
        pairs = []
        for i in range(1, steps):
            wrong = rng.random() < 1 / (1 + math.exp(30 * ((1 - 0.3 * i / steps) - 0.8)))
            pairs.append(f'{{"category": "{name}", "a": "q0", "b": "q{i}", "same": {str(not wrong).lower()}}}')
        await cache.learn_pairs(pairs)
    asked = {n: ask("near", category=n, variables={"c": n}) for n in ("plain", "relaxing")}
    first = {n: dataclasses.replace(asked[n], question="q0") for n in asked}
    for name in asked:
        await put(cache, first[name])
        await miss(cache, asked[name])
    assert cache.observe_load(queue_s=0, target_s=1, running=100, capacity=100) == 1.0
    await hit(cache, asked["relaxing"])
    await miss(cache, asked["plain"])
    clock.advance(200)
    cache.observe_load(queue_s=0, target_s=1, running=100, capacity=100)
    await hit(cache, first["relaxing"])
    clock.advance(60)
    cache.observe_load(queue_s=0, target_s=1, running=0, capacity=100)
    await miss(cache, first["relaxing"])
    await cache.close()
