"""The normal form in which the bundled model reads a question and a passage: known words stay, names become `e1`,
`e2` …, parts of such a name `p1`, other strange words `x` and numbers `#`.

The model then learns which sentence says what, whatever it is about. Pure functions; never searches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from examples.rag.corpus import LANGUAGES

SYNONYMS: dict[str, str] = {
    synonym: word
    for word, some in {
        "population": "headcount populace pop", "inhabitants": "townsfolk villagers",
        "large": "huge enormous immense tiny small little sizeable sizable", "area": "extent acreage dimensions",
        "larger": "smaller", "largest": "smallest", "border": "frontier boundary",
        "borders": "frontiers boundaries touches", "bordering": "touching adjoining abutting flanking",
        "neighbours": "neighbor", "coordinates": "coords coordinate geolocation", "money": "cash dough",
        "languages": "dialects", "speak": "speaks", "spoken": "speaking", "continent": "landmass",
        "internet": "online", "domain": "tld cctld", "cities": "metropolises conurbations",
        "city": "metropole conurbation megacity", "live": "lives", "country": "homeland",
        "located": "placed positioned", "abbreviation": "abbr abbrev acronym initials", "abbreviated": "contracted",
    }.items()
    for synonym in some.split()
}  # fmt: skip
"""Words that the bundled model does not know, and such as it does, of the same meaning for a search."""
NAMES = 6
"""A question has at most so many names; further ones are `x`."""
STEM, ENDING = 4, 3
"""A word is made from a title if they share at least so many first letters, all but two of the title's, and the word
has at most so many of its own."""
_VOCABULARY = Path(__file__).parent / "data" / "vocabulary.txt"
_COUNTED = (["how", "many"], ["number", "of"])
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d[\d.,]*|[^\w\s]")


class Titles:
    """The titles of a folder's documents, and which of them a question means: whatever its accents and endings."""

    def __init__(
        self, titles: Iterable[str], others: Mapping[str, str] | None = None, made: Mapping[str, str] | None = None
    ) -> None:
        """`others`: further names of titles, `made`: words that are made from one; in lower case."""
        self._whole: dict[str, str] = {}
        self._by_stem: dict[str, list[str]] = {}  # titles of one word, by their first letters
        for title in dict.fromkeys(titles):
            folded = fold(" ".join(words(title)))
            if folded and self._whole.setdefault(folded, title) is title and " " not in folded:
                self._by_stem.setdefault(folded[:STEM], []).append(folded)
        self._made = {fold(word): self._whole[fold(t)] for word, t in (made or {}).items() if fold(t) in self._whole}
        for name, title in (others or {}).items():
            if fold(title) in self._whole:
                self._whole.setdefault(fold(name), self._whole[fold(title)])

    def __contains__(self, title: object) -> bool:
        return isinstance(title, str) and fold(title) in self._whole

    def whole(self, text: str) -> str | None:
        """The title that the text is, but for accents and case."""
        return self._whole.get(fold(text))

    def made(self, text: str) -> str | None:
        """The title that an adjective or a people is made from, where the tables tell: `Danes` from `Denmark`."""
        folded = fold(text)
        return self._made.get(folded) or self._made.get(folded.removesuffix("s"))

    def near(self, word: str) -> str | None:
        """The title that a word was made from: `Kenyan` from `Kenya`, `Icelanders` from `Iceland`."""
        folded = fold(word)
        best, shared = None, 0
        for title in self._by_stem.get(folded[:STEM], ()):
            common = _shared(folded, title)
            if common >= max(STEM, len(title) - 2) and len(folded) - common <= ENDING and common > shared:
                best, shared = title, common
        return self._whole[best] if best is not None else None


def _shared(one: str, other: str) -> int:
    """How many first letters are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def fold(text: str) -> str:
    """Lower case without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))


_LANGUAGES = frozenset(fold(name) for name in LANGUAGES.values())


def align(question: str, titles: Titles, known: Collection[str] | None = None) -> str:
    """The question with titles as the documents spell them, and words made from a title replaced by it.

    Where the question has a title, a language's name is one, and no country.
    """
    known = known_words() if known is None else known
    found = list(_WORD.finditer(question.replace("’", "'")))
    tokens = [match.group() for match in found]
    spans = [_meant(tokens, at, titles, known) for at in range(len(tokens))]
    named = {title for _, title, made in spans if title and not made}
    out, at, last = [], 0, 0
    while at < len(tokens):
        length, title, made = spans[at]
        spoken = made and named and title not in named and fold(tokens[at]) in _LANGUAGES
        if title is not None and not spoken:
            counted = made and [token.lower() for token in tokens[max(0, at - 2) : at]] in _COUNTED
            said = title if not counted else "inhabitants" if title in named else f"inhabitants of {title}"
            out += [question[last : found[at].start()], said]
            last = found[at + length - 1].end() - 2 * tokens[at + length - 1].endswith("'s")
            at += length
        else:
            at += 1
    return "".join([*out, question[last:]])


