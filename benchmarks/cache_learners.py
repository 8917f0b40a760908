"""The caches that ours is measured against, on the same stream with the same vectors.

`PerEntryLearner` is our reimplementation of vCache's published algorithm (Schroeder et al., arXiv 2502.03771, section 4
and algorithm 1), from the paper alone. `gptcache_defaults` runs GPTCache itself, if it is installed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np

from benchmarks.cache_stream import Stream, Tally

_GRID = np.linspace(0.01, 0.99, 50)
_Z = np.array([NormalDist().inv_cdf(1 - e) for e in _GRID])
_MIN_OBSERVATIONS = 6
_PLACE = tempfile.TemporaryDirectory()  # GPTCache writes its index once more when the process ends


class PerEntryLearner:
    """Each entry keeps its own observations (similarity, was it right) and decides by a logistic curve fitted to them.

    The probability of asking the model is the smallest that keeps the promise "right with probability 1 - delta over
    all calls" under any confidence of the estimated threshold. A new entry is stored only where its neighbour's answer
    was wrong. Every fit is cached until the entry has a new observation.
    """

    def __init__(self, stream: Stream, delta: float, rng: np.random.Generator) -> None:
        self._stream = stream
        self._delta = delta
        self._rng = rng
        self._kept = np.empty(len(stream), dtype=np.int64)
        self._count = 0
        self._seen: dict[int, list[tuple[float, bool]]] = {}
        self._fits: dict[int, tuple[float, float, float]] = {}

    def ask(self, question: int) -> tuple[bool, bool]:
        """One lookup: (served, right)."""
        if not self._count:
            self._insert(question)
            return False, False
        similarities = self._stream.gram[question, self._kept[: self._count]]
        at = int(similarities.argmax())
        entry, similarity = int(self._kept[at]), float(similarities[at])
        right = self._stream.same(question, entry)
        if self._rng.random() > self._explore(entry, similarity):
            return True, right
        self._seen[entry].append((similarity, right))
        self._fits.pop(entry, None)
        if not right:
            self._insert(question)
        return False, False

    def _insert(self, question: int) -> None:
        self._kept[self._count] = question
        self._count += 1
        self._seen[question] = [(0.0, False), (1.0, True)]

    def _explore(self, entry: int, similarity: float) -> float:
        observed = self._seen[entry]
        if len(observed) < _MIN_OBSERVATIONS:
            return 1.0
        if entry not in self._fits:
            self._fits[entry] = _fit(observed)
        threshold, steepness, deviation = self._fits[entry]
        shifted = threshold + _Z * deviation
        alpha = (1 - _GRID) / (1 + np.exp(-np.clip(steepness * (similarity - shifted), -50, 50)))
        return float(np.min(1 - self._delta / np.maximum(1 - alpha, 1e-9)))


def _fit(observed: Sequence[tuple[float, bool]]) -> tuple[float, float, float]:
    """Maximum likelihood of P(right | s) = 1 / (1 + exp(-g (s - t))): t, g, and the standard error of t.

    Newton's steps on the linear form b0 + b1 s with a weak ridge, since separable observations have no maximum; the
    error of t = -b0 / b1 by the delta method."""
    x = np.array([s for s, _ in observed])
    y = np.array([right for _, right in observed], dtype=float)
    design = np.stack([np.ones_like(x), x], axis=1)
    b = np.array([-3.0, 6.0])
    ridge = np.diag([1e-3, 1e-3])
    hessian = ridge
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(design @ b, -30, 30)))
        hessian = design.T @ (design * (p * (1 - p))[:, None]) + ridge
        step = np.linalg.solve(hessian, design.T @ (y - p) - ridge @ b)
        b = b + np.clip(step, -10, 10)
        if np.abs(step).max() < 1e-6:
            break
    steepness = max(float(b[1]), 1e-3)
    threshold = float(np.clip(-b[0] / steepness, -1.0, 1.0))
    gradient = np.array([-1 / steepness, b[0] / steepness**2])
    variance = float(gradient @ np.linalg.inv(hessian) @ gradient)
    return threshold, steepness, math.sqrt(max(0.0, min(variance, 1.0)))


def run_per_entry(stream: Stream, order: Sequence[int], delta: float, seed: int) -> Tally:
    """The per-entry learner over one order."""
    learner, tally = PerEntryLearner(stream, delta, np.random.default_rng(seed)), Tally()
    for question in order:
        hit, right = learner.ask(question)
        tally.count(stream.categories[question], hit, right)
    return tally


def gptcache_defaults(stream: Stream, order: Sequence[int]) -> Tally | None:
    """GPTCache with its default evaluation and threshold over one order; None if it cannot be run here."""
    try:
        from gptcache import Cache, Config
        from gptcache.adapter.api import get, put
        from gptcache.manager import CacheBase, VectorBase, get_data_manager
        from gptcache.processor.pre import get_prompt
        from gptcache.similarity_evaluation.distance import SearchDistanceEvaluation
    except Exception:  # it is absent, or what it needs is
        return None
    numbers = {text: i for i, text in enumerate(stream.texts)}
    place = Path(_PLACE.name)
    cache = Cache()
    cache.init(
        pre_embedding_func=get_prompt,
        embedding_func=lambda prompt, **_: stream.vectors[numbers[prompt]],
        data_manager=get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{place / 'cache.db'}"),
            VectorBase("faiss", dimension=stream.vectors.shape[1], index_path=str(place / "faiss.index")),
            max_size=len(stream) + 1,
        ),
        similarity_evaluation=SearchDistanceEvaluation(),
        config=Config(),
    )
    tally = Tally()
    for question in order:
        text = stream.texts[question]
        answer = get(text, cache_obj=cache)
        if answer is None:
            put(text, str(question), cache_obj=cache)
        right = answer is not None and stream.same(question, int(answer))
        tally.count(stream.categories[question], answer is not None, right)
    return tally
