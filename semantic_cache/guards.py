"""Lexical guards: what two questions must agree in before one's answer may serve the other.

Embeddings put "over 5" beside "over 7" and "oldest" beside "newest"; these rules look at the words. They can only
forbid a hit, never cause one. Pure functions; English words, any numbers, quotes and identifiers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from semantic_cache import lexicon
from semantic_cache.policy import Guard

_QUOTED = re.compile(r"[\"“„«]([^\"”“»]{1,200})[\"”“»]|`([^`]{1,200})`|(?<!\w)['‘]([^'’]{1,200})['’](?!\w)")
_TOKEN = re.compile(
    r"(?P<number>(?<![\w.])[#]?\d+(?:[.,:/\-]\d+)*)(?P<suffix>[^\W\d_]+\d?|%|°[cCfF]?)?(?![\w])"
    r"|(?P<word>[^\W\d][\w]*(?:[.\-][\w]+)*(?:['’][^\W\d_]+)?(?:\(\))?)"
    r"|(?P<mixed>\w+(?:[.\-]\w+)*)"
    r"|(?P<sign>[$€£¥%])|(?P<operator>[<>=!]=?|[+*/^&|~]|(?<=\s)-(?=\s))|(?P<stop>[.?!:;\n])"
)
_IDENTIFIER = re.compile(r"_|[a-z0-9][A-Z]|\w\.\w|[^\W\d]\d|\d[^\W\d]|\(\)$")
_ABBREVIATED = 3  # characters: k, mn, mio; longer multipliers are numbers by themselves
_SUFFIXES = ("s", "n", "an", "ian", "ese", "ish", "i", "es")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Why a hit was refused: the guard, and what stood on either side."""

    guard: Guard
    asked: str
    cached: str

    def __str__(self) -> str:
        return f"{self.guard}: {self.asked or 'nothing'} against {self.cached or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Signature:
    """What the guards see of a question. `words`: everything read, in lower case; `content`: its content words."""

    numbers: tuple[str, ...]
    dates: frozenset[str]
    negations: int
    order: frozenset[str]
    quotes: frozenset[str]
    identifiers: frozenset[str]
    entities: frozenset[str]
    words: frozenset[str]
    content: frozenset[str]
    text: str


@lru_cache(maxsize=8192)
def signature(question: str) -> Signature:
    """Read a question once."""
    quotes = frozenset(next(g for g in m.groups() if g).strip().casefold() for m in _QUOTED.finditer(question))
    reader = _Reader(question)
    return Signature(
        numbers=tuple(sorted(reader.numbers)),
        dates=frozenset(reader.dates),
        negations=reader.negations,
        order=frozenset(reader.order),
        quotes=quotes,
        identifiers=frozenset(reader.identifiers),
        entities=frozenset(reader.entities),
        words=frozenset(reader.words),
        content=frozenset(reader.content),
        text=question.casefold(),
    )


