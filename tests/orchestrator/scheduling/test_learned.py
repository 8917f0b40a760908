"""What is expected of calls and programs, and how much it is believed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduling.learned import PSEUDO_SAMPLES, Learned, Lifetimes, Sample

values = st.lists(st.floats(0.0, 1e4), min_size=1, max_size=60)


@given(values, st.integers(1, 20))
def test_a_sample_is_a_window_over_the_last_observations(seen: list[float], size: int) -> None:
    sample = Sample(size)
    for value in seen:
        sample.add(value)
    last = sorted(seen[-size:])
    assert len(sample) == len(last)
    assert sample.mean(0.0) == pytest.approx(sum(last) / (len(last) + PSEUDO_SAMPLES), abs=1e-6)
    assert sample.quantile(0.0) == last[0] and sample.quantile(1.0) == last[-1]


@given(values, st.floats(0.0, 1e4))
def test_the_residual_is_the_mean_of_what_goes_beyond(seen: list[float], reached: float) -> None:
    sample = Sample()
    for value in seen:
        sample.add(value)
    beyond = [value - reached for value in seen if value > reached]
    expected = (sum(beyond) + PSEUDO_SAMPLES * 7.0) / (len(beyond) + PSEUDO_SAMPLES)
    assert sample.residual(reached, 7.0) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_stage_that_was_seen_seldom_is_drawn_to_its_workflow_and_that_to_all() -> None:
    learned = Learned(prior=1.0)
    for _ in range(100):
        learned.learn("long", 100.0, "draft")
    learned.learn("long", 10.0, "review")
    assert 75 < learned.mean("long", "draft") <= 100
    assert learned.mean("long", "review") < learned.mean("long", "draft")
    assert learned.mean("long", "never seen") > learned.mean("other", "never seen") > 1.0
    for _ in range(200):
        learned.learn("long", 10.0, "review")
    assert learned.mean("long", "review") == pytest.approx(10.0, rel=0.2)


def test_a_hint_stands_until_the_workflow_is_known() -> None:
    learned = Learned(prior=1.0)
    learned.learn("other", 500.0, "s")
    assert learned.mean("new", "s", 30.0) == 30.0
    for _ in range(100):
        learned.learn("new", 5.0, "s")
    assert learned.mean("new", "s", 30.0) < 7.0


def test_without_evidence_as_much_again_is_expected_as_there_was() -> None:
    learned = Learned(prior=3.0)
    assert learned.residual("w", 0.0) == 3.0
    assert learned.residual("w", 50.0) == 50.0
    for _ in range(128):
        learned.learn("w", 60.0)
    assert learned.residual("w", 50.0) == pytest.approx(10.0, rel=0.15)
    assert learned.residual("w", 1000.0) == 1000.0  # longer than all that were seen


def test_quantiles_need_some_observations_and_prefer_the_narrowest() -> None:
    learned = Learned(prior=0.0)
    assert learned.quantile("w", 0.5, "s") is None
    for value in range(10):
        learned.learn("w", float(value), "a")
    learned.learn("w", 1000.0, "s")
    assert learned.quantile("w", 0.5, "a") == 5.0
    assert learned.quantile("w", 0.0, "s") == 0.0


def test_what_was_not_learned_for_long_is_forgotten_first() -> None:
    learned = Learned(prior=0.0, keys=4)  # everything, and room for one workflow with its stage beside another
    for workflow in ("a", "b", "c"):
        for _ in range(8):
            learned.learn(workflow, 8.0, "s")
    assert learned.quantile("c", 0.5, "s") == 8.0
    assert len(learned._samples) == 4 and ("a",) not in learned._samples


def test_the_living_count_and_a_new_workflow_is_like_all_until_it_has_lived_longer() -> None:
    lives = Lifetimes()
    assert lives.rest("chat") == math.inf
    for _ in range(100):
        lives.live("chat", 2.0)
        lives.end("chat")
    assert lives.rest("chat") == pytest.approx(2.0, rel=0.01)
    assert lives.rest("agent") == pytest.approx(2.0, rel=0.01)
    lives.live("agent", 500.0)
    assert lives.rest("agent") > 500.0, "nothing of it has ended"
    for _ in range(10):
        lives.live("agent", 30.0)
        lives.end("agent")
    assert 30.0 < lives.rest("agent") < 90.0


def test_lifetimes_follow_a_workflow_that_changes_and_forget_those_not_seen_for_long() -> None:
    lives = Lifetimes(window=16, keys=3)
    for seconds in (1.0, 50.0):
        for _ in range(100):
            lives.live("w", seconds)
            lives.end("w")
    assert lives.rest("w") == pytest.approx(50.0, rel=0.1)
    lives.live("v", 500.0)
    lives.end("v")
    assert lives.rest("w") < lives.rest("never seen")
    for name in ("a", "b"):
        lives.live(name, 1.0)
    assert lives.rest("w") == lives.rest("never seen"), "of three keys one is for all workflows"
