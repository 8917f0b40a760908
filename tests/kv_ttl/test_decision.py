"""The stop-aware rule: against brute force, and what must hold of it whatever the distribution."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_ttl.decision import BlockRange, Place, choose, plan_value, prefetch_at, shadow_price, ttl, value
from kv_ttl.errors import RetentionError
from kv_ttl.forecast import BUCKETS, EDGES, KNOTS, Forecast
from tests.kv_ttl.strategies import fixed, forecasts

saved = st.floats(0.01, 100.0)
prices = st.floats(0.001, 20.0)
KNOT_20S = float(KNOTS[np.searchsorted(KNOTS, 20.0)])


def empirical(times: np.ndarray) -> Forecast:
    counts = np.searchsorted(np.sort(times), KNOTS, side="right")
    return Forecast.of(counts / len(times))


@fixed
@given(forecasts(), saved, prices, st.integers(0, BUCKETS))
def test_it_takes_the_best_candidate(forecast: Forecast, saved_s: float, price: float, last: int) -> None:
    chosen = ttl(forecast, saved_s, price, float(KNOTS[last]))
    # The definition, summed anew: what a lease of t seconds saves less what it holds.
    survived = 1 - forecast.returned
    best = held = 0.0
    for j in range(1, last + 1):
        held += float((KNOTS[j] - KNOTS[j - 1]) * (survived[j] + survived[j - 1]) / 2)
        best = max(best, saved_s * float(forecast.returned[j]) - price * held)
    assert value(forecast, chosen, saved_s, price) == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert chosen == 0 or chosen in KNOTS[: last + 1]


@fixed
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.floats(0.01, 60.0), st.floats(0.1, 1.5)), min_size=1, max_size=3),
    st.floats(0.5, 20.0),
    st.floats(0.2, 3.0),
)
def test_its_reward_is_near_the_best_on_random_samples(
    seed: int, modes: list[tuple[float, float]], saved_s: float, price: float
) -> None:
    rng = np.random.default_rng(seed)
    times = np.concatenate([rng.lognormal(math.log(median), spread, 400) for median, spread in modes]).clip(0.002, 5000)

    def reward(keep: float) -> float:
        return float(np.mean(saved_s * (times <= keep) - price * np.minimum(keep, times)))

    best = max(0.0, *(reward(float(candidate)) for candidate in times))
    # What the grid costs: a candidate lies up to 15 % beyond the best sample.
    assert reward(ttl(empirical(times), saved_s, price, 1e9)) >= best - 0.03 * saved_s


@fixed
@given(forecasts(), saved, st.floats(1.0, 10.0), prices)
def test_the_more_is_saved_the_longer(forecast: Forecast, saved_s: float, more: float, price: float) -> None:
    assert ttl(forecast, saved_s * more, price) >= ttl(forecast, saved_s, price)


@fixed
@given(forecasts(), saved, prices, st.floats(1.0, 10.0))
def test_the_dearer_memory_is_the_shorter(forecast: Forecast, saved_s: float, price: float, more: float) -> None:
    assert ttl(forecast, saved_s, price * more) <= ttl(forecast, saved_s, price)


@fixed
@given(forecasts(), saved, st.floats(0.0, 2000.0))
def test_idle_memory_keeps_to_the_ceiling(forecast: Forecast, saved_s: float, ceiling: float) -> None:
    assert ttl(forecast, saved_s, 0.0, ceiling) == ceiling


@fixed
@given(forecasts(), prices, st.booleans())
def test_nothing_is_kept_that_saves_nothing(forecast: Forecast, price: float, idle: bool) -> None:
    assert ttl(forecast, 0.0, 0.0 if idle else price) == 0.0


@fixed
@given(forecasts(), saved, prices, st.floats(0.0, 2000.0))
def test_no_lease_outlives_the_ceiling(forecast: Forecast, saved_s: float, price: float, ceiling: float) -> None:
    assert 0 <= ttl(forecast, saved_s, price, ceiling) <= ceiling


def test_deciding_again_gives_up_once_the_fast_mode_has_passed() -> None:
    # Half return within 0.1 s, half after about a minute; 5 s are saved.
    times = np.concatenate((np.full(500, 0.08), np.random.default_rng(0).lognormal(math.log(60.0), 0.3, 500)))
    assert 0.08 <= ttl(empirical(times), 5.0, 1.0) < 1.0
    late = empirical(times[times > 0.5] - 0.5)
    assert ttl(late, 5.0, 1.0) == 0.0
    assert ttl(late, 5.0, 0.001) > 60.0


@fixed
@given(forecasts(), st.lists(st.tuples(saved, prices), min_size=1, max_size=4))
def test_no_range_outlives_the_one_before_it(forecast: Forecast, costs: list[tuple[float, float]]) -> None:
    plan = choose(forecast, [BlockRange(saved_s, price) for saved_s, price in costs])
    keeps = [one.keep_s for one in plan]
    assert keeps == sorted(keeps, reverse=True)
    assert all(one.host_s == one.keep_s for one in plan)


@fixed
@given(forecasts(), st.lists(st.tuples(saved, prices), min_size=2, max_size=3), st.integers(45, 100))
def test_a_chain_is_kept_as_brute_force_would(forecast: Forecast, costs: list[tuple[float, float]], last: int) -> None:
    chain = [BlockRange(saved_s, price) for saved_s, price in costs]
    table = [[value(forecast, float(t), one.recompute_s, one.price) for t in KNOTS[: last + 1]] for one in chain]
    nested = itertools.combinations_with_replacement(range(last, -1, -1), len(chain))
    best = max(sum(row[at] for row, at in zip(table, plan, strict=True)) for plan in nested)
    ours = plan_value(forecast, chain, choose(forecast, chain, float(KNOTS[last])))
    assert ours == pytest.approx(best, rel=1e-9, abs=1e-9)


@fixed
@given(forecasts(), saved, prices)
def test_one_range_without_a_host_is_the_plain_rule(forecast: Forecast, saved_s: float, price: float) -> None:
    assert choose(forecast, [BlockRange(saved_s, price)])[0].keep_s == ttl(forecast, saved_s, price)


ranges = st.builds(
    BlockRange,
    recompute_s=st.floats(0.0, 20.0),
    price=st.floats(0.0, 5.0),
    queue_s=st.floats(0.0, 5.0),
    reload_s=st.floats(0.0, 25.0),
    host_price=st.floats(0.0, 0.5),
)


@fixed
@given(forecasts(), ranges)
def test_a_host_copy_is_used_as_brute_force_would(forecast: Forecast, one: BlockRange) -> None:
    last = int(np.searchsorted(KNOTS, KNOT_20S))
    ours = choose(forecast, [one], KNOT_20S, KNOT_20S)
    got = plan_value(forecast, [one], ours)
    stay = one.recompute_s + one.queue_s
    hosted = max(0.0, one.recompute_s - one.reload_s)
    device = np.array([value(forecast, float(t), stay, one.price) for t in KNOTS[: last + 1]])
    host = np.array([value(forecast, float(t), hosted, one.host_price) for t in KNOTS[: last + 1]])
    # Keep until row, host until column, the column not before the row.
    every = np.triu((device - host)[:, None] + host[None, :])
    best = float(every.max())
    assert got <= best + 1e-9 * (1 + best)
    assert got >= device.max() - 1e-6
    if one.price >= one.host_price:
        assert got >= host.max() - 1e-6
        unbound = (device - host).argmax() <= host.argmax()
        assert not unbound or got == pytest.approx(best, rel=1e-9, abs=1e-6)


@fixed
@given(forecasts(), st.lists(ranges, min_size=1, max_size=3))
def test_a_plan_is_in_order_and_never_worse_than_dropping(forecast: Forecast, chain: list[BlockRange]) -> None:
    plan = choose(forecast, chain)
    assert all(0 <= one.keep_s <= one.host_s for one in plan)
    for before, after in itertools.pairwise(plan):
        assert before.keep_s >= after.keep_s
        assert before.host_s >= after.host_s
    assert plan_value(forecast, chain, plan) >= -1e-6


def test_what_the_pause_looks_like_decides_the_place() -> None:
    surely = {
        seconds: Forecast.of((EDGES[np.searchsorted(EDGES, seconds)] <= KNOTS).astype(float))
        for seconds in (0.05, 300.0)
    }
    chain = [BlockRange(recompute_s=3.0, price=0.2, reload_s=0.2, host_price=0.0001)]
    assert choose(surely[0.05], chain)[0].place is Place.KEEP
    assert choose(surely[300.0], chain)[0].place is Place.HOST
    never = Forecast.of(np.zeros(BUCKETS + 1))
    assert choose(never, chain)[0].place is Place.DROP
    assert choose(never, []) == ()


def test_a_shared_prefix_that_costs_nothing_does_not_keep_the_rest_from_the_host() -> None:
    pause = empirical(np.random.default_rng(1).lognormal(3.0, 1.0, 1000))
    private = BlockRange(4.0, 0.5, reload_s=0.2, host_price=0.001)
    shared, tip = choose(pause, [BlockRange(1.0, 0.0, reload_s=0.1, host_price=0.001), private])
    assert shared.place is Place.KEEP
    assert tip == choose(pause, [private])[0]
    assert tip.place is Place.HOST


def test_the_shared_prefix_stays_longest() -> None:
    pause = empirical(np.random.default_rng(1).lognormal(1.0, 1.0, 1000))
    shared, private = choose(pause, [BlockRange(1.0, 0.0), BlockRange(4.0, 3.0)])
    assert shared.keep_s == 600.0
    assert private.keep_s < 10.0


def test_prefetch_starts_before_the_earliest_likely_return() -> None:
    pause = empirical(np.linspace(50.0, 70.0, 1000))
    assert 43.0 < prefetch_at(pause, 10_000_000_000, 2e9, early=0.1) < 48.0
    assert prefetch_at(pause, 10**12, 2e9) == 0.0
    assert math.isinf(prefetch_at(Forecast.of(np.zeros(BUCKETS + 1)), 1, 1e9))


@fixed
@given(st.integers(0, 10**9), st.integers(0, 50), st.integers(0, 50))
def test_memory_has_a_price_only_while_something_waits(nbytes: int, queued: int, running: int) -> None:
    price = shadow_price(nbytes, 10**9, queued, running)
    assert (price == 0) == (queued == 0 or nbytes == 0)
    assert price <= 1
    assert shadow_price(nbytes, 10**9, queued + 1, running) >= price * (1 - 1e-12)


def test_values_out_of_range_are_refused_where_they_stand() -> None:
    never = Forecast.of(np.zeros(BUCKETS + 1))
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(RetentionError, match="saved_s and price"):
            ttl(never, bad, 1.0)
        with pytest.raises(RetentionError, match="recompute_s"):
            BlockRange(bad, 1.0)
    with pytest.raises(RetentionError, match="ceiling"):
        ttl(never, 1.0, 1.0, -1.0)
    with pytest.raises(RetentionError, match="reload_s"):
        BlockRange(1.0, 1.0, reload_s=-1.0)
    with pytest.raises(RetentionError, match="shadow price"):
        shadow_price(1, 0, 1, 1)
    with pytest.raises(RetentionError, match="prefetch"):
        prefetch_at(never, 1, 0.0)
