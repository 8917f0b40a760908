"""Thresholds from evidence: how often a hit at a similarity was right, by category, and what follows from it.

Owns labels in the small (counts by similarity), the pooled curve fitted to them, and the thresholds in force. Never
judges an answer and never stores anything: labels come from the judge, shadow calls and users' reports.

The estimate is pooled on three levels. One logistic curve over similarity for all categories; a random intercept for
each category (a normal prior, so that a category without labels follows the rest); a random intercept for each entry.
The curve is then only the prior of the counts in each bin of similarity (Beta, worth a few labels), so that with
labels enough the counts decide. The tail's wrong share is the traffic-weighted mean of its bins (post-stratification:
it does not matter that misses are labelled more often than hits), and its upper bound combines the bins' and the
curve's variance. Gelman et al., Bayesian Data Analysis, ch. 5 and 16; Wilson & Hilferty (1931) for the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from semantic_cache.policy import Category

LOW, HIGH, BINS = 0.4, 1.0, 60
WIDTH = (HIGH - LOW) / BINS
NEVER = 1.01
"""A threshold that no similarity reaches."""

_SLACK = 0.02  # keeps the logarithm finite at similarity 1
_ANCHOR = -math.log(1 + _SLACK - 0.85)
_X = -np.log(1 + _SLACK - (LOW + WIDTH * (np.arange(BINS) + 0.5))) - _ANCHOR
_ENTRY_LABELS = 16
_TRAFFIC_PRIOR = 5.0
_CONVERGED = 1e-6  # Newton's step in log odds: mostly after two or three, as the last curve is near
Floats = NDArray[np.float64]


def bin_of(similarity: float) -> int:
    """The bin of a similarity; the ends take what lies outside."""
    return min(BINS - 1, max(0, int((similarity - LOW) / WIDTH + 1e-9)))


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed before any label: the odds of a wrong hit fall with a power of the distance to the question.

    log odds = `intercept` + `slope` * (closeness - closeness at similarity 0.85), closeness = -log(1.02 - similarity).

    The defaults describe short English questions under the bundled embedder; for another embedder give a wide one
    (`intercept_sd`, `slope_sd`). `category_sd`, `entry_sd`: spread of log odds between categories, and between
    entries of one. `bin_labels`: how many labels the curve is worth in each bin.
    """

    intercept: float = -3.05
    slope: float = -2.5
    intercept_sd: float = 0.5
    slope_sd: float = 0.7
    category_sd: float = 1.0
    entry_sd: float = 1.5
    bin_labels: float = 3.0


@dataclass(frozen=True, slots=True)
class CategoryEstimate:
    """Where a category stands. Shares are of hits at or above `threshold`; `labels` counts with forgetting."""

    threshold: float
    overload_threshold: float
    expected_error: float
    error_bound: float
    labels: float
    from_defaults: bool


@dataclass(slots=True)
class _Counts:
    traffic: Floats
    right: Floats
    wrong: Floats
    new: int = 0


@dataclass(frozen=True, slots=True)
class _Tails:
    """Per category and lowest bin: traffic at or above it, expected wrong share, its upper bound. Shape [C, BINS].

    `own`: variance by the bins' own counts; `by_level`, `by_slope`: how the share follows the curve, whose
    `covariance` (level, slope, each category's offset) all categories have in common."""

    traffic: Floats
    mean: Floats
    bound: Floats
    own: Floats
    by_level: Floats
    by_slope: Floats
    covariance: Floats

    def joint_bound(self, lowest: list[int], z: float) -> float:
        """Upper bound of the wrong share of all hits together when each category serves from its bin of `lowest` on."""
        at = [(i, b) for i, b in enumerate(lowest) if b < BINS]
        if not at:
            return 0.0
        rows, bins = np.array(at).T
        weight = self.traffic[rows, bins] / self.traffic[rows, bins].sum()
        level, slope = weight * self.by_level[rows, bins], weight * self.by_slope[rows, bins]
        gradient = np.zeros(len(self.covariance))
        gradient[0], gradient[1] = level.sum(), slope.sum()
        gradient[2 + rows] = level
        variance = float(weight**2 @ self.own[rows, bins] + gradient @ self.covariance @ gradient)
        mean = float(weight @ self.mean[rows, bins])
        return float(upper_bound(np.array([mean]), np.array([variance]), z)[0])


