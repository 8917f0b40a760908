"""Unit vectors that lie as questions do: topics, kinds of question in them, phrasings of one question close together.

The shares and spectra are those of short English questions under all-MiniLM-L6-v2, roughly: phrasings of one question
have cosines of about 0.85, questions of one kind about 0.5. Made from a seed, so that no file is needed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 384
_TOPIC, _KIND, _QUESTION, _PHRASE = 0.2, 0.3, 0.35, 0.15  # shares of the squared length
_PER_QUESTION, _PER_KIND, _PER_TOPIC = 4, 48, 1_536
_CHUNK = 49_152

Floats = NDArray[np.float32]


class Questions:
    """`count` vectors; the i-th is one of four phrasings of question i // 4."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed
        steps = np.arange(DIMENSIONS)
        wide = np.exp(-steps / 18) + 0.12 * np.exp(-steps / 120)
        narrow = np.exp(-steps / 45) + 0.35 * np.exp(-steps / 150)
        self._wide = np.sqrt(wide / wide.sum()).astype(np.float32)
        self._narrow = np.sqrt(narrow / narrow.sum()).astype(np.float32)

    def chunks(self) -> Iterator[tuple[int, Floats]]:
        """All vectors in order: (number of the first, vectors)."""
        for first in range(0, self.count, _CHUNK):
            size = min(_CHUNK, self.count - first)
            questions = self._questions(first // _PER_QUESTION, -(-size // _PER_QUESTION))
            rng = np.random.default_rng([self._seed, 4, first])
            yield first, self._phrased(np.repeat(questions, _PER_QUESTION, axis=0)[:size], rng)

    def asked(self, count: int, seed: int) -> Floats:
        """New phrasings of questions that are there."""
        rng = np.random.default_rng([self._seed, 5, seed])
        chosen = rng.integers(0, self.count // _PER_QUESTION, count)
        return self._phrased(np.concatenate([self._questions(int(q), 1) for q in chosen]), rng)

    def _questions(self, first: int, count: int) -> Floats:
        numbers = np.arange(first, first + count) * _PER_QUESTION
        out = self._part(1, numbers // _PER_TOPIC, self._wide, _TOPIC)
        out += self._part(2, numbers // _PER_KIND, self._narrow, _KIND)
        out += self._part(3, numbers // _PER_QUESTION, self._narrow, _QUESTION)
        return out

    def _part(self, level: int, numbers: NDArray[np.int64], spectrum: Floats, share: float) -> Floats:
        """A vector of each group of this level, drawn from the group's number alone."""
        groups, where = np.unique(numbers, return_inverse=True)
        drawn = np.stack(
            [np.random.default_rng([self._seed, level, int(g)]).standard_normal(DIMENSIONS) for g in groups]
        )
        return (drawn.astype(np.float32) * spectrum * np.float32(np.sqrt(share)))[where]

    def _phrased(self, questions: Floats, rng: np.random.Generator) -> Floats:
        noise = rng.standard_normal(questions.shape).astype(np.float32) * self._narrow * np.float32(np.sqrt(_PHRASE))
        out = questions + noise
        lengths: Floats = np.linalg.norm(out, axis=1, keepdims=True)
        return out / lengths
