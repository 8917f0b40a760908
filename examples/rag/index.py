"""Keyword and vector search over passages, and the fusion of both. In memory; made once for a folder.

Owns the ranking. Never calls a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.rag.aliases import made_names, other_names
from examples.rag.documents import Passage
from examples.rag.wording import Titles, words

DIMENSIONS = 96
FUSION = 60
"""Reciprocal rank fusion: a hit at rank r counts 1 / (60 + r) (Cormack, Clarke, Büttcher 2009)."""
TITLE, SHARED = 0.03, 0.01
"""What a title that the search names counts, and a search's every strange word that stands in the passage."""

MOST_TITLED = 20
"""Of a document that a search names, at most so many passages are looked at beyond those found."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage by its place in the index, best first in lists."""

    passage: int
    score: float


class Index:
    """Search over the passages of one folder. Read-only: one serves any number of threads."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        import bm25s
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.passages = tuple(passages)
        self.titles = Titles((passage.title for passage in passages), other_names(), made_names())
        texts = [f"{passage.title}. {passage.text}" for passage in passages]
        self._words = [frozenset(word.lower() for word in words(text)) for text in texts]
        self.vocabulary = frozenset(word for text in texts for word in words(text))
        self._titled: dict[str, list[int]] = {}
        for number, passage in enumerate(self.passages):
            self._titled.setdefault(passage.title.lower(), []).append(number)
        self._keywords: Any = bm25s.BM25()
        self._keywords.index([_terms(text) for text in texts], show_progress=False)
        # Latent semantic analysis (Deerwester et al. 1990) of letter n-grams: spelling variants are near each other.
        self._vectorizer: Any = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, max_features=20_000
        )
        counts = self._vectorizer.fit_transform(texts)
        width = max(1, min(DIMENSIONS, len(texts) - 1, counts.shape[1] - 1))
        projection: Any = TruncatedSVD(width, n_iter=2, random_state=0).fit(counts)
        self._vectors = _unit(projection.transform(counts))
        # One query is a sum of a few rows: by hand it costs a tenth of what `transform` does.
        self._grams: Any = self._vectorizer.build_analyzer()
        self._rows = np.ascontiguousarray(projection.components_.T) * self._vectorizer.idf_[:, None]

    def keyword(self, query: str, count: int = 20) -> list[Hit]:
        """The best passages by BM25; those that share no word are left out."""
        count = min(count, len(self.passages))
        found, scores = self._keywords.retrieve([_terms(query)], k=count, show_progress=False)
        return [Hit(int(p), float(s)) for p, s in zip(found[0], scores[0], strict=True) if s > 0]

    def vector(self, query: str, count: int = 20) -> list[Hit]:
        """The nearest passages by the cosine of their vectors."""
        known = self._vectorizer.vocabulary_
        grams = Counter(known[gram] for gram in self._grams(query) if gram in known)
        weights = 1.0 + np.log(np.fromiter(grams.values(), float, len(grams)))
        vector = weights @ self._rows[list(grams)] if grams else np.zeros(self._rows.shape[1])
        scores = self._vectors @ _unit(vector[None])[0]
        best = np.argsort(-scores, kind="stable")[: min(count, len(scores))]
        return [Hit(int(p), float(scores[p])) for p in best]

    def fuse(self, names: Sequence[str], lists: Sequence[Sequence[Hit]], count: int = 5) -> list[Hit]:
        """The best of several lists, and of the documents that the search names: by their ranks, by titles that the
        search names, by names that passages hold."""
        wanted = {name.lower() for name in names}
        strange = {word.lower() for name in names for word in words(name)}
        scores: dict[int, float] = {}
        for hits in lists:
            for rank, hit in enumerate(hits):
                scores[hit.passage] = scores.get(hit.passage, 0.0) + 1.0 / (FUSION + rank)
        for name in wanted:
            for passage in self._titled.get(name, ())[:MOST_TITLED]:
                scores.setdefault(passage, 0.0)
        for passage in scores:
            titled = self.passages[passage].title.lower() in wanted
            scores[passage] += TITLE * titled + SHARED * len(strange & self._words[passage])
        best = sorted(scores, key=lambda passage: (-scores[passage], passage))[:count]
        return [Hit(passage, scores[passage]) for passage in best]


def _terms(text: str) -> list[str]:
    """Words in lower case, without a plural's `s`, so that `neighbours` finds `neighbour`."""
    lowered = (word.lower().removesuffix("'s") for word in words(text))
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in lowered if word[0].isalnum()]


def _unit(vectors: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: np.ndarray[Any, np.dtype[np.float64]] = vectors / np.maximum(lengths, 1e-12)
    return unit
