"""Pairs of linked questions and placeholder SQL: drawn from a seed, split by question text and by SQL shape.

The splits are functions of content alone, so that every seed agrees on them: questions whose text hashes into one share
are never trained (`generated`), nor is any question of the shapes whose name hashes into another (`unseen_shapes`).
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from examples.text_to_sql.linking import Linked, Linker, restore
from examples.text_to_sql.places import PlaceIndex
from examples.text_to_sql.train import composed, extremes, groups, lookups, questions
from examples.text_to_sql.train.questions import Draft, DraftMaker
from examples.text_to_sql.train.sql import MARK
from examples.text_to_sql.train.wording import CLOSERS, NOISE, OPENERS, disturb
from examples.text_to_sql.train.world import World
from examples.text_to_sql.words import word_list

Split = Literal["train", "generated", "unseen_shapes"]

MAKERS: list[tuple[DraftMaker, float]] = [
    (questions.ask_list, 16), (questions.ask_count, 12), (questions.ask_details, 9), (questions.ask_aggregate, 8),
    (extremes.ask_extreme, 11), (extremes.ask_top, 6), (extremes.ask_rank, 3.5), (extremes.ask_of_extreme, 5),
    (questions.ask_distinct, 3.5), (groups.ask_group_list, 6), (groups.ask_group_extreme, 9),
    (groups.ask_group_having, 8), (groups.ask_group_place, 1.6), (lookups.ask_country, 7), (lookups.ask_city, 5.5),
    (lookups.ask_other_name, 3), (lookups.ask_capital_of, 1.5), (lookups.ask_which_of, 3), (lookups.ask_is_more, 2.5),
    (lookups.ask_difference, 3), (lookups.ask_share, 3), (lookups.ask_about_names, 1.7),
    (composed.ask_of_greatest, 2.2), (composed.ask_part_of_whole, 1.5), (composed.ask_spread, 1),
    (composed.ask_counts_compared, 1.8), (composed.ask_names_in_common, 0.9), (composed.ask_mean_count, 0.7),
    (composed.ask_best_capital, 0.8),
]  # fmt: skip
_GENERATED_ONE_IN = 40
_UNSEEN_ONE_IN = 10
_UNSEEN_FROM_PARTS = 2
_COMPOSED = frozenset(
    word_list(
        "details details_named aggregate extreme top rank of_extreme distinct count_distinct group_list group_extreme "
        "group_having group_having_count share_of of_greatest spread counts_compared mean_count best_capital"
    )
)
"""Kinds of question that are put together from parts; what stands alone is trained whole."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question as asked, the same linked, its SQL with placeholders, and the SQL's shape."""

    question: str
    linked: Linked
    sql: str
    shape: str

    @property
    def gold(self) -> str:
        """The SQL with the values in place."""
        return restore(self.sql, self.linked.values)


class Generator:
    """Draws examples from one database. Deterministic: the same split and seed give the same examples."""

    def __init__(self, database: Path) -> None:
        self.linker = Linker(PlaceIndex(database), known=frozenset())
        self._world = World(database)
        self.drawn = 0
        self.unlinked = 0

    def generate(self, split: Split, n: int, seed: int) -> Iterator[Example]:
        """`n` examples of `split`, all with different linked questions."""
        rng = random.Random(f"{split}/{seed}")
        makers = [maker for maker, _ in MAKERS]
        weights = [weight for _, weight in MAKERS]
        seen: set[str] = set()
        while len(seen) < n:
            draft = rng.choices(makers, weights)[0](self._world, rng)
            if draft is None or split_of_shape(draft) != (split == "unseen_shapes"):
                continue
            example = self._link(draft, disturb(rng, draft.question))
            if example is None or example.linked.text in seen:
                continue
            if split != "unseen_shapes" and _is_held_out(example.linked.text) != (split == "generated"):
                continue
            seen.add(example.linked.text)
            yield example

    def vocabulary(self, n: int, seed: int) -> list[str]:
        """The words of `n` undisturbed questions in normal form, and of the ways to open and close one, sorted."""
        rng = random.Random(f"vocabulary/{seed}")
        makers, weights = [maker for maker, _ in MAKERS], [weight for _, weight in MAKERS]
        counts: Counter[str] = Counter()
        for _ in range(n):
            draft = rng.choices(makers, weights)[0](self._world, rng)
            if draft is not None:
                counts.update(self.linker.link(draft.question, max_alternatives=0).text.split())
        spoken = [word for word, count in counts.items() if count > 3 and word.isalpha()]
        around = " ".join([*OPENERS, *CLOSERS, *NOISE])
        return sorted({*spoken, *self.linker.link(around, max_alternatives=0).text.split()} - {"."})

    def _link(self, draft: Draft, question: str) -> Example | None:
        """The example for a worded draft, or None where the linker does not find the draft's own values."""
        self.drawn += 1
        linked = self.linker.link(question, max_alternatives=0)
        names = {(value.kind, value.literal): name for name, value in linked.values.items()}
        marks = [(found[1], found[2]) for found in MARK.finditer(draft.sql)]
        spare = [value for value in linked.values.values() if (value.kind, value.literal) not in marks]
        if not all(mark in names for mark in marks) or spare:
            self.unlinked += 1
            return None
        sql = MARK.sub(lambda found: names[found[1], found[2]], draft.sql)
        return Example(question, linked, sql, draft.shape)


def draw_training(database: Path, count: int, seed: int) -> list[Example]:
    """`count` training examples: a whole task for a worker process."""
    return list(Generator(database).generate("train", count, seed))


def split_of_shape(draft: Draft) -> bool:
    """Is the draft's shape held out? Only compositions of several parts are: each part is trained in others."""
    composed = "+" in draft.shape or draft.shape.split("/")[0] in _COMPOSED
    return composed and draft.parts >= _UNSEEN_FROM_PARTS and _bucket("shape:" + draft.shape, _UNSEEN_ONE_IN)


def _is_held_out(text: str) -> bool:
    return _bucket("text:" + text, _GENERATED_ONE_IN)


def _bucket(text: str, one_in: int) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % one_in == 0
