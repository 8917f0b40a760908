"""The distribution of a pause's end: conditioning, joining, and its integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_ttl.errors import RetentionError
from kv_ttl.forecast import (
    BUCKETS,
    EDGES,
    HORIZON_S,
    KNOTS,
    PER_OCTAVE,
    FloatArray,
    Forecast,
    Life,
    bucket,
    consecutive,
    joined,
    mixture,
)
from tests.kv_ttl.strategies import fixed, forecasts, outliving


def at(seconds: float) -> FloatArray:
    """A call that surely takes `seconds` (to within its bucket)."""
    certain: FloatArray = (EDGES[bucket(seconds)] <= KNOTS).astype(float)
    return certain


@fixed
@given(st.floats(0.0, 2 * HORIZON_S))
def test_a_duration_lies_in_its_bucket(seconds: float) -> None:
    index = bucket(seconds)
    if index == BUCKETS:
        assert seconds > HORIZON_S
    else:
        assert seconds <= EDGES[index] * (1 + 1e-8)
        assert index == 0 or seconds > EDGES[index - 1] * (1 - 1e-8)


def test_an_edge_belongs_to_the_bucket_that_it_closes() -> None:
    assert [bucket(float(edge)) for edge in EDGES] == list(range(BUCKETS))


@fixed
@given(outliving(), st.integers(1, BUCKETS - 2 * PER_OCTAVE))
def test_elapsed_time_is_conditioned_on(outlives: FloatArray, knot: int) -> None:
    fresh = 1 - Life.of(outlives).returned()
    elapsed = float(KNOTS[knot])
    later = 1 - Life.of(outlives).returned(elapsed)
    # One octave on: elapsed + elapsed = 2 x elapsed is a knot too.
    assert later[knot] * fresh[knot] == pytest.approx(fresh[knot + PER_OCTAVE], abs=1e-12)
    assert np.all(np.diff(later) <= 1e-15)
    assert later[0] == 1


@fixed
@given(outliving(), st.floats(0.0, 100.0), st.floats(0.01, 100.0))
def test_a_call_has_returned_by_its_timeout(outlives: FloatArray, elapsed: float, timeout: float) -> None:
    returned = Life.of(outlives).returned(elapsed, timeout)
    assert np.all(returned[1:][KNOTS[1:] >= timeout - elapsed] == 1)
    early = timeout - elapsed > KNOTS
    assert np.array_equal(returned[early], Life.of(outlives).returned(elapsed)[early])


@fixed
@given(forecasts(), st.floats(0.0, HORIZON_S))
def test_held_is_the_integral_of_not_yet_returned(forecast: Forecast, seconds: float) -> None:
    index = int(np.searchsorted(KNOTS, seconds))
    fine = np.union1d(np.linspace(0, KNOTS[index], 4001), KNOTS[: index + 1])
    exact = float(np.trapezoid(1 - np.interp(fine, KNOTS, forecast.returned), fine))
    assert forecast.held[index] == pytest.approx(exact, rel=1e-9, abs=1e-12)
    assert forecast.expected_held(seconds) <= seconds * (1 + 1e-12)


@fixed
@given(forecasts(), st.floats(0.001, 1.0))
def test_quantile_inverts_probability(forecast: Forecast, q: float) -> None:
    time = forecast.quantile(q)
    if math.isinf(time):
        assert forecast.returned[-1] < q
    else:
        assert forecast.probability(time) == pytest.approx(q, abs=1e-9)


def test_parallel_calls_end_with_the_slowest() -> None:
    both = joined([at(0.5), at(8.0)])
    assert both.probability(6.9) == 0
    assert both.probability(8.0) == 1
    half = np.where(KNOTS >= 1.0, 0.5, 0.0)
    assert joined([half, half, half]).returned[-1] == pytest.approx(0.125)


@fixed
@given(outliving(), outliving())
def test_a_parallel_call_never_brings_the_end_forward(one: FloatArray, other: FloatArray) -> None:
    alone, both = joined([Life.of(one).returned()]), joined([Life.of(one).returned(), Life.of(other).returned()])
    assert np.all(both.returned <= alone.returned + 1e-15)
    assert np.all(both.held >= alone.held - 1e-9)


def test_consecutive_calls_add_up() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.lognormal(0.0, 1.0, 20000), rng.lognormal(1.0, 0.5, 20000)
    own = [np.searchsorted(np.sort(times), KNOTS, side="right") / 20000 for times in (first, second)]
    total = np.searchsorted(np.sort(first + second), KNOTS, side="right") / 20000
    assert np.abs(consecutive(own[0], own[1]) - total).max() < 0.02
    assert np.abs(consecutive(own[1], own[0]) - total).max() < 0.02


@fixed
@given(outliving(), outliving())
def test_a_sum_is_a_distribution_later_than_its_parts(one: FloatArray, other: FloatArray) -> None:
    first, second = Life.of(one).returned(), Life.of(other).returned()
    both = Forecast.of(consecutive(first, second))
    assert np.all(both.returned <= np.minimum(first, second) + 1e-9)


def test_the_joining_graph_is_counted() -> None:
    # Two retrievals in parallel, then a re-ranking that waits for both, beside a lone call of 6 s.
    pause = joined([at(1.0), at(4.0), at(4.0), at(6.0)], [(), (), (0, 1), ()])
    assert pause.probability(6.9) < 0.02
    assert pause.probability(8.6) > 0.98


@fixed
@given(outliving(), outliving(), st.floats(0.0, 1.0))
def test_a_mixture_mixes_the_distributions(one: FloatArray, other: FloatArray, weight: float) -> None:
    first, second = Life.of(one), Life.of(other)
    mixed = mixture(first, weight, second)
    assert mixed.survived == pytest.approx(weight * first.survived + (1 - weight) * second.survived, abs=1e-12)


def test_a_call_that_surely_ends_can_still_be_overdue() -> None:
    certain = Life.of(np.full(BUCKETS, 1e-14))
    assert np.all(np.isfinite(certain.returned(100.0)))
    assert certain.returned(100.0)[-1] == pytest.approx(1.0)


def test_a_pause_that_waits_for_nothing_is_over() -> None:
    assert joined([]).probability(1e-3) == 1


def test_a_call_cannot_wait_for_a_later_one() -> None:
    with pytest.raises(RetentionError, match="call 0: waits for call 1"):
        joined([at(1.0), at(1.0)], [(1,), ()])


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(3),
        np.ones(BUCKETS + 1),
        np.linspace(0, 1.5, BUCKETS + 1),
        np.concatenate(([0, 0.5], np.zeros(BUCKETS - 1))),
    ],
)
def test_what_is_no_distribution_is_refused(bad: FloatArray) -> None:
    with pytest.raises(RetentionError, match="returned"):
        Forecast.of(bad)


def test_quantiles_outside_their_range_are_refused() -> None:
    with pytest.raises(RetentionError, match="quantile"):
        joined([at(1.0)]).quantile(0.0)
