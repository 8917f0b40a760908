from __future__ import annotations

import pytest

from semantic_cache import SHIPPED, UNSURE, Category, Guard, InvalidPolicy, Policies, Sharing
from semantic_cache.admission import InsertRates
from semantic_cache.load import LoadLevel


def category(**changes: object) -> Category:
    return Category(**({"name": "c", "similarity": 0.9, "ttl_s": 60.0, "quota": 0.1, "error_target": 0.02} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"similarity": 1.5}, "similarity"),
        ({"similarity": 0.6}, "floor"),
        ({"quota": -0.1}, "quota"),
        ({"error_target": 0.0}, "error_target"),
        ({"ttl_s": 0.0}, "ttl_s"),
        ({"ttl_max_s": 30.0}, "ttl_max_s"),
        ({"overload_error_target": 0.01}, "overload_error_target"),
        ({"volatile": True, "ttl_max_s": 120.0}, "volatile"),
        ({"volatile": True, "overload_error_target": 0.1}, "volatile"),
    ],
)
def test_contradictions_are_refused_by_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidPolicy, match=f"'c'.*{field}"):
        category(**changes)


def test_the_shipped_categories_fit_together() -> None:
    policies = Policies()
    assert {c.name for c in SHIPPED} == {"code", "sql", "factual", "volatile", "chat", "personal"}
    assert sum(c.quota for c in SHIPPED) <= 1
    assert policies["personal"].sharing is Sharing.PRINCIPAL
    assert not policies["volatile"].relaxes
    assert not policies["sql"].relaxes
    assert policies["chat"].relaxes


def test_unsure_is_at_least_as_strict_as_every_category() -> None:
    policies = Policies()
    unsure = policies[UNSURE]
    for shipped in SHIPPED:
        assert unsure.similarity >= shipped.similarity
        assert unsure.floor >= shipped.floor
        assert unsure.ttl_s <= shipped.ttl_s
        assert unsure.error_target <= shipped.error_target
        assert unsure.guards >= shipped.guards
    assert unsure.sharing is Sharing.PRINCIPAL
    assert not unsure.relaxes


def test_ttl_lengthens_with_load_up_to_its_end() -> None:
    relaxing = category(ttl_max_s=180.0)
    assert [relaxing.ttl_at(u) for u in (0.0, 0.5, 1.0)] == [60.0, 120.0, 180.0]
    assert category().ttl_at(1.0) == 60.0


def test_changes_are_checked_and_reach_unsure() -> None:
    policies = Policies().with_changes("volatile", ttl_s=5.0)
    assert policies["volatile"].ttl_s == 5.0
    assert policies.unsure.ttl_s == 5.0
    with pytest.raises(InvalidPolicy, match="no category 'sqll'"):
        policies.with_changes("sqll", ttl_s=5.0)
    with pytest.raises(InvalidPolicy, match="chat"):
        policies.with_changes("chat", treshold=5.0)


def test_double_names_and_too_large_quotas_are_refused() -> None:
    with pytest.raises(InvalidPolicy, match="twice"):
        Policies([category(), category()])
    with pytest.raises(InvalidPolicy, match="more than 1"):
        Policies([category(quota=0.6), category(name="d", quota=0.6)])


def test_load_engages_late_and_releases_later() -> None:
    level = LoadLevel(engage=0.8, release=0.5, time_constant_s=10.0)

    def observe(now: float, running: int) -> float:
        return level.observe(now, queue_s=0.0, target_s=1.0, running=running, capacity=100)

    assert observe(0.0, 70) == 0.0
    assert observe(100.0, 70) == 0.0
    assert observe(200.0, 90) == pytest.approx(0.8, abs=1e-3)  # engaged: (0.9 - 0.5) / 0.5
    assert observe(300.0, 70) == pytest.approx(0.4, abs=1e-3)  # still engaged, under 0.8
    assert observe(400.0, 40) == 0.0
    assert observe(500.0, 70) == 0.0  # released: needs 0.8 again


def test_load_is_smoothed_and_counts_queueing() -> None:
    level = LoadLevel(engage=0.8, release=0.5, time_constant_s=10.0)
    level.observe(0.0, queue_s=0.0, target_s=1.0, running=0, capacity=10)
    assert level.observe(1.0, queue_s=9.0, target_s=1.0, running=0, capacity=10) == 0.0  # one spike is not load
    for second in range(2, 60):
        level.observe(float(second), queue_s=9.0, target_s=1.0, running=0, capacity=10)
    assert level.level > 0.9


def test_insert_rates_refill_and_are_each_principals_own() -> None:
    rates = InsertRates(per_minute=60, burst=3)
    assert [rates.take("t", "a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert rates.take("t", "b", 0.0)
    assert rates.take("u", "a", 0.0)
    assert rates.take("t", "a", 1.0)
    assert not rates.take("t", "a", 1.0)


def test_guards_of_shipped_categories() -> None:
    assert Guard.WORDS in Policies()["sql"].guards
    assert Guard.WORDS not in Policies()["chat"].guards
    assert Guard.NUMBERS in Policies()["chat"].guards