class Calibrator:
    """Labels in, thresholds out. A pure state machine; `recalibrate` costs about a millisecond.

    `confidence`: of the upper bound that must meet the error target. `budget`: None holds every category to its
    own target; a share allocates one budget over all of them, for the most hits, with no category above its
    target at overload. `half_life`: labels after which older ones of a category count half. Fewer than
    `trust_labels` over all lower no threshold under its default; fewer than `doubt_labels` of a category do not take
    its default away as long as they do not speak against it.
    """

    def __init__(
        self,
        policies: Mapping[str, Category],
        *,
        prior: Prior | None = None,
        confidence: float = 0.95,
        budget: float | None = None,
        half_life: float = 4000.0,
        every: int = 50,
        doubt_labels: float = 30.0,
        trust_labels: float = 100.0,
    ) -> None:
        self._policies = dict(policies)
        self._names = list(self._policies)
        self._number = {name: i for i, name in enumerate(self._names)}
        self._prior = prior or Prior()
        self._z = NormalDist().inv_cdf(confidence)
        self._budget = budget
        self._half_life = half_life
        self._every = every
        self._doubt_labels = doubt_labels
        self._trust_labels = trust_labels
        self._counts = {n: _Counts(np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)) for n in self._names}
        self._entries: dict[int, tuple[float, tuple[tuple[float, bool], ...]]] = {}
        self._lean = np.array([self._leaning(c) for c in self._policies.values()])
        self._curve = np.concatenate([[self._prior.intercept, self._prior.slope], self._lean])
        self._since = 0
        self._estimates: dict[str, CategoryEstimate] = {}
        self.recalibrate()

    def _leaning(self, category: Category) -> float:
        """The prior mean of a category's offset. Whoever set its `similarity` believes that it errs no more than its
        target from there on (for one, because its guards refuse most of what is wrong): where the common curve is
        less sure, that is believed until labels say otherwise."""
        believed = _logit(category.error_target)
        return min(0.0, believed - (self._prior.intercept + self._prior.slope * float(_X[bin_of(category.similarity)])))

    # -- evidence -------------------------------------------------------------------------------

    def effective(self, similarity: float, entry: int) -> float:
        """The similarity as this entry's own labels make it count: an entry that was wrong needs a closer match.

        Its distances are stretched by a factor, so that its odds of being wrong come out on the common curve.
        """
        stretch = self._entries.get(entry)
        return similarity if stretch is None else 1 + _SLACK - (1 + _SLACK - similarity) * stretch[0]

    def seen(self, category: str, effective: float) -> None:
        """Count a lookup of this category whose best candidate had this effective similarity."""
        if effective >= LOW:
            self._counts[category].traffic[bin_of(effective)] += 1

    def label(self, category: str, entry: int, similarity: float, right: bool) -> bool:
        """Learn that `entry` (0: one that is gone), at `similarity`, was the right or the wrong answer.

        True: thresholds were renewed."""
        effective = self.effective(similarity, entry)
        if effective >= LOW:
            counts = self._counts[category]
            (counts.right if right else counts.wrong)[bin_of(effective)] += 1
            counts.new += 1
        if entry:
            self._label_entry(category, entry, similarity, right)
        self._since += 1
        if self._since >= self._every:
            self.recalibrate()
            return True
        return False

    def forget(self, entry: int) -> None:
        """The entry is gone; what it taught its category stays."""
        self._entries.pop(entry, None)

    def _label_entry(self, category: str, entry: int, similarity: float, right: bool) -> None:
        """The entry's log odds given its labels: the mode under a normal prior, by Newton's steps."""
        _, labels = self._entries.get(entry, (1.0, ()))
        labels = (*labels, (similarity, right))[-_ENTRY_LABELS:]
        base = self._curve[0] + self._curve[2 + self._number[category]]
        slope, precision, mode = self._curve[1], self._prior.entry_sd**-2, 0.0
        for _ in range(8):
            gradient, curvature = -mode * precision, precision
            for s, was_right in labels:
                p = _sigmoid(base + slope * (-math.log(max(1 + _SLACK - s, 1e-3)) - _ANCHOR) + mode)
                gradient += (not was_right) - p
                curvature += p * (1 - p)
            mode += gradient / curvature
        self._entries[entry] = (math.exp(min(1.5, max(-0.3, mode / -slope))), labels)

    # -- thresholds -----------------------------------------------------------------------------

    def threshold(self, category: str, load: float = 0.0) -> float:
        """The effective similarity from which this category is served at a load level of 0..1."""
        estimate = self._estimates[category]
        return estimate.threshold + load * (estimate.overload_threshold - estimate.threshold)

    def estimate(self, category: str) -> CategoryEstimate:
        """The estimate in force."""
        return self._estimates[category]

    def labels(self, category: str) -> float:
        """Labels of a category so far, older ones counted less."""
        counts = self._counts[category]
        return float(counts.right.sum() + counts.wrong.sum())

    def recalibrate(self) -> None:
        """Fit the curve, bound the tails and set every category's thresholds."""
        self._since = 0
        for counts in self._counts.values():
            keep = 0.5 ** (counts.new / self._half_life)
            counts.new = 0
            counts.right *= keep
            counts.wrong *= keep
            counts.traffic *= keep
        tails = self._tails()
        lowest = self._lowest_bins(tails, [self._policies[n].error_target for n in self._names])
        if self._budget is not None:
            caps = [self._policies[n].error_at_overload for n in self._names]
            lowest = _allocate(tails, self._budget, self._lowest_bins(tails, caps), self._z)
        relaxed = self._lowest_bins(tails, [self._policies[n].error_at_overload for n in self._names])
        for i, name in enumerate(self._names):
            self._estimates[name] = self._settle(i, tails, lowest[i], relaxed[i])

    def _settle(self, i: int, tails: _Tails, lowest: int, relaxed: int) -> CategoryEstimate:
        category = self._policies[self._names[i]]
        counts = self._counts[category.name]
        start = bin_of(category.similarity)
        labels = counts.right + counts.wrong
        floor = category.floor
        if sum(c.right.sum() + c.wrong.sum() for c in self._counts.values()) < self._trust_labels:
            floor = category.similarity  # the prior alone lowers nothing
        threshold = NEVER if lowest == BINS else max(floor, LOW + WIDTH * lowest)
        doubt = (
            labels[max(0, start - 10) :].sum() < self._doubt_labels
            and tails.mean[i, start] <= category.error_target
            and category.similarity < threshold
        )
        if doubt:  # too few labels to confirm the default, and none that speak against it
            threshold = category.similarity
        overload = threshold if relaxed == BINS else min(threshold, max(floor, LOW + WIDTH * relaxed))
        if category.error_at_overload == category.error_target:
            overload = threshold
        b = min(BINS - 1, bin_of(threshold))
        return CategoryEstimate(
            threshold=threshold,
            overload_threshold=overload,
            expected_error=float(tails.mean[i, b]),
            error_bound=float(tails.bound[i, b]),
            labels=float(labels.sum()),
            from_defaults=bool(threshold == category.similarity and labels.sum() < self._doubt_labels),
        )

    @staticmethod
    def _lowest_bins(tails: _Tails, targets: list[float]) -> list[int]:
        """For each category the lowest bin whose tail's bound meets the target; BINS where none does."""
        good = tails.bound <= np.array(targets)[:, None]
        return [int(g.argmax()) if g.any() else BINS for g in good]

    def _tails(self) -> _Tails:
        right = np.stack([self._counts[n].right for n in self._names])
        wrong = np.stack([self._counts[n].wrong for n in self._names])
        traffic = np.stack([self._counts[n].traffic for n in self._names])
        p, covariance = self._fit(right, wrong)
        everyone = traffic.sum(0)
        traffic = traffic + (_TRAFFIC_PRIOR / max(everyone.sum(), 1.0)) * everyone + 1e-9
        strength = self._prior.bin_labels + right + wrong
        share = (self._prior.bin_labels * p + wrong) / strength
        above = _sum_from_top(traffic)
        mean = _sum_from_top(traffic * share) / above
        variance = _sum_from_top(traffic**2 * share * (1 - share) / (strength + 1)) / above**2
        pull = traffic * p * (1 - p) * self._prior.bin_labels / strength  # d tail / d log odds of the curve
        by_level, by_slope = _sum_from_top(pull) / above, _sum_from_top(pull * _X) / above
        offset = np.arange(2, 2 + len(self._names))
        level = covariance[0, 0] + 2 * covariance[0, offset] + covariance[offset, offset]
        slope = covariance[0, 1] + covariance[1, offset]
        common = by_level**2 * level[:, None] + by_slope**2 * covariance[1, 1]
        common += 2 * by_level * by_slope * slope[:, None]
        bound = upper_bound(mean, variance + common, self._z)
        return _Tails(above, mean, bound, variance, by_level, by_slope, covariance)

    def _fit(self, right: Floats, wrong: Floats) -> tuple[Floats, Floats]:
        """Maximum a posteriori of level, slope and categories' offsets by Newton's steps; and the covariance."""
        count = len(self._names)
        labels = right + wrong
        prior = self._prior
        centre = np.concatenate([[prior.intercept, prior.slope], self._lean])
        precision = np.concatenate(
            [[prior.intercept_sd**-2, prior.slope_sd**-2], np.full(count, prior.category_sd**-2)]
        )
        curve, own = self._curve.copy(), np.arange(2, 2 + count)
        hessian = np.diag(precision)
        for _ in range(6):
            odds = curve[0] + curve[1] * _X + curve[2:, None]
            p = 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
            residual, weight = wrong - labels * p, labels * p * (1 - p)
            gradient = np.concatenate([[residual.sum(), (residual * _X).sum()], residual.sum(1)])
            gradient -= precision * (curve - centre)
            hessian = np.diag(precision)
            hessian[0, 0] += weight.sum()
            hessian[1, 1] += (weight * _X**2).sum()
            hessian[0, 1] += (weight * _X).sum()
            hessian[0, own] += weight.sum(1)
            hessian[1, own] += (weight * _X).sum(1)
            hessian[own, own] += weight.sum(1)
            hessian = np.triu(hessian) + np.triu(hessian, 1).T
            step = np.clip(np.linalg.solve(hessian, gradient), -5, 5)
            curve = curve + step
            if np.abs(step).max() < _CONVERGED:
                break
            if np.abs(step).max() < 1e-3:  # it starts where the last fit ended
                break
        curve[1] = min(curve[1], -0.3)  # closer is never worse
        self._curve = curve
        odds = curve[0] + curve[1] * _X + curve[2:, None]
        return 1 / (1 + np.exp(-np.clip(odds, -30, 30))), np.linalg.inv(hessian)