def _meant(tokens: Sequence[str], at: int, titles: Titles, known: Collection[str]) -> tuple[int, str | None, bool]:
    """How many words from `at` on mean a title, which, and whether they are made from it."""
    length = _title_at(tokens, at, titles, known)
    if length and (title := titles.whole(" ".join(_bare(tokens[at : at + length])))):
        return length, title, False
    for length in (2, 1):
        if title := titles.made(" ".join(_bare(tokens[at : at + length]))):
            return min(length, len(tokens) - at), title, True
    if tokens[at][0].isupper() and _strange(tokens[at], known):
        return 1, titles.near(tokens[at].removesuffix("'s")), True
    return 0, None, False


def _bare(tokens: Sequence[str]) -> list[str]:
    """Without the last one's genitive."""
    return [*tokens[:-1], tokens[-1].removesuffix("'s")]


@cache
def known_words() -> frozenset[str]:
    """The words that the bundled model was trained on."""
    return frozenset(_VOCABULARY.read_text(encoding="utf-8").split())


def words(text: str) -> list[str]:
    """Words, numbers and signs of a text, in their own case."""
    return _WORD.findall(text.replace("’", "'").removesuffix("."))


def names_in(
    question: str,
    titles: Container[str],
    known: Collection[str] | None = None,
    vocabulary: Collection[str] | None = None,
) -> list[str]:
    """The names in a question, in order: longest titles of documents that it has, else runs of strange words.

    `titles` in lower case, `vocabulary` as written. A title of known words alone counts only where it is capitalised,
    and not as first word. A strange word that the documents' `vocabulary` does not have so is no name, unless it is
    written as one: then the question is about what the documents do not know.
    """
    known = known_words() if known is None else known
    found: list[str] = []
    tokens = words(question)
    titled = any(_title_at(tokens, at, titles, known) for at in range(len(tokens)))
    run: list[str] = []
    at = 0
    while at < len(tokens):
        inside = bool(run) and run[-1][0].isupper() and tokens[at][0].isupper()  # York, of New York
        length = 0 if inside else _title_at(tokens, at, titles, known)
        if length:
            _close(run, found)
            found.append(" ".join(tokens[at : at + length]).removesuffix("'s"))
            at += length
            continue
        bare = tokens[at].removesuffix("'s")
        capital = bare[0].isupper() and (at > 0 or not titled)
        if _strange(bare, known) and (vocabulary is None or bare in vocabulary or capital):
            run.append(tokens[at])
        else:
            _close(run, found)
        at += 1
    _close(run, found)
    once: dict[str, str] = {}
    for name in found:
        if name.lower() not in once or name[0].isupper():  # `Nice`, not `nice`
            once[name.lower()] = name
    return list(once.values())[:NAMES]


def normal(text: str, names: Sequence[str], known: Collection[str] | None = None) -> str:
    """A text in normal form, with the names of the question."""
    known = known_words() if known is None else known
    tokens = words(text)
    phrases = [(f"e{n}", [w.lower() for w in words(name)]) for n, name in enumerate(names, 1)]
    phrases.sort(key=lambda item: -len(item[1]))
    out: list[str] = []
    at = 0
    while at < len(tokens):
        symbol, length = _name_at(tokens, at, phrases)
        if not symbol:
            symbol, length = _symbol(tokens[at], phrases, known), 1
        if symbol and not (out and out[-1] == symbol and symbol in "x#"):
            out.append(symbol)
        at += length
    return " ".join(out)


def restore(text: str, names: Sequence[str]) -> str:
    """The names in the place of `e1`, `e2` …; what stands for none stays."""
    by_symbol: Mapping[str, str] = {f"e{n}": name for n, name in enumerate(names, 1)}
    return re.sub(r"\be\d\b", lambda found: by_symbol.get(found.group(), found.group()), text)


def _title_at(tokens: Sequence[str], at: int, titles: Container[str], known: Collection[str]) -> int:
    """How many words from `at` on are a document's title; 0 if none."""
    for length in range(min(7, len(tokens) - at), 0, -1):
        part = _bare(tokens[at : at + length])
        if " ".join(part).lower() not in titles:
            continue
        if any(_strange(word, known) for word in part) or (at > 0 and part[0][0].isupper()):
            return length
    return 0


def _name_at(tokens: Sequence[str], at: int, phrases: Sequence[tuple[str, list[str]]]) -> tuple[str, int]:
    for symbol, phrase in phrases:
        part = [word.lower().removesuffix("'s") for word in tokens[at : at + len(phrase)]]
        if part == [word.removesuffix("'s") for word in phrase]:
            return symbol, len(phrase)
    return "", 1


def _symbol(word: str, phrases: Sequence[tuple[str, list[str]]], known: Collection[str]) -> str:
    lower = word.lower().removesuffix("'s")
    lower = lower if lower in known else SYNONYMS.get(lower, lower)
    if word[0].isdigit():
        return "#"
    if lower in known or not word[0].isalpha():
        return lower if word.isalpha() or word in "?:,;" or lower in known else ""
    for symbol, phrase in phrases:
        if lower in phrase or lower.removesuffix("s") in phrase:
            return f"p{symbol[1:]}"
    return "x"


def _strange(word: str, known: Collection[str]) -> bool:
    lower = word.lower().removesuffix("'s")
    return word[0].isalpha() and lower not in known and lower not in SYNONYMS


def _close(run: list[str], found: list[str]) -> None:
    if run:
        found.append(" ".join(word.removesuffix("'s") for word in run))
        run.clear()
