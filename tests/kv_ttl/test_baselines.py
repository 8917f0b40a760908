"""Other projects' rules do what their sources say, and the oracle bounds them all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_ttl.baselines import ContinuumBenefit, ContinuumPaper, ContinuumPublic, Fixed, Oracle, ThunderAgent
from kv_ttl.durations import Outstanding, ToolCall
from kv_ttl.errors import RetentionError
from kv_ttl.rules import Pause, Rule, StopAware
from tests.kv_ttl.strategies import fixed


def pause(
    tool: str = "read",
    *,
    number: int = 0,
    now: float = 0.0,
    saved_s: float = 5.0,
    demand: float = 2.0,
    known: float | None = None,
) -> Pause:
    return Pause(f"p{number}", now, (ToolCall(tool, "here"),), saved_s, demand_share=demand, known_s=known)


def teach(rule: Rule, tool: str, seconds: list[float]) -> None:
    for number, one in enumerate(seconds):
        asked = pause(tool, number=number, now=1000.0 * number)
        rule.decide(asked)
        rule.observe(asked, [one], one)


def test_the_fixed_rules_are_named_by_what_they_do() -> None:
    assert [(Fixed(t).name, Fixed(t).decide(pause())) for t in (0.0, 2.0, math.inf)] == [
        ("never", 0.0),
        ("fixed 2 s", 2.0),
        ("keep-always", math.inf),
    ]


def test_continuum_public_pins_two_seconds_while_the_mean_is_short() -> None:
    rule = ContinuumPublic()
    assert rule.decide(pause("unseen")) == 2.0
    teach(rule, "slow", [1.0, 9.0])
    assert (rule.decide(pause("slow")), rule.decide(pause("unseen"))) == (0.0, 2.0)
    teach(rule, "even", [2.0, 2.0])
    assert rule.decide(pause("even")) == 2.0


def test_continuum_paper_starts_from_an_exponential_of_one_second() -> None:
    rule = ContinuumPaper()
    teach(rule, "slow", [50.0] * 100)
    assert rule.decide(pause("slow", saved_s=math.e**2)) == pytest.approx(2.0)
    assert rule.decide(pause("slow", saved_s=0.5)) == 0.0
    teach(rule, "slow", [50.0])
    assert rule.decide(pause("slow", saved_s=5.0)) == 0.0
    assert rule.decide(pause("unseen", saved_s=60.0)) == 50.0


@fixed
@given(st.lists(st.integers(1, 40).map(lambda n: n / 2), min_size=1, max_size=40), st.floats(0.1, 30.0))
def test_continuum_paper_maximises_share_times_benefit_less_ttl(seen: list[float], saved_s: float) -> None:
    rule = ContinuumPaper(enough=0)
    teach(rule, "tool", seen)
    chosen = rule.decide(pause("tool", saved_s=saved_s))

    def worth(ttl_s: float) -> float:
        return saved_s * sum(d <= ttl_s for d in seen) / len(seen) - ttl_s

    best = max(worth(t) for t in [0.0, *seen])
    assert worth(chosen) == pytest.approx(best)
    assert chosen == min(t for t in [0.0, *seen] if worth(t) >= best - 1e-12)


def test_thunderagent_drops_at_the_next_check_while_memory_is_short() -> None:
    rule = ThunderAgent()
    assert math.isinf(rule.decide(pause(now=3.0, demand=0.9)))
    assert rule.decide(pause(now=3.0, demand=1.1)) == pytest.approx(2.0)
    assert rule.decide(pause(now=10.0, demand=1.1)) == pytest.approx(5.0)


def test_continuum_benefit_weighs_the_queue_by_how_far_turns_are_known() -> None:
    benefit = ContinuumBenefit(window=2)
    assert benefit.saved_s(3.0) == 3.0
    for extra in (100.0, 4.0, 6.0):
        benefit.waited(extra)
    assert benefit.saved_s(3.0) == pytest.approx(3.0 + 5.0)
    for _ in range(20):
        benefit.program_ended(10)
    assert benefit.eta == pytest.approx(1.0)
    memoryless = ContinuumBenefit()
    for turns in np.random.default_rng(0).geometric(0.1, 5000):
        memoryless.program_ended(int(turns))
    assert abs(memoryless.eta) < 0.1


def test_the_oracle_keeps_exactly_when_it_pays() -> None:
    assert Oracle().decide(pause(known=4.9)) == 4.9
    assert Oracle().decide(pause(known=5.1)) == 0.0
    with pytest.raises(ValueError, match="known_s"):
        Oracle().decide(pause())


@fixed
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.floats(0.001, 60.0)), max_size=40), st.floats(0.5, 20.0))
def test_no_rule_wins_more_than_the_oracle(pauses: list[tuple[str, float]], saved_s: float) -> None:
    for rule in (StopAware(), ContinuumPaper(enough=5), ContinuumPublic(), ThunderAgent(), Fixed(2.0)):
        for number, (tool, seconds) in enumerate(pauses):
            asked = pause(tool, number=number, now=100.0 * number, saved_s=saved_s, known=seconds)
            rewards = [
                saved_s - seconds if 0 < ttl_s >= seconds else -ttl_s
                for ttl_s in (rule.decide(asked), Oracle().decide(asked))
            ]
            assert rewards[0] <= rewards[1] + 1e-12
            rule.observe(asked, [seconds], seconds)


def test_ours_learns_whom_to_keep() -> None:
    rule = StopAware()
    teach(rule, "read", [0.02] * 20)
    teach(rule, "build", [90.0] * 20)
    assert 0.02 <= rule.decide(pause("read", number=98)) < 4.0
    assert rule.decide(pause("build", number=99)) < 0.1
    assert rule.model.running == 2
    rule.model.check()


def test_ours_counts_the_joining_graph() -> None:
    rule = StopAware()
    calls = (ToolCall("search", "here"), ToolCall("search", "here"), ToolCall("rank", "here"))
    for number in range(40):
        asked = Pause(f"q{number}", 100.0 * number, calls, 5.0, after=((), (), (0, 1)))
        rule.decide(asked)
        rule.observe(asked, [1.0, 1.0, 1.0], 2.0)
    assert rule.decide(Pause("last", 9e3, calls, 5.0, after=((), (), (0, 1)))) > 1.8
    waited = [Outstanding(call, None, after) for call, after in zip(calls, ((), (), (0, 1)), strict=True)]
    medians = [rule.model.forecast(waited[:count], 9e3).quantile(0.5) for count in (1, 3)]
    assert medians == [pytest.approx(1.0, rel=0.15), pytest.approx(2.0, rel=0.15)]


def test_a_pause_for_nothing_is_refused() -> None:
    with pytest.raises(RetentionError, match="waits for no call"):
        Pause("p", 0.0, (), 1.0)
    with pytest.raises(RetentionError, match="2 entries in after for 1 calls"):
        Pause("p", 0.0, (ToolCall("x"),), 1.0, after=((), ()))
