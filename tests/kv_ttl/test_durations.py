"""The duration model: evidence, censoring, shrinkage, bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_ttl.durations import DurationModel, Outstanding, ToolCall, family
from kv_ttl.errors import RetentionError, UnknownCall
from kv_ttl.forecast import BUCKETS, EDGES, KNOTS, FloatArray, Forecast, bucket
from tests.kv_ttl.strategies import durations, fixed, samples

TEST = ToolCall("shell:test", "here")


def forecast(model: DurationModel, call: ToolCall, now: float = 0.0) -> Forecast:
    return model.forecast([Outstanding(call)], now)


def kaplan_meier(ended: Sequence[float], running: Sequence[float]) -> FloatArray:
    """Hazard by bucket; a running call counts up to the power of 4 s that it has outlived."""
    hazard = np.zeros(BUCKETS)
    for j in range(BUCKETS):
        events = sum(bucket(d) == j for d in ended)
        at_risk = sum(bucket(d) >= j for d in ended)
        at_risk += sum(e >= 1 and float(EDGES[j]) <= 4.0 ** math.floor(math.log(e, 4) + 1e-12) for e in running)
        hazard[j] = events / at_risk if at_risk else 0.0
    return hazard


@fixed
@given(samples, st.lists(st.floats(0.01, 4000.0), max_size=30))
def test_without_shrinkage_it_is_kaplan_meier(ended: list[float], running: list[float]) -> None:
    model = DurationModel(pseudo_samples=1e-9, forget=1 - 1e-12)
    now = 10_000.0
    for number, elapsed in enumerate(sorted(running, reverse=True)):
        model.started(number, TEST, now - elapsed)
    model.advance(now)
    for seconds in ended:
        model.observe(TEST, seconds)
    model.check()
    expected = kaplan_meier(ended, running)
    got = 1 - model.life(TEST).outlives
    known = np.array([any(bucket(d) >= j for d in ended) for j in range(BUCKETS)])
    assert got[known] == pytest.approx(expected[known], abs=1e-6)


def test_running_calls_correct_the_bias_towards_short_ones() -> None:
    # A call starts every second; half take 0.5 s, half 100 s. In the first 64 s only the short ones end.
    naive, model = DurationModel(), DurationModel()
    for number in range(64):
        model.started(number, TEST, float(number))
        if number % 2:
            model.returned(number, number + 0.5)
            naive.observe(TEST, 0.5)
    model.advance(64.0)
    assert model.running == 32
    assert forecast(naive, TEST).probability(16.0) > 0.95
    assert 0.4 < forecast(model, TEST).probability(16.0) < 0.65


def test_hung_calls_are_believed_in_proportion_and_not_forever() -> None:
    model = DurationModel()
    now = 0.0
    for number in range(2000):
        now += 1.0
        model.started(number, TEST, now)
        if number % 20:
            model.returned(number, now + 0.5)
    model.advance(now)
    assert model.running == 100
    assert 0.85 < forecast(model, TEST).probability(600.0) < 0.98
    model.check()


def test_a_cancelled_call_stays_as_evidence_of_what_it_outlived() -> None:
    model = DurationModel()
    for number in range(20):
        model.observe(TEST, 0.5)
        model.started(number, TEST, 0.0)
    model.advance(70.0)
    before = forecast(model, TEST).probability(10.0)
    for number in range(20):
        model.cancelled(number)
    assert forecast(model, TEST).probability(10.0) == pytest.approx(before)
    assert model.running == 0
    model.check()


def test_a_call_that_ends_leaves_no_trace_of_having_been_censored() -> None:
    censored, plain = DurationModel(forget=1 - 1e-12), DurationModel(forget=1 - 1e-12)
    censored.started("long", TEST, 0.0)
    censored.advance(100.0)
    for seconds in (0.3, 2.0, 7.0):
        censored.observe(TEST, seconds)
        plain.observe(TEST, seconds)
    assert censored.returned("long", 130.0) == 130.0
    plain.observe(TEST, 130.0)
    assert censored.life(TEST).outlives == pytest.approx(plain.life(TEST).outlives, abs=1e-12)


@fixed
@given(samples, st.sampled_from([0.5, 3.0, 20.0]))
def test_the_base_counts_as_so_many_samples(seen: list[float], pseudo: float) -> None:
    model = DurationModel(pseudo_samples=pseudo, forget=1 - 1e-12)
    other = ToolCall("other", "here")
    for _ in range(5):
        model.observe(ToolCall("read", "here"), 1.0)
    # A lone shape of arguments: its base is what the tool is without it.
    for seconds in seen:
        model.observe(other, seconds)
    base = model.life(other).survived
    for seconds in seen:
        model.observe(ToolCall("other", "here", program="mine"), seconds)
    tool = model.life(other).survived
    own = np.array([sum(bucket(d) >= j for d in seen) for j in range(BUCKETS + 1)])
    expected = (own + pseudo * tool) / (len(seen) + pseudo)
    assert model.life(ToolCall("other", "here", program="mine")).survived == pytest.approx(expected, abs=1e-9)
    assert not np.array_equal(base, tool)


def test_shrinkage_has_its_limits() -> None:
    for pseudo, same_as_base in ((1e6, True), (1e-6, False)):
        model = DurationModel(pseudo_samples=pseudo, prior_median_s=1.0)
        for _ in range(10):
            model.observe(TEST, 100.0)
        assert (forecast(model, TEST).quantile(0.5) < 2.0) == same_as_base


def test_without_evidence_a_tool_is_like_its_family_and_then_like_its_environment() -> None:
    model = DurationModel()
    for _ in range(50):
        model.observe(ToolCall("shell:python", "here"), 7.0)
        model.observe(ToolCall("read", "here"), 0.01)
    assert forecast(model, ToolCall("shell:new", "here")).quantile(0.5) > 4.0
    unseen = forecast(model, ToolCall("unseen", "here"))
    assert 0.3 < unseen.probability(0.1) < 0.7


def test_foreign_history_counts_as_a_few_samples_however_long() -> None:
    model = DurationModel()
    for _ in range(5000):
        model.observe(ToolCall("read", "there"), 60.0)
    here = ToolCall("read", "here")
    assert forecast(model, here).quantile(0.5) > 30
    for _ in range(12):
        model.observe(here, 0.02)
    assert forecast(model, here).quantile(0.5) < 0.1
    assert forecast(model, ToolCall("read", "there")).quantile(0.5) > 30


@fixed
@given(st.floats(0.01, 1000.0), st.floats(0.01, 1000.0))
def test_the_prior_is_ignored_after_enough_evidence(one: float, other: float) -> None:
    forecasts = []
    for median in (one, other):
        model = DurationModel(prior_median_s=median)
        for number in range(120):
            model.observe(TEST, (0.1, 1.0, 10.0)[number % 3])
        forecasts.append(forecast(model, TEST))
    assert np.abs(forecasts[0].returned - forecasts[1].returned).max() < 0.02


@pytest.mark.parametrize("declared", [0.05, 2.0, 90.0])
def test_a_declared_duration_is_believed_until_there_is_evidence(declared: float) -> None:
    model = DurationModel()
    for _ in range(20):
        model.observe(ToolCall("read", "here"), 1.0)
    call = ToolCall("deploy", "here", declared_s=declared)
    assert declared / 2.5 < forecast(model, call).quantile(0.5) < declared * 2.5
    for _ in range(100):
        model.observe(call, 500.0)
    assert forecast(model, call).quantile(0.5) > 300


def test_a_change_of_speed_is_learned_within_a_few_dozen_calls() -> None:
    model = DurationModel()
    for _ in range(5000):
        model.observe(TEST, 0.5)
    for _ in range(40):
        model.observe(TEST, 5.0)
    assert forecast(model, TEST).quantile(0.5) > 3.0


def test_parallel_calls_are_merged_by_their_maximum() -> None:
    model = DurationModel()
    slow = ToolCall("shell:build", "here")
    for _ in range(50):
        model.observe(TEST, 0.5)
        model.observe(slow, 30.0)
    both = model.forecast([Outstanding(TEST), Outstanding(slow)], 0.0)
    assert both.returned == pytest.approx(forecast(model, TEST).returned * forecast(model, slow).returned)
    # Once the fast one is back, only the slow one counts, with the time that it has run.
    left = model.forecast([Outstanding(slow, started_at=0.0)], 20.0)
    assert left.quantile(0.5) < 15.0


def test_a_program_has_its_own_speed_until_it_ends() -> None:
    model = DurationModel()
    mine = ToolCall("shell:test", "here", program="mine")
    for number in range(60):
        model.observe(ToolCall("shell:test", "here", program=f"p{number}"), 1.0)
    for _ in range(8):
        model.observe(mine, 20.0)
    shared = forecast(model, TEST).probability(2.0)
    assert forecast(model, mine).probability(2.0) < shared - 0.3
    model.end_program("mine")
    model.check()
    assert forecast(model, mine).probability(2.0) == pytest.approx(shared)


def test_the_shape_of_arguments_tells_calls_apart() -> None:
    model = DurationModel()
    status, clone = (ToolCall("git", "here", shape=shape) for shape in ("status", "clone"))
    for _ in range(60):
        model.observe(status, 0.02)
        model.observe(clone, 20.0)
    assert forecast(model, status).probability(1.0) > 0.9
    assert forecast(model, clone).probability(1.0) < 0.15
    assert 0.3 < forecast(model, ToolCall("git", "here")).probability(1.0) < 0.7


def test_a_timeout_bounds_the_pause() -> None:
    model = DurationModel()
    hung = ToolCall("fetch", "here", timeout_s=30.0)
    assert model.forecast([Outstanding(hung, 0.0)], 25.0).probability(5.8) == 1


def test_one_tenants_calls_are_foreign_to_another() -> None:
    model = DurationModel()
    for _ in range(500):
        model.observe(ToolCall("read", "e", tenant="a"), 60.0)
    mine = ToolCall("read", "e", tenant="b")
    for _ in range(12):
        model.observe(mine, 0.02)
    assert forecast(model, mine).quantile(0.5) < 0.1


def test_asking_changes_nothing() -> None:
    asked, silent = DurationModel(), DurationModel()
    for number in range(200):
        call = ToolCall(("read", "shell:test", "shell:vcs")[number % 3], f"e{number % 2}", program=f"p{number % 5}")
        for model in (asked, silent):
            model.observe(call, 0.1 * (number % 7 + 1))
        for _ in range(number % 3):
            forecast(asked, call)
        if number > 150:
            # What was asked in between may be computed over a slightly older base of a well-known key, no more.
            one, other = forecast(asked, call).returned, forecast(silent, call).returned
            assert np.abs(one - other).max() < 0.02


@pytest.mark.parametrize(
    ("tool", "first"),
    [("shell:test", "shell"), ("github__search_issues", "github"), ("fs.read", "fs"), ("read", "read"), (":x", ":x")],
)
def test_the_family_is_the_first_word(tool: str, first: str) -> None:
    assert family(tool) == first


def test_calls_that_are_not_running_are_refused() -> None:
    model = DurationModel()
    model.started("a", TEST, 0.0)
    with pytest.raises(RetentionError, match="'a' of tool 'shell:test' has already started"):
        model.started("a", TEST, 0.0)
    model.returned("a", 1.0)
    for gone in (lambda: model.returned("a", 2.0), lambda: model.cancelled("b")):
        with pytest.raises(UnknownCall, match="is not running"):
            gone()
    model.check()


@pytest.mark.parametrize("seconds", [-1.0, math.inf, math.nan])
def test_a_duration_that_is_none_is_refused_and_harms_nothing(seconds: float) -> None:
    model = DurationModel()
    before = model.life(TEST).outlives
    with pytest.raises(RetentionError, match=r"shell:test.*duration"):
        model.observe(TEST, seconds)
    assert np.array_equal(model.life(TEST).outlives, before)


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_a_time_that_is_none_is_refused_and_harms_nothing(now: float) -> None:
    model = DurationModel()
    model.started("a", TEST, 0.0)
    for use in (
        lambda: model.started("b", TEST, now),
        lambda: model.returned("a", now),
        lambda: model.advance(now),
        lambda: model.forecast([Outstanding(TEST)], now),
    ):
        with pytest.raises(RetentionError, match="now: must be a finite time"):
            use()
    assert model.running == 1
    model.check()


def test_bad_settings_and_calls_are_refused() -> None:
    for settings_ in ({"forget": 1.0}, {"pseudo_samples": 0.0}, {"max_keys": 1}, {"prior_median_s": 0.0}):
        with pytest.raises(RetentionError):
            DurationModel(**settings_)
    for wrong in ({"tool": ""}, {"tool": "x", "declared_s": -1.0}, {"tool": "x", "timeout_s": 0.0}):
        with pytest.raises(RetentionError, match="tool call"):
            ToolCall(**wrong)


@fixed
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["start", "return", "cancel", "observe", "advance", "end", "ask"]),
            st.integers(0, 11),
            durations,
        ),
        max_size=120,
    )
)
def test_invariants_hold_under_any_operations(operations: list[tuple[str, int, float]]) -> None:
    model = DurationModel(max_keys=8, max_program_keys=4)
    running: dict[int, ToolCall] = {}
    now = 0.0
    for what, number, seconds in operations:
        call = ToolCall(f"shell:{number % 3}", f"e{number % 2}", program=f"p{number % 5}", shape="s" * (number % 2))
        match what:
            case "start" if number not in running:
                model.started(number, call, now)
                running[number] = call
            case "return" if number in running:
                del running[number]
                assert model.returned(number, now) >= 0
            case "cancel" if number in running:
                del running[number]
                model.cancelled(number)
            case "observe":
                model.observe(call, seconds)
            case "advance":
                now += seconds
                model.advance(now, limit=number)
            case "end":
                model.end_program(f"p{number % 5}")
            case _:
                returned = forecast(model, call, now).returned
                assert returned[0] == 0 and np.all(np.diff(returned) >= 0) and returned[-1] <= 1
        model.check()
        assert model.running == len(running)
    model.advance(now + 2 * float(KNOTS[-1]))
    model.check()
