"""A labelled stream of questions, and the cache's own decisions replayed on it without a disk or an engine.

Owns the replay: candidates, guards, calibration and thresholds are the product's, only the index is a matrix. Two
questions with the same label count as having the same answer; `unanswerable` ones (no label) are alike to nothing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semantic_cache import Category
from semantic_cache.calibration import Calibrator
from semantic_cache.finder import CANDIDATES, OBSERVED_BELOW_FLOOR
from semantic_cache.guards import Signature, disagreement, signature

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Stream:
    """Questions with their answer's label ("" = like no other) and category. `gram`: cosines of all pairs."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    categories: tuple[str, ...]
    vectors: Floats
    gram: Floats
    signatures: tuple[Signature, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def same(self, asked: int, cached: int) -> bool:
        """Whether the cached question's answer is right for the asked one."""
        return bool(self.labels[asked]) and self.labels[asked] == self.labels[cached]


def read_rows(path: Path, *, part: Callable[[int], bool] = lambda _: True) -> list[dict[str, str]]:
    """Rows of JSON lines (plain or gzip) with `text`, `intent` (or `label`) and `domain` (or `category`).

    `part` chooses rows by their number, so that what is tuned on is never what is measured."""
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines()
    rows = [json.loads(line) for number, line in enumerate(lines) if part(number) and line.strip()]
    seen: dict[str, dict[str, str]] = {}
    for row in rows:
        label = row.get("label", row.get("intent", ""))
        category = row.get("category", row.get("domain", "all"))
        unanswerable = label in ("", "oos", "out_of_scope")
        seen.setdefault(
            row["text"], {"text": row["text"], "label": "" if unanswerable else label, "category": category}
        )
    return list(seen.values())


def make_stream(rows: Sequence[dict[str, str]], embed: Callable[[str], Floats]) -> Stream:
    """Embed the rows, once."""
    vectors = np.stack([embed(row["text"]) for row in rows]).astype(np.float32)
    return Stream(
        tuple(row["text"] for row in rows),
        tuple(row["label"] for row in rows),
        tuple(row["category"] for row in rows),
        vectors,
        vectors @ vectors.T,
        tuple(signature(row["text"]) for row in rows),
    )


@dataclass(slots=True)
class Tally:
    """Lookups, hits and wrong hits by category."""

    lookups: dict[str, int] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)

    def count(self, category: str, hit: bool, right: bool) -> None:
        self.lookups[category] = self.lookups.get(category, 0) + 1
        self.hits[category] = self.hits.get(category, 0) + hit
        self.wrong[category] = self.wrong.get(category, 0) + (hit and not right)

    def add(self, other: Tally) -> None:
        for name in ("lookups", "hits", "wrong"):
            mine, theirs = getattr(self, name), getattr(other, name)
            for category, count in theirs.items():
                mine[category] = mine.get(category, 0) + count

    @property
    def hit_rate(self) -> float:
        return sum(self.hits.values()) / max(1, sum(self.lookups.values()))

    @property
    def false_share(self) -> float:
        """Wrong hits over hits."""
        return sum(self.wrong.values()) / max(1, sum(self.hits.values()))

    @property
    def error_rate(self) -> float:
        """Wrong hits over all lookups."""
        return sum(self.wrong.values()) / max(1, sum(self.lookups.values()))


class Replay:
    """The cache's decisions over one order of a stream: insert on a miss, learn from misses and shadowed hits."""

    def __init__(self, stream: Stream, policies: dict[str, Category], calibrator: Calibrator, rng: np.random.Generator):
        self._stream = stream
        self._policies = policies
        self.calibrator = calibrator
        self._rng = rng
        self._kept = np.empty(len(stream), dtype=np.int64)
        self._count = 0

    def ask(self, question: int, load: float = 0.0) -> tuple[bool, bool]:
        """One lookup: (served, right)."""
        stream, calibrator = self._stream, self.calibrator
        category = self._policies[stream.categories[question]]
        best, effective, similarity = self._best(question, category)
        if best >= 0:
            calibrator.seen(category.name, effective)
            threshold = max(calibrator.threshold(name, load) for name in {category.name, stream.categories[best]})
            right = stream.same(question, best)
            if effective >= threshold:
                if self._rng.random() < category.shadow_rate:
                    calibrator.label(category.name, best + 1, similarity, right)
                return True, right
            calibrator.label(category.name, best + 1, similarity, right)
        self._kept[self._count] = question
        self._count += 1
        return False, False

    def _best(self, question: int, category: Category) -> tuple[int, float, float]:
        """The candidate with the highest effective similarity that the guards let through, as `Finder` chooses it."""
        kept = self._kept[: self._count]
        if not len(kept):
            return -1, 0.0, 0.0
        similarities = self._stream.gram[question, kept]
        near = (
            np.argpartition(similarities, -CANDIDATES)[-CANDIDATES:] if len(kept) > CANDIDATES else np.arange(len(kept))
        )
        best, best_effective, best_similarity = -1, -1.0, 0.0
        floor = category.floor - OBSERVED_BELOW_FLOOR
        asked = self._stream.signatures[question]
        for at in near:
            similarity = float(similarities[at])
            if similarity < floor:
                continue
            entry = int(kept[at])
            guards = category.guards | self._policies[self._stream.categories[entry]].guards
            if disagreement(asked, self._stream.signatures[entry], guards) is not None:
                continue
            effective = self.calibrator.effective(similarity, entry + 1)
            if effective > best_effective:
                best, best_effective, best_similarity = entry, effective, similarity
        return best, best_effective, best_similarity


def run(stream: Stream, order: Iterable[int], replay: Replay) -> tuple[Tally, list[tuple[bool, bool]]]:
    """Ask everything in order."""
    tally, steps = Tally(), []
    for question in order:
        hit, right = replay.ask(question)
        tally.count(stream.categories[question], hit, right)
        steps.append((hit, right))
    return tally, steps


def single_threshold(stream: Stream, order: Sequence[int], threshold: float) -> list[tuple[bool, bool]]:
    """One similarity for all categories, insert on a miss: (served, right) of each question in order."""
    kept, count, steps = np.empty(len(stream), dtype=np.int64), 0, []
    for question in order:
        hit = right = False
        if count:
            similarities = stream.gram[question, kept[:count]]
            at = int(similarities.argmax())
            if similarities[at] >= threshold:
                hit, right = True, stream.same(question, int(kept[at]))
        if not hit:
            kept[count] = question
            count += 1
        steps.append((hit, right))
    return steps