class _Reader:
    """One pass over a question's tokens. A word is filed once: number, date, negation, order, or content."""

    def __init__(self, question: str) -> None:
        self.numbers: list[str] = []
        self.dates: set[str] = set()
        self.negations = 0
        self.order: set[str] = set()
        self.identifiers: set[str] = set()
        self.entities: set[str] = set()
        self.words: set[str] = set()
        self.content: set[str] = set()
        self._direction: str | None = None
        self._starts = True
        self._pending: float | None = None  # a number whose unit may follow
        self._sign = ""
        words = [m["word"] for m in _TOKEN.finditer(question) if m["word"]]
        capitals = sum(w[0].isupper() for w in words)
        self._cased = capitals <= 0.6 * len(words) or len(words) <= 3
        for match in _TOKEN.finditer(question):
            self._token(match)
        self._close_number("")
        roles = [role for role in self.order if " " in role]
        if len(roles) == 1 and roles[0].startswith("from ") and self.words.isdisjoint(lexicon.NAMED_DIRECTIONS):
            self.order.discard(roles[0])  # nothing to be swapped with: customers from Spain are those in Spain

    def _token(self, match: re.Match[str]) -> None:
        if match["number"]:
            self._close_number("")
            self._number(match["number"], match["suffix"] or "")
        elif match["word"]:
            self._word(match["word"])
            return
        elif match["mixed"]:
            self._close_number("")
            self.identifiers.add(match["mixed"].casefold())
            self.words.add(match["mixed"].casefold())
            self._role(match["mixed"].casefold(), named=True)
        elif match["sign"]:
            if self._pending is not None:
                self._close_number(lexicon.UNITS[match["sign"]])
            else:
                self._sign = lexicon.UNITS[match["sign"]]
            return
        elif match["operator"]:
            self.identifiers.add(match["operator"])
        elif match["stop"] and match["stop"] in ".?!\n":
            self._close_number("")
            self._starts = True
            return
        self._starts = False

    def _number(self, text: str, suffix: str) -> None:
        lower = suffix.casefold()
        plain = text.lstrip("#")
        if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?|\d+(\.\d+)?", plain):
            self._pending = float(plain.replace(",", ""))
        else:  # a date, a time, a version, a range: compared as it stands
            self.dates.add(plain + lower)
            self._role(plain, named=True)
            return
        if lower in lexicon.MULTIPLIERS and lower != "m":
            self._pending *= lexicon.MULTIPLIERS[lower]
        elif lower in ("st", "nd", "rd", "th"):
            self._close_number("")
        elif lower:
            self._close_number(lexicon.UNITS.get(lower, lower))

    def _close_number(self, unit: str) -> None:
        if self._pending is not None:
            text = f"{self._pending:g} {unit or self._sign}".strip()
            self.numbers.append(text)
            self._pending, self._sign = None, ""
            if self._direction != "than":  # "more than 5" is "over 5": the number and the order word say it all
                self._role(text, named=True)
            self._direction = None

    def _word(self, raw: str) -> None:
        starts, self._starts = self._starts, False
        word = raw.casefold().replace("’", "'")
        self.words.add(word.removesuffix("'s"))
        if word in lexicon.MULTIPLIERS and self._pending is not None and word != "m":
            self._pending *= lexicon.MULTIPLIERS[word]
            return
        if self._pending is not None and (word in lexicon.UNITS or word in ("am", "pm")):
            self._close_number(lexicon.UNITS.get(word, word))
            return
        self._close_number("")
        if word in lexicon.NUMBER_WORDS:
            self._pending = lexicon.NUMBER_WORDS[word]
        elif word in lexicon.MULTIPLIERS and len(word) > _ABBREVIATED:  # a million
            self._pending = lexicon.MULTIPLIERS[word]
        elif word in lexicon.DATE_WORDS:
            self.dates.add(lexicon.DATE_WORDS[word])
            self._role(lexicon.DATE_WORDS[word], named=True)
        elif word in lexicon.NEGATIONS or word.endswith("n't"):
            self.negations += 1
        elif word in lexicon.ORDER_WORDS:
            self.order.add(lexicon.ORDER_WORDS[word])
        elif word in lexicon.DIRECTIONS or word in lexicon.NAMED_DIRECTIONS:
            self._direction = word
        else:
            self._content(raw, word, starts)

    def _content(self, raw: str, word: str, starts: bool) -> None:
        if _IDENTIFIER.search(raw):
            self.identifiers.add(word.removesuffix("()"))
            self._role(word, named=True)
            return
        word = word.removesuffix("'s").removesuffix("'")
        acronym = len(raw) > 1 and raw.isupper() and self._cased
        capital = raw[0].isupper() and self._cased and word not in lexicon.FILLERS
        named = acronym or (capital and not (starts and (word in lexicon.COMMON_STARTS or _known(word))))
        if named:
            self.entities.add(word)
        if word not in lexicon.FILLERS:
            self.content.add(word)
            self._role(word, named)
        elif word not in ("a", "an", "the") and not (self._direction == "than" and word in lexicon.PREPOSITIONS):
            self._direction = None

    def _role(self, word: str, named: bool) -> None:
        """Pair a word with the direction word right before it: from Paris, than 5."""
        if self._direction is not None and (named or self._direction in lexicon.DIRECTIONS):
            self.order.add(f"{self._direction} {word}")
        self._direction = None


def disagreement(
    asked: Signature, cached: Signature, guards: Iterable[Guard], synonyms: tuple[frozenset[str], ...] = ()
) -> Disagreement | None:
    """The first guard, in the order of `Guard`, by which the two questions differ; None when all agree."""
    wanted = frozenset(guards)
    for guard in Guard:
        if guard in wanted:
            found = _CHECKS[guard](asked, cached) if guard is not Guard.WORDS else _words(asked, cached, synonyms)
            if found is not None:
                return Disagreement(guard, *found)
    return None


