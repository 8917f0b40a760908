"""The learned category: a linear head on the question's embedding, taught by calls that declare theirs.

Owns its weights. Says "unsure" rather than guess: then the strictest policy applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_PER_CATEGORY = 20
_STEPS = 200


@dataclass(frozen=True, slots=True)
class CategoryHead:
    """One logistic regression per category. `weights` [categories, dimensions + 1], the last column the intercept.

    One against the rest, not a softmax: a question unlike every category is then unlikely for each of them, where
    a softmax would still have to share out its certainty. `scale` is the inverse temperature, fitted on examples
    held out, so that a confidence means what it says.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    scale: float
    confidence: float = 0.8

    def predict(self, vector: NDArray[np.float32]) -> tuple[str | None, float]:
        """The likeliest category and its probability; None for the name when that is under `confidence`."""
        p = _sigmoid(self.scale * (self.weights[:, :-1] @ vector + self.weights[:, -1]))
        best = int(p.argmax())
        return (self.names[best] if p[best] >= self.confidence else None), float(p[best])


def fit(examples: Mapping[str, NDArray[np.float32]], confidence: float = 0.8, seed: int = 0) -> CategoryHead | None:
    """Fit a head to unit vectors by category, each [examples, dimensions]; None with fewer than two categories of
    at least 20 examples. Takes some 50 ms for 6 x 400 vectors: run it in a thread."""
    usable = {name: v for name, v in sorted(examples.items()) if len(v) >= MIN_PER_CATEGORY}
    if len(usable) < 2:
        return None
    names = tuple(usable)
    x = np.concatenate(list(usable.values())).astype(np.float32)
    y = np.repeat(np.arange(len(names)), [len(v) for v in usable.values()])
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)[order], y[order]
    held = max(len(names), len(x) // 5)
    weights = _descend(x[held:], y[held:], len(names))
    logits = x[:held] @ weights.T
    scale = min((0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0), key=lambda s: _cross_entropy(s * logits, y[:held]))
    return CategoryHead(names, weights, scale, confidence)


def _descend(x: NDArray[np.float32], y: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Full-batch gradient descent with Nesterov's momentum on the ridge-penalised cross entropies; in each, a
    category weighs as much as all the others together."""
    target = np.eye(classes, dtype=np.float32)[y]
    inside = target.sum(0)
    balance = np.where(target > 0, 0.5 / np.maximum(inside, 1), 0.5 / np.maximum(len(y) - inside, 1)).astype(np.float32)
    weights = np.zeros((classes, x.shape[1]), dtype=np.float32)
    speed = np.zeros_like(weights)
    for _ in range(_STEPS):
        ahead = weights + 0.9 * speed
        gradient = ((_sigmoid(x @ ahead.T) - target) * balance).T @ x + 1e-4 * ahead
        speed = 0.9 * speed - 2.0 * gradient
        weights = weights + speed
    return weights


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    half: NDArray[np.float32] = 0.5 * (1 + np.tanh(0.5 * logits))
    return half


def _cross_entropy(logits: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    target = np.eye(logits.shape[1], dtype=np.float32)[y]
    return float((np.logaddexp(0, logits) - target * logits).mean())
