"""A question's plain reading: words that the bundled model has never seen are corrected to near ones, or left out.

Pure functions over a list of known words. Never touches placeholders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_VOCABULARY_FILE = Path(__file__).parent / "data" / "vocabulary.txt"
_PLACEHOLDER = re.compile(r"[a-z]+\d")
_SHORTEST_CORRECTED = 4


@cache
def known_words() -> frozenset[str]:
    """The words of the questions that the bundled model was trained on."""
    return frozenset(_VOCABULARY_FILE.read_text().split())


def plain(text: str, known: Iterable[str] | None = None) -> str:
    """`text` (a linked question) in known words alone: a near one for a slip, nothing for a stranger."""
    words = known_words() if known is None else frozenset(known)
    kept = []
    for word in text.split():
        if word in words or _PLACEHOLDER.fullmatch(word) or not word.isalpha():
            kept.append(word)
        elif (near := _near(word, words)) is not None:
            kept.append(near)
    return " ".join(kept)


def _near(word: str, words: frozenset[str]) -> str | None:
    """The one known word that is one slip (a letter more, less, other or swapped) away from `word`, if only one is."""
    if len(word) < _SHORTEST_CORRECTED:
        return None
    letters = "abcdefghijklmnopqrstuvwxyz"
    splits = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    slips = {a + b[1:] for a, b in splits if b}
    slips |= {a + b[1] + b[0] + b[2:] for a, b in splits if len(b) > 1}
    slips |= {a + c + b[1:] for a, b in splits if b for c in letters}
    slips |= {a + c + b for a, b in splits for c in letters}
    near = {slip for slip in slips & words if len(slip) >= _SHORTEST_CORRECTED}
    return near.pop() if len(near) == 1 else None
