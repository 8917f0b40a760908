"""What is learned of stages: exact over a sliding window, bounded in memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scheduling import StageStatistics
from tests.orchestrator.runtime.support import function, llm

S = llm("call", stage="s")
samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)


@given(samples, st.integers(1, 20), st.floats(0, 1))
def test_quantiles_and_means_are_those_of_the_last_samples(given_: list[float], window: int, q: float) -> None:
    statistics = StageStatistics(window=window)
    for sample in given_:
        statistics.learn("w", S, seconds=sample, output_tokens=int(sample))
    last = given_[-window:]
    mean = statistics.seconds("w", S)
    assert mean is not None and mean == pytest.approx(math.fsum(last) / len(last), abs=1e-6 * (1 + max(given_)))
    tokens = sorted(int(sample) for sample in last)
    assert statistics.output_tokens("w", S, q) == tokens[min(len(tokens) - 1, int(q * len(tokens)))]


def test_stages_and_workflows_are_kept_apart_and_unknown_ones_say_so() -> None:
    statistics = StageStatistics()
    a, b = llm("c1", stage="a"), llm("c2", stage="b")
    statistics.learn("w", a, seconds=1.0, output_tokens=10)
    statistics.learn("w", b, seconds=2.0)
    assert statistics.seconds("w", llm("other", stage="a")) == 1.0 and statistics.seconds("w", b) == 2.0
    assert statistics.output_tokens("w", b) == 0
    assert statistics.seconds("v", a) is None and statistics.output_tokens("v", a) == 0


def test_a_tool_without_a_stage_is_its_own_and_a_hint_counts_until_something_is_learned() -> None:
    statistics = StageStatistics()
    look = function("c1", "look", expected_s=9.0)
    assert statistics.seconds("w", look) == 9.0
    statistics.learn("w", look, seconds=2.0)
    assert statistics.seconds("w", function("c2", "look", expected_s=9.0)) == 2.0
    assert statistics.seconds("w", function("c3", "other")) is None


def test_the_stages_least_recently_learned_are_forgotten() -> None:
    statistics = StageStatistics(stages=2)
    for stage in ("a", "b", "a", "c"):
        statistics.learn("w", llm("x", stage=stage), seconds=1.0)
    assert [statistics.seconds("w", llm("x", stage=stage)) is not None for stage in "abc"] == [True, False, True]