_Difference = tuple[str, str] | None


def _difference(asked: Iterable[str], cached: Iterable[str]) -> _Difference:
    a, b = list(asked), list(cached)
    return None if sorted(a) == sorted(b) else (", ".join(sorted(set(a))), ", ".join(sorted(set(b))))


def _numbers(asked: Signature, cached: Signature) -> _Difference:
    return _difference(asked.numbers, cached.numbers)


def _dates(asked: Signature, cached: Signature) -> _Difference:
    return _difference(asked.dates, cached.dates)


def _negation(asked: Signature, cached: Signature) -> _Difference:
    return None if asked.negations == cached.negations else (str(asked.negations), str(cached.negations))


def _order(asked: Signature, cached: Signature) -> _Difference:
    return _difference(asked.order, cached.order)


def _quotes(asked: Signature, cached: Signature) -> _Difference:
    lost = [q for q in asked.quotes - cached.quotes if not _contains(cached.text, q)]
    new = [q for q in cached.quotes - asked.quotes if not _contains(asked.text, q)]
    return (", ".join(lost), ", ".join(new)) if lost or new else None


def _contains(text: str, phrase: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _identifiers(asked: Signature, cached: Signature) -> _Difference:
    return _difference(asked.identifiers - cached.words, cached.identifiers - asked.words)


def _entities(asked: Signature, cached: Signature) -> _Difference:
    lost = _without_partner(asked.entities, cached.words, _related)
    new = _without_partner(cached.entities, asked.words, _related)
    return (", ".join(lost), ", ".join(new)) if lost or new else None


def _words(asked: Signature, cached: Signature, synonyms: tuple[frozenset[str], ...]) -> _Difference:
    def partners(a: str, b: str) -> bool:
        one, other = stems(a), stems(b)
        if one & other or _related(a, b):
            return True
        return any(one & group and other & group for group in (*synonyms, *_near(one)))

    lost = _without_partner(asked.content, cached.content, partners)
    new = _without_partner(cached.content, asked.content, partners)
    return (", ".join(lost), ", ".join(new)) if lost or new else None


def _without_partner(words: frozenset[str], others: frozenset[str], same: Callable[[str, str], bool]) -> list[str]:
    return sorted(w for w in words - others if not any(same(w, other) for other in others))


@lru_cache(maxsize=8192)
def stems(word: str) -> frozenset[str]:
    """The word, and what it may be a form of: cases of case, cities of city, living of live, planned of plan."""
    found = {word, lexicon.IRREGULAR.get(word, word)}
    if len(word) >= 4 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.add(word[:-1])
        if word.endswith("es"):
            found.add(word[:-2])
        if word.endswith("ies"):
            found.add(word[:-3] + "y")
    for ending in ("ing", "ed"):
        base = word.removesuffix(ending)
        if base != word and len(base) >= 3:
            found |= {base, base + "e"}
            if base[-1] == base[-2]:
                found.add(base[:-1])
            if base.endswith("i"):
                found.add(base[:-1] + "y")
    return frozenset(found)


def _related(a: str, b: str) -> bool:
    """One word is the other with an ending of origin or plural: Africa and African, Canada and Canadian."""
    short, long = sorted((a, b), key=len)
    if long.startswith(short):
        return long[len(short) :] in ("", *_SUFFIXES)
    return len(short) > 3 and short[-1] in "aey" and long in (short[:-1] + "ian", short[:-1] + "ish", short[:-1] + "an")


_GROUPS: dict[str, list[frozenset[str]]] = {}
for _group in lexicon.SYNONYMS:
    for _member in _group:
        _GROUPS.setdefault(_member, []).append(_group)


def _near(words: frozenset[str]) -> list[frozenset[str]]:
    return [group for word in words for group in _GROUPS.get(word, ())]


def _known(word: str) -> bool:
    return not stems(word).isdisjoint(_GROUPS) or word in lexicon.UNITS


_CHECKS: dict[Guard, Callable[[Signature, Signature], _Difference]] = {
    Guard.NUMBERS: _numbers,
    Guard.DATES: _dates,
    Guard.NEGATION: _negation,
    Guard.ORDER: _order,
    Guard.QUOTES: _quotes,
    Guard.IDENTIFIERS: _identifiers,
    Guard.ENTITIES: _entities,
}
