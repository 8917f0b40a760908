from __future__ import annotations

import math

import numpy as np
import pytest

from semantic_cache import Category
from semantic_cache.calibration import LOW, NEVER, WIDTH, Calibrator, bin_of, upper_bound, wilson_interval


def categories(*names: str, **changes: object) -> dict[str, Category]:
    base: dict[str, object] = {"similarity": 0.9, "floor": 0.4, "ttl_s": 60.0, "quota": 0.0, "error_target": 0.05}
    return {n: Category(n, **(base | changes)) for n in names}  # type: ignore[arg-type]


def teach(calibrator: Calibrator, name: str, labels: int, wrong_at: float, seed: int = 0, slope: float = 25.0) -> None:
    """Labels at even similarities; the chance of a wrong one is a half at `wrong_at` and falls above it."""
    rng = np.random.default_rng(seed)
    for similarity in rng.uniform(0.5, 1.0, labels):
        wrong = rng.random() < 1 / (1 + math.exp(slope * (similarity - wrong_at)))
        calibrator.seen(name, similarity)
        calibrator.label(name, 0, similarity, not wrong)
    calibrator.recalibrate()


def true_error(threshold: float, wrong_at: float, slope: float = 25.0) -> float:
    s = np.linspace(threshold, 1.0, 1000)
    return float((1 / (1 + np.exp(slope * (s - wrong_at)))).mean())


def test_bins_cover_the_range() -> None:
    assert bin_of(-1.0) == 0
    assert bin_of(1.0) == bin_of(2.0) == 59
    assert bin_of(LOW + 10 * WIDTH) == 10


def test_without_labels_the_default_serves() -> None:
    calibrator = Calibrator(categories("a"))
    assert calibrator.threshold("a") == 0.9
    assert calibrator.estimate("a").from_defaults


def test_labels_that_speak_against_the_default_raise_it_at_once() -> None:
    calibrator = Calibrator(categories("a"), every=1)
    for _ in range(6):
        calibrator.label("a", 0, 0.93, right=False)
    assert calibrator.threshold("a") > 0.93


@pytest.mark.parametrize("wrong_at", [0.6, 0.7, 0.8])
def test_the_threshold_meets_the_target_and_is_not_far_above(wrong_at: float) -> None:
    errors = []
    for seed in range(10):
        calibrator = Calibrator(categories("a"), every=10_000)
        teach(calibrator, "a", 2000, wrong_at, seed)
        errors.append(true_error(calibrator.threshold("a"), wrong_at))
        assert true_error(calibrator.threshold("a") - 0.08, wrong_at) > 0.05
        assert calibrator.estimate("a").error_bound <= 0.05
    assert sum(error <= 0.05 for error in errors) >= 7
    assert max(errors) <= 0.065


def test_categories_learn_from_each_other() -> None:
    """A category with few labels follows the rest; alone it would still stand at its default."""
    together, alone = Calibrator(categories("old", "new")), Calibrator(categories("new"))
    teach(together, "old", 3000, 0.6)
    for calibrator in (together, alone):
        teach(calibrator, "new", 60, 0.6, seed=1)
    assert together.threshold("new") < alone.threshold("new")


def test_a_category_of_its_own_kind_goes_its_own_way() -> None:
    calibrator = Calibrator(categories("easy", "hard"))
    teach(calibrator, "easy", 2000, 0.6)
    teach(calibrator, "hard", 2000, 0.85, seed=1)
    assert calibrator.threshold("easy") < 0.75
    assert calibrator.threshold("hard") > 0.88


def test_a_category_that_is_always_wrong_is_never_served() -> None:
    calibrator = Calibrator(categories("a", "b"))
    teach(calibrator, "a", 1000, 0.6)
    teach(calibrator, "b", 300, 3.0, seed=1)
    assert calibrator.threshold("b") == NEVER


