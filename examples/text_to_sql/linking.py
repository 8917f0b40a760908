"""Links a question to the database: replaces values and numbers by typed placeholders, and restores them in SQL.

Owns the question's normal form (`Linked.text`) and the meaning of placeholders. Never runs SQL and never calls a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from examples.text_to_sql.numerals import Number, read_number, read_ordinal
from examples.text_to_sql.places import Entry, PlaceIndex
from examples.text_to_sql.plain import known_words, plain
from examples.text_to_sql.words import Word, split_words, word_list

KINDS = (
    "country", "state", "continent", "city", "currency", "money", "tz", "tld", "phone", "text", "number", "rank",
)  # fmt: skip
"""Kinds of placeholder: `money` is a currency code, `rank` an ordinal's offset ("third": 2), `text` part of a name."""
PER_KIND = 4
"""Placeholders of one kind are numbered from 1 to this; a question that names more keeps the rest as words."""
MAX_QUESTION_CHARS = 2000


class LinkError(ValueError):
    """A question that cannot be linked, or SQL whose placeholders the question does not have."""


@dataclass(frozen=True, slots=True)
class Value:
    """What a placeholder stands for: `literal` in SQL, but `names[column]` where it is compared with that column."""

    kind: str
    literal: str
    names: tuple[tuple[str, str], ...] = ()
    shown: str = ""

    def sql(self, column: str) -> str:
        """The SQL literal for a comparison with `column` (without its table's name)."""
        return dict(self.names).get(column, self.literal)


@dataclass(frozen=True, slots=True)
class Linked:
    """A question in normal form with placeholders, and their values.

    `alternatives` are other readings, likeliest first: in plain words (strange words corrected or left out), and with
    ambiguous names taken for something else.
    """

    text: str
    values: Mapping[str, Value]
    alternatives: tuple[Linked, ...] = ()


@dataclass(frozen=True, slots=True)
class _Span:
    """One found value: words [start, end) and its readings, best first (None: no value after all)."""

    start: int
    end: int
    readings: tuple[Value | None, ...]


class Linker:
    """Finds values of one database in questions. All it holds is read-only: one serves any number of threads."""

    def __init__(self, places: PlaceIndex, known: frozenset[str] | None = None) -> None:
        """Link to `places`; plain readings have only `known` words (by default those the bundled model has seen)."""
        self._places = places
        self._known = known_words() if known is None else known

    def link(self, question: str, max_alternatives: int = 4) -> Linked:
        """Link `question`. Raises `LinkError` for an empty or over-long question."""
        if not question.strip():
            raise LinkError("the question is empty: ask something about countries, cities, states or continents")
        if len(question) > MAX_QUESTION_CHARS:
            raise LinkError(f"the question has {len(question)} characters; at most {MAX_QUESTION_CHARS} are read")
        words = split_words(question)
        spans = self._spans(words)
        best = [span.readings[0] for span in spans]
        text, values = _render(words, spans, best)
        others: list[Linked] = []
        seen = {text + repr(values)}
        if max_alternatives and (in_plain_words := plain(text, self._known)) != text:
            others.append(Linked(in_plain_words, values))
            seen.add(in_plain_words + repr(values))
        for depth in (1, 2):
            for index, span in enumerate(spans):
                if len(span.readings) > depth and len(others) < max_alternatives:
                    choice = [*best[:index], span.readings[depth], *best[index + 1 :]]
                    other_text, other_values = _render(words, spans, choice)
                    key = other_text + repr(other_values)
                    if key not in seen:
                        seen.add(key)
                        others.append(Linked(other_text, other_values))
        return Linked(text, values, tuple(others))

    def _spans(self, words: list[Word]) -> list[_Span]:
        texts = [word.text for word in words]
        spans: list[_Span] = []
        position = 0
        while position < len(words):
            span = (
                _quoted_or_typed(words, position)
                or self._place(words, position)
                or _number(texts, position)
                or self._misspelt(words, position)
            )
            if span is None:
                position += 1
            else:
                spans.append(span)
                position = span.end
        return _share_magnitudes(texts, spans)

    def _place(self, words: list[Word], position: int) -> _Span | None:
        found = self._places.find(words, position)
        if found is None:
            return None
        end, entries = found
        readings: tuple[Value | None, ...] = tuple(_place_value(entry) for entry in entries)
        if entries[0].kind == "city" and end - position == 1 and len(entries) == 1:
            readings = (*readings, None)
        return _Span(position, end, readings)

    def _misspelt(self, words: list[Word], position: int) -> _Span | None:
        entry = self._places.nearest(words[position])
        return None if entry is None else _Span(position, position + 1, (_place_value(entry), None))


