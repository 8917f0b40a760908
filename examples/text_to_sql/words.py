"""Splits a question into words in normal form: lower case, no accents, no punctuation, contractions spelled out.

Pure functions. Never knows the database.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_LETTERS = {"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "æ": "ae", "Æ": "AE"}
_CONTRACTIONS = {
    "what's": "what is", "whats": "what is", "which's": "which is", "who's": "who is", "where's": "where is",
    "wheres": "where is", "how's": "how is", "it's": "it is", "that's": "that is", "there's": "there is",
    "don't": "do not", "doesn't": "does not", "dont": "do not", "doesnt": "does not", "isn't": "is not", "isnt":
    "is not", "aren't": "are not", "arent": "are not", "can't": "can not", "i'd": "i would", "i'm": "i am",
    "hasn't": "has not", "haven't": "have not", "let's": "let us", "didn't": "did not", "won't": "will not",
    "there're": "there are", "what're": "what are", "they're": "they are", "u": "you", "pls": "please", "plz":
    "please", "w/o": "without", "vs": "versus", "approx": "about",
}  # fmt: skip
_UNITS = [
    (re.compile(r"\b(?:sq\.?|square)\s*-?(?:kms?|kilomet(?:er|re)s?)\b|\bkm\s?(?:\^2|2|²)(?!\d)", re.I), " sqkm "),
    (re.compile(r"\b(?:people|inhabitants|persons|residents|ppl)\s*(?:per|/|a)\s*(?=sqkm)", re.I), "people per "),
    (re.compile(r"(?<=\d)\s*%"), " percent "),
    (re.compile(r"\s*°\s*"), " degrees "),
    (re.compile(r"(?<=[\w)])\s*>=\s*"), " at least "),
    (re.compile(r"\s*<=\s*"), " at most "),
    (re.compile(r"\s*>\s*"), " over "),
    (re.compile(r"\s*<\s*"), " under "),
    (re.compile(r"&"), " and "),
]
_TOKEN = re.compile(
    r"""
    "(?P<double>[^"]{1,60})" | [“](?P<curly>[^”]{1,60})[”] | (?<!\w)['‘](?P<single>[^'’]{1,60})['’](?!\w)
    | (?P<tz>\b(?:Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Europe|Indian|Pacific)/[A-Za-z_/+-]+)
    | (?<!\w)(?P<tld>\.[a-z]{2})\b
    | (?P<phone>(?<!\w)\+\d[\d-]*)
    | (?P<abbreviation>\b(?:[A-Za-z]\.){2,}[A-Za-z]?)
    | (?P<number>(?<![\w.])-?\d[\d,]*(?:\.\d+)?[A-Za-z]*)
    | (?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*\d*['’]?)
    | (?P<stop>(?<!\b[SsMmFfDd][tr])(?<!\bvs)[.?!;]+(?=\s+\S))
    | (?P<mark>[,:()/-])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Word:
    """One word: `text` in normal form, `raw` as written, `form` of what kind it is, and what stood before it."""

    text: str
    raw: str
    form: str = "word"
    possessive: bool = False
    after_comma: bool = False
    first: bool = False

    @property
    def capital(self) -> bool:
        return self.raw[:1].isupper()


def word_list(text: str) -> list[str]:
    """The words of `text`: for tables that read best as running text."""
    return text.split()


def fold(text: str) -> str:
    """Lower case without accents; runs of anything that is no letter or digit become one space, apostrophes vanish."""
    plain = strip_accents(text).lower().replace("'", "").replace("’", "")
    return re.sub(r"[^\w]+|_", " ", plain).strip()


def strip_accents(text: str) -> str:
    """`text` with letters in place of their accented forms."""
    text = "".join(_LETTERS.get(letter, letter) for letter in text)
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def split_words(question: str) -> list[Word]:
    """The words of `question` in normal form."""
    for pattern, replacement in _UNITS:
        question = pattern.sub(replacement, question)
    words: list[Word] = []
    comma = False
    for found in _TOKEN.finditer(question):
        form = found.lastgroup or "word"
        raw = found[form]
        if form == "stop":
            if words and words[-1].form != "stop":
                words.append(Word(".", ".", "stop"))
            continue
        if form == "mark":
            comma = raw != "-" and raw != "/"
            continue
        for word in _normal(raw, form, comma, not words):
            words.append(word)
        comma = False
    return words


def _normal(raw: str, form: str, comma: bool, first: bool) -> list[Word]:
    raw = raw.strip()
    if form in ("double", "curly", "single"):
        return [Word(fold(raw), raw, "quoted", after_comma=comma, first=first)] if raw else []
    if form == "abbreviation":
        raw = raw.replace(".", "")
        return [Word(raw.lower(), raw.upper(), after_comma=comma, first=first)]
    if form != "word":
        return [Word(raw.lower().rstrip(","), raw.rstrip(","), form, after_comma=comma, first=first)]
    lower = strip_accents(raw).lower().replace("’", "'").rstrip("'")
    if lower in _CONTRACTIONS:
        return [Word(text, text, first=first) for text in _CONTRACTIONS[lower].split()]
    if lower.endswith("'s"):
        return [Word(lower[:-2], raw[:-2], possessive=True, after_comma=comma, first=first)]
    possessive = raw.endswith(("'", "’"))
    return [Word(lower.replace("'", ""), raw.rstrip("'’"), possessive=possessive, after_comma=comma, first=first)]
