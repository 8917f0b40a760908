"""Reads numbers out of English text: figures, words and magnitudes ("2.5 million", "half a million", "5m", "third").

Pure functions over a list of lower-case words. Never decides what a number means in the question.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from examples.text_to_sql.words import word_list

_UNITS = {
    word: value
    for value, word in enumerate(
        word_list(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen"
        )
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(word_list("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}
_MAGNITUDES = {
    "hundred": 100, "hundreds": 100, "thousand": 10**3, "thousands": 10**3, "k": 10**3, "grand": 10**3,
    "million": 10**6, "millions": 10**6, "mn": 10**6, "mil": 10**6, "mln": 10**6, "m": 10**6, "mio": 10**6,
    "billion": 10**9, "billions": 10**9, "bn": 10**9, "b": 10**9, "trillion": 10**12,
}  # fmt: skip
_SPELLED_MAGNITUDES = frozenset(word for word in _MAGNITUDES if len(word) > 3 and word != "grand")
_ORDINALS = {
    word: value
    for value, word in enumerate(
        word_list("second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), start=2
    )
}
_FIGURE = re.compile(r"(-?)(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?([a-z]*)")
_ORDINAL_FIGURE = re.compile(r"(\d+)(st|nd|rd|th)")
ONE_IS_A_NUMBER_AFTER = frozenset(
    word_list("than least most exactly only over under top just within and to or minimum")
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number at the start of some words: its value, how many words it took, and whether a magnitude was spoken."""

    value: float
    words: int
    magnitude: int = 1


def read_ordinal(word: str) -> int | None:
    """The rank that `word` names from second on ("third" and "3rd" are 3), else None."""
    if found := _ORDINAL_FIGURE.fullmatch(word):
        rank = int(found[1])
        return rank if 2 <= rank <= 1000 else None
    return _ORDINALS.get(word)


def read_number(words: list[str], start: int) -> Number | None:
    """The longest number that begins at `words[start]`, or None. Words must be lower case."""
    word = words[start]
    if found := _FIGURE.fullmatch(word):
        return _figure(found, words, start)
    rest = words[start:]
    if word == "half" and rest[1:2] == ["a"] and len(rest) > 2 and rest[2] in _SPELLED_MAGNITUDES:
        return Number(_MAGNITUDES[rest[2]] / 2, 3, _MAGNITUDES[rest[2]])
    if word == "quarter" and rest[1:3] == ["of", "a"] and len(rest) > 3 and rest[3] in _SPELLED_MAGNITUDES:
        return Number(_MAGNITUDES[rest[3]] / 4, 4, _MAGNITUDES[rest[3]])
    if word == "dozen":
        return Number(12, 1)
    if word == "a" and len(rest) > 1:
        if rest[1] == "dozen":
            return Number(12, 2)
        if rest[1] in _SPELLED_MAGNITUDES:
            return _spelled(["one", *rest[1:]])
        return None
    if word == "one" and not _one_counts(words, start):
        return None
    return _spelled(rest)


def _one_counts(words: list[str], start: int) -> bool:
    """'One' is a pronoun more often than a number: it counts only before a magnitude or after a comparison."""
    after = words[start + 1] if start + 1 < len(words) else ""
    return after in _SPELLED_MAGNITUDES or after == "and" or (
        start > 0 and words[start - 1] in ONE_IS_A_NUMBER_AFTER
    )  # fmt: skip


def _figure(found: re.Match[str], words: list[str], start: int) -> Number | None:
    sign, whole, fraction, suffix = found.groups()
    value = float(whole.replace(",", "") + (fraction or "")) * (-1 if sign else 1)
    used = 1
    magnitude = 1
    if suffix:
        if suffix not in _MAGNITUDES:
            return None
        magnitude = _MAGNITUDES[suffix]
    while start + used < len(words):
        following = words[start + used]
        alone = following in ("m", "k", "b", "bn", "mn", "mil", "mln", "mio")
        if following not in _SPELLED_MAGNITUDES and not alone:
            break
        magnitude *= _MAGNITUDES[following]
        used += 1
    return Number(value * magnitude, used, magnitude)


def _spelled(words: list[str]) -> Number | None:
    """Numbers in words: a running group below 1000, closed by thousand, million or billion."""
    total = 0.0
    group = 0.0
    used = 0
    magnitude = 1
    index = 0
    while index < len(words):
        word = words[index]
        if word in _UNITS:
            group += _UNITS[word]
        elif word in _TENS:
            group += _TENS[word]
        elif word in ("hundred", "hundreds") and group:
            group *= 100
        elif word in _SPELLED_MAGNITUDES and group:
            magnitude = max(magnitude, _MAGNITUDES[word])
            total, group = total + group * _MAGNITUDES[word], 0.0
        elif word == "and" and used and index + 1 < len(words):
            following = words[index + 1]
            if words[index + 1 : index + 3] == ["a", "half"] and index + 3 < len(words):
                if words[index + 3] not in _SPELLED_MAGNITUDES:
                    break
                group += 0.5
                index += 3
                used = index
                continue
            joins = words[index - 1] == "hundred" and (following in _UNITS or following in _TENS)
            if not joins or words[index + 2 : index + 3] == ["hundred"]:
                break
        else:
            break
        index += 1
        if word != "and":
            used = index
    if not used:
        return None
    return Number(total + group, used, magnitude)