def test_the_floor_holds_whatever_the_labels_say() -> None:
    calibrator = Calibrator(categories("a", floor=0.8), every=10_000)
    teach(calibrator, "a", 3000, 0.3)
    assert calibrator.threshold("a") == 0.8


def test_an_entry_that_was_wrong_needs_a_closer_match_and_one_that_was_right_a_little_less() -> None:
    calibrator = Calibrator(categories("a"))
    calibrator.label("a", 1, 0.9, right=False)
    assert calibrator.effective(0.95, 1) < 0.95
    for _ in range(10):
        calibrator.label("a", 2, 0.8, right=True)
    assert 0.95 < calibrator.effective(0.95, 2) <= 1.0
    assert calibrator.effective(0.95, 3) == 0.95
    calibrator.forget(1)
    assert calibrator.effective(0.95, 1) == 0.95


def test_load_relaxes_only_what_may_and_never_under_the_overload_budget() -> None:
    kinds = categories("strict") | categories("loose", overload_error_target=0.1)
    calibrator = Calibrator(kinds)
    for seed, name in enumerate(kinds):
        teach(calibrator, name, 3000, 0.7, seed=seed)
    assert calibrator.threshold("strict", load=1.0) == calibrator.threshold("strict")
    relaxed = calibrator.threshold("loose", load=1.0)
    assert relaxed < calibrator.threshold("loose", load=0.5) < calibrator.threshold("loose")
    assert true_error(relaxed, 0.7) <= 0.1


def test_one_budget_gives_more_hits_than_a_target_each() -> None:
    """At the same total error the budget lets the easy category take what the hard one cannot use."""
    kinds = categories("easy", "hard", overload_error_target=0.2)
    each, joint = Calibrator(kinds), Calibrator(kinds, budget=0.05)
    for calibrator in (each, joint):
        teach(calibrator, "easy", 3000, 0.65)
        teach(calibrator, "hard", 3000, 0.8, seed=1, slope=10.0)

    def hits(calibrator: Calibrator) -> float:
        return sum(min(1.0, (1 - calibrator.threshold(n)) / 0.5) for n in kinds)

    def wrong(calibrator: Calibrator) -> float:
        total = 0.0
        for name, at, slope in (("easy", 0.65, 25.0), ("hard", 0.8, 10.0)):
            threshold = calibrator.threshold(name)
            if threshold <= 1:
                total += true_error(threshold, at, slope) * (1 - threshold) / 0.5
        return total / hits(calibrator)

    assert hits(joint) > hits(each)
    assert wrong(joint) <= 0.05


def test_old_labels_fade() -> None:
    calibrator = Calibrator(categories("a"), half_life=200)
    teach(calibrator, "a", 2000, 0.85)
    strict = calibrator.threshold("a")
    teach(calibrator, "a", 2000, 0.6, seed=1)
    assert calibrator.threshold("a") < strict - 0.1


def test_upper_bound_is_near_the_exact_quantile() -> None:
    """Against the 90 % quantile of Beta(2.5, 97.5), 0.0459 (by bisection of its distribution function)."""
    mean = 0.025
    variance = mean * (1 - mean) / 101
    bound = upper_bound(np.array([[mean]]), np.array([[variance]]), 1.2816)
    assert bound[0, 0] == pytest.approx(0.0459, abs=0.002)


def test_wilson_interval_against_published_values() -> None:
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_category_whose_default_is_low_is_believed_until_labels_speak_against_it() -> None:
    guarded = Category("sql", similarity=0.85, floor=0.7, ttl_s=60.0, quota=0.5, error_target=0.01)
    calibrator = Calibrator({"sql": guarded})
    for _ in range(60):
        calibrator.seen("sql", 0.9)
    calibrator.label("sql", 0, 0.9, True)
    calibrator.recalibrate()
    assert calibrator.threshold("sql") == 0.85
    for _ in range(10):
        calibrator.label("sql", 0, 0.9, False)
    calibrator.recalibrate()
    assert calibrator.threshold("sql") > 0.9
