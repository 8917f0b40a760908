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
_CHUNK = 32 * _PER_TOPIC  # drawn from one seed each
_ASKED_CHUNKS = 8

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
        for chunk in range(-(-self.count // _CHUNK)):
            rng = np.random.default_rng([self._seed, 1, chunk])
            questions = np.repeat(self._questions(chunk), _PER_QUESTION, axis=0)
            yield chunk * _CHUNK, self._phrased(questions, rng)[: self.count - chunk * _CHUNK]

    def asked(self, count: int, seed: int) -> Floats:
        """New phrasings of questions that are there, of up to eight chunks."""
        rng = np.random.default_rng([self._seed, 2, seed])
        chunks = rng.choice(-(-self.count // _CHUNK), min(_ASKED_CHUNKS, -(-self.count // _CHUNK)), replace=False)
        found = []
        for chunk, share in zip(chunks.tolist(), np.array_split(np.arange(count), len(chunks)), strict=True):
            there = min(_CHUNK, self.count - chunk * _CHUNK) // _PER_QUESTION
            found.append(self._questions(chunk)[rng.integers(0, there, len(share))])
        questions = np.concatenate(found)
        return self._phrased(questions[rng.permutation(len(questions))], rng)

    def _questions(self, chunk: int) -> Floats:
        """The questions of a chunk, not yet phrased."""
        rng = np.random.default_rng([self._seed, 0, chunk])
        out = self._draw(rng, _CHUNK // _PER_TOPIC, self._wide, _TOPIC).repeat(_PER_TOPIC // _PER_QUESTION, axis=0)
        out += self._draw(rng, _CHUNK // _PER_KIND, self._narrow, _KIND).repeat(_PER_KIND // _PER_QUESTION, axis=0)
        out += self._draw(rng, _CHUNK // _PER_QUESTION, self._narrow, _QUESTION)
        return out

    @staticmethod
    def _draw(rng: np.random.Generator, count: int, spectrum: Floats, share: float) -> Floats:
        drawn: Floats = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
        return drawn * spectrum * np.float32(np.sqrt(share))

    def _phrased(self, questions: Floats, rng: np.random.Generator) -> Floats:
        out = questions + self._draw(rng, len(questions), self._narrow, _PHRASE)
        lengths: Floats = np.linalg.norm(out, axis=1, keepdims=True)
        return out / lengths