def _allocate(tails: _Tails, budget: float, lowest: list[int], z: float) -> list[int]:
    """The lowest bins with the most traffic above them whose joint error bound meets `budget`.

    One price of an error for all categories (Lagrange); each takes what is worth most at that price, but no bin under
    its own `lowest`. The price is found by bisection. The bound is that of all hits together: what one category's
    estimate misses, another's does not miss as well.
    """
    allowed = np.arange(BINS)[None, :] >= np.array(lowest)[:, None]
    low, high = 0.0, 10.0 / budget
    best = [BINS] * len(lowest)
    for _ in range(24):
        price = (low + high) / 2
        worth = np.where(allowed, tails.traffic * (1 - price * (tails.mean - budget)), 0.0)
        pick = [int(w.argmax()) if w.max() > 0 else BINS for w in worth]
        if tails.joint_bound(pick, z) <= budget:
            best, high = pick, price
        else:
            low = price
    return best


def upper_bound(mean: Floats, variance: Floats, z: float) -> Floats:
    """Upper quantile (standard normal `z`) of a rare share with this mean and variance: a gamma distribution of the
    same moments, by Wilson and Hilferty's cube root."""
    shape = np.maximum(mean**2 / np.maximum(variance, 1e-18), 0.25)
    scale = mean / shape
    cube: Floats = shape * np.maximum(0.0, 1 - 1 / (9 * shape) + z / (3 * np.sqrt(shape))) ** 3
    return np.minimum(1.0, cube * scale)


def wilson_interval(wrong: float, labelled: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share of `wrong` in `labelled` (E. B. Wilson, 1927); (0, 1) without a label."""
    if labelled <= 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = wrong / labelled
    middle = p + z * z / (2 * labelled)
    half = z * math.sqrt(p * (1 - p) / labelled + z * z / (4 * labelled**2))
    return max(0.0, (middle - half) / (1 + z * z / labelled)), min(1.0, (middle + half) / (1 + z * z / labelled))


def _sum_from_top(values: Floats) -> Floats:
    return np.cumsum(values[:, ::-1], axis=1)[:, ::-1]


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, x))))