def quote(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _place_value(entry: Entry) -> Value:
    names = tuple((column, quote(name)) for column, name in entry.names)
    return Value(entry.kind, quote(entry.literal), names, entry.shown)


_STARTS = frozenset(word_list("start starts starting begin begins beginning end ends ending finish finishes"))
_HOLDS = frozenset(word_list("contain contains containing include includes including letter letters prefix suffix"))
_BETWEEN = frozenset(word_list("with in by the a an letter letters word words string text prefix suffix on character"))


_AFTER_LETTER = frozenset(word_list("code codes country iso abbreviation abbreviations state name names in of"))


def _quoted_or_typed(words: list[Word], position: int) -> _Span | None:
    """Values known by their form: quoted text, pieces of names ("starting with San"), zones, domains, phone codes."""
    word = words[position]
    if word.form in ("tz", "tld", "phone"):
        literal = {"tz": word.raw, "tld": word.raw.lower(), "phone": word.raw.lstrip("+")}[word.form]
        return _Span(position, position + 1, (Value(word.form, quote(literal), (), literal),))
    piece = _is_name_piece(words, position)
    if piece or (word.form == "quoted" and len(word.raw) <= 2):
        return _Span(position, position + 1, (Value("text", quote(word.raw), (), word.raw),))
    return None


def _is_name_piece(words: list[Word], position: int) -> bool:
    """Does a phrase such as 'starting with the letter …' or 'containing …' lead up to this word?"""
    word = words[position]
    if word.form not in ("quoted", "word") or (word.form == "word" and word.text in _BETWEEN and len(word.raw) > 1):
        return False
    back = position - 1
    passed: list[str] = []
    while back >= 0 and words[back].text in _BETWEEN and words[back].form == "word" and len(passed) < 4:
        passed.append(words[back].text)
        back -= 1
    lead = words[back].text if back >= 0 else ""
    if "letter" in passed or "letters" in passed or "prefix" in passed or "suffix" in passed:
        return len(word.raw) <= 12 and word.text not in _AFTER_LETTER
    if lead in _STARTS:
        return "with" in passed or "in" in passed or "by" in passed
    if lead in ("contain", "contains", "containing"):
        return word.form == "quoted" or "word" in passed or "string" in passed or "text" in passed or word.text not in (
            "more", "at", "less", "fewer", "over", "any", "no", "most", "least", "many", "only", "cities", "countries"
        )  # fmt: skip
    return False


def _number(texts: list[str], position: int) -> _Span | None:
    rank = read_ordinal(texts[position])
    if rank is not None and texts[position + 1 : position + 2] != ["of"]:
        return _Span(position, position + 1, (Value("rank", str(rank - 1), (), texts[position]),))
    number = read_number(texts, position)
    if number is None or texts[position + 1 : position + 2] in (["letter"], ["letters"], ["digit"], ["character"]):
        return None
    return _Span(position, position + number.words, (_number_value(number.value),))


def _number_value(value: float) -> Value:
    literal = str(int(value)) if value == int(value) else repr(value)
    return Value("number", literal, (), literal)


def _share_magnitudes(texts: list[str], spans: list[_Span]) -> list[_Span]:
    """'Between 5 and 10 million' means 5 million: a bare number takes the magnitude of the one it is joined to."""
    for index in range(len(spans) - 1):
        left, right = spans[index], spans[index + 1]
        if texts[left.end : right.start] not in (["and"], ["to"], ["or"], []):
            continue
        if texts[max(0, left.start - 3) : left.start].count("top"):
            continue
        first, second = read_number(texts, left.start), read_number(texts, right.start)
        if (
            first
            and second
            and _bare(first)
            and second.magnitude > 1
            and first.value * second.magnitude <= second.value
        ):
            shared = _number_value(first.value * second.magnitude)
            spans[index] = _Span(left.start, left.end, (shared,))
    return spans


def _bare(number: Number) -> bool:
    return number.magnitude == 1 and 0 < number.value < 1000


def _render(words: list[Word], spans: list[_Span], choice: list[Value | None]) -> tuple[str, dict[str, Value]]:
    """The question's words with the chosen values as placeholders; an equal place is given one placeholder."""
    values: dict[str, Value] = {}
    counts: dict[str, int] = dict.fromkeys(KINDS, 0)
    pieces: list[str] = []
    position = 0
    for span, value in zip(spans, choice, strict=True):
        pieces += [word.text for word in words[position : span.start]]
        position = span.end
        if value is None or counts[value.kind] >= PER_KIND:
            pieces += [word.text for word in words[span.start : span.end]]
            continue
        known = next((name for name, other in values.items() if other == value and value.kind != "number"), None)
        if known is None:
            counts[value.kind] += 1
            known = f"{value.kind}{counts[value.kind]}"
            values[known] = value
        pieces.append(known)
        if words[span.end - 1].possessive:
            pieces.append("'s")
    pieces += [word.text for word in words[position:]]
    return " ".join(piece for piece in pieces if piece), values


_PLACEHOLDER = re.compile(rf"'?\b({'|'.join(KINDS)})(\d)\b'?")
_COLUMN_BEFORE = re.compile(
    r"(\w+)\s*(?:(?:=|<>|!=|<=|>=|<|>|\bLIKE\b)|(?:\bNOT\s+)?\bIN\s*\((?:\s*'?\w+'?\s*,)*)\s*$", re.IGNORECASE
)
"""The column that the next value is compared with, alone or in a list."""


def restore(sql: str, values: Mapping[str, Value]) -> str:
    """Put the values back into `sql`. A place becomes its code, or its name where it is compared with a name column.

    Raises `LinkError` where the SQL uses a placeholder that the question does not have.
    """
    pieces: list[str] = []
    position = 0
    for found in _PLACEHOLDER.finditer(sql):
        value = values.get(found[1] + found[2])
        if value is None:
            has = ", ".join(values) or "none"
            raise LinkError(f"the SQL uses {found[1] + found[2]}, which the question does not have (it has: {has})")
        before = sql[: found.start()]
        column = _COLUMN_BEFORE.search(before)
        pieces += [sql[position : found.start()], value.sql(column[1].lower() if column else "")]
        position = found.end()
    return "".join(pieces) + sql[position:]


def unused(sql: str, values: Mapping[str, Value]) -> tuple[str, ...]:
    """The question's placeholders that `sql` (with placeholders) leaves out: a sign that it answers something else."""
    used = {found[1] + found[2] for found in _PLACEHOLDER.finditer(sql)}
    return tuple(name for name in values if name not in used)


def placeholders(values: Iterable[str]) -> list[str]:
    """The placeholder names in a fixed order, for prompts and grammars."""
    return sorted(values, key=lambda name: (KINDS.index(name.rstrip("0123456789")), name))


__all__ = ["KINDS", "LinkError", "Linked", "Linker", "Value", "placeholders", "quote", "restore", "unused"]
