"""The index of names in the database: countries, states, continents, cities, currencies, and how to tell them apart.

Built once from the database and read-only afterwards. Never looks at a question's meaning, only at a name's neighbours.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from examples.text_to_sql import aliases
from examples.text_to_sql.words import Word, fold, word_list

MAX_WORDS = 6
_WELL_KNOWN_CITY = 100_000  # people: a lower-case word alone is taken for a city of at least this size


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing a name may stand for. `literal` is its key in the database, `names` its spelling in given columns."""

    kind: str
    literal: str
    shown: str
    weight: float
    names: tuple[tuple[str, str], ...] = ()


class PlaceIndex:
    """Names in folded form to what they may stand for."""

    def __init__(self, database: Path) -> None:
        """Read the names from `database`. Raises `sqlite3.Error` where it is not the geography database."""
        self._entries: dict[str, list[Entry]] = {}
        self._prefixes: set[str] = set()
        self._country_codes: dict[str, Entry] = {}
        self._state_codes: dict[str, Entry] = {}
        self._homes: dict[str, frozenset[str]] = {}
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        try:
            self._read_countries(connection)
            self._read_states(connection)
            self._read_currencies(connection)
            self._read_cities(connection)
        finally:
            connection.close()
        self._add_aliases()
        self._misspellings = _deletions(
            {name: entries[0] for name, entries in self._entries.items() if _is_worth_correcting(name, entries[0])}
        )

    def find(self, words: list[Word], position: int) -> tuple[int, list[Entry]] | None:
        """The longest name that begins at `position`: its end and its readings, likeliest first."""
        code = self._code(words, position)
        if code is not None:
            return position + 1, code
        for end in self._ends(words, position):
            key = _key(words, position, end)
            entries = self._entries.get(key) or (self._entries.get(_singular(key)) if end - position <= 3 else None)
            if entries:
                context = _Context(words, position, end, self, self._homes)
                likely = [entry for entry in entries if context.plausible(entry)]
                if likely:
                    return end, sorted(likely, key=context.score, reverse=True)
        return None

    def nearest(self, word: Word) -> Entry | None:
        """The country, state, continent or great city whose name is one slip away from `word`, if only one is."""
        text = word.text
        if word.form != "word" or len(text) < 6 or text in aliases.COMMON_WORDS:
            return None
        near = {entry.literal: entry for form in _shortened(text) for entry in self._misspellings.get(form, ())}
        return next(iter(near.values())) if len(near) == 1 else None

    def is_home(self, name: str, homes: frozenset[str]) -> bool:
        """Is `name` a country or state among `homes` (codes)?"""
        return any(e.kind in ("country", "state") and e.literal in homes for e in self._entries.get(name, ()))

    def _ends(self, words: list[Word], position: int) -> list[int]:
        """Where names that begin at `position` may end, longest first; stops at the first word no name goes on with."""
        ends = []
        key = ""
        for end in range(position + 1, min(len(words), position + MAX_WORDS) + 1):
            key = f"{key} {words[end - 1].text}".strip()
            ends.append(end)
            if key not in self._prefixes or words[end - 1].possessive:
                break
        return ends[::-1]

    def _code(self, words: list[Word], position: int) -> list[Entry] | None:
        """Two capitals that are an ISO or postal code."""
        raw = words[position].raw
        form = words[position].form
        if len(raw) != 2 or not raw.isupper() or form not in ("word", "quoted"):
            return None
        if form == "word" and raw in ("UK", "US", "LA", "DC", "SF"):
            return None
        before = [word.text for word in words[max(0, position - 6) : position]]
        after = [word.text for word in words[position + 1 : position + 4]]
        spoken = any(text in ("code", "iso", "codes", "abbreviation", "abbreviated") for text in before + after)
        if not spoken and (raw in ("IN", "OR", "NO", "IS", "ME", "SO", "TO", "AS", "AT", "BY", "DO", "BE", "IT", "AM")):
            return None
        country, state = self._country_codes.get(raw), self._state_codes.get(raw)
        of_state = any(text in ("state", "states") for text in before + after)
        of_country = any(text in ("country", "countries", "nation") for text in before + after)
        found = [entry for entry in (state, country) if entry is not None]
        if (spoken and not of_state) or of_country:
            found.reverse()
        return found or None

    def _add(self, name: str, entry: Entry) -> None:
        key = fold(name)
        if not key:
            return
        entries = self._entries.setdefault(key, [])
        if all((entry.kind, entry.literal) != (other.kind, other.literal) for other in entries):
            entries.append(entry)
        pieces = key.split()
        for count in range(1, len(pieces)):
            self._prefixes.add(" ".join(pieces[:count]))

    def _read_countries(self, connection: sqlite3.Connection) -> None:
        for code, name in connection.execute("SELECT code, name FROM continents"):
            self._add(name, Entry("continent", code, name, 11, (("name", name),)))
        for code, name in connection.execute("SELECT code, name FROM countries"):
            entry = Entry("country", code, name, 10, (("name", name),))
            self._country_codes[code] = entry
            for spelled in _spellings(name):
                self._add(spelled, entry)

    def _read_states(self, connection: sqlite3.Connection) -> None:
        for code, name in connection.execute("SELECT code, name FROM states"):
            entry = Entry("state", code, name, 9, (("name", name),))
            self._state_codes[code] = entry
            self._add(name, entry)
            self._add(f"{name} state", entry)
            self._add(f"state of {name}", entry)

    def _read_currencies(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT DISTINCT currency, currency_code FROM countries WHERE currency IS NOT NULL")
        for name, code in rows:
            entry = Entry("currency", name, name, 8)
            self._add(name, entry)
            self._add(f"{name}s", entry)
            self._add(code, Entry("money", code, code, 8 if len(code) == 3 else 0))

    def _read_cities(self, connection: sqlite3.Connection) -> None:
        capitals = {
            fold(row[0]): row[0] for row in connection.execute("SELECT capital FROM countries WHERE capital > ''")
        }
        homes: dict[str, set[str]] = {}
        rows = connection.execute("SELECT name, country, state, population FROM cities ORDER BY population DESC")
        for name, country, state, population in rows:
            key = fold(name)
            homes.setdefault(key, set()).update({country, state} - {None})
            names = (("name", name), ("capital", capitals.get(key, name)))
            self._add(name, Entry("city", name, name, 2 + math.log10(population + 10) / 2, names))
        for key, name in capitals.items():
            if key not in self._entries:
                self._add(name, Entry("city", name, name, 5, (("name", name), ("capital", name))))
        self._homes = {key: frozenset(places) for key, places in homes.items()}

    def _add_aliases(self) -> None:
        for name, code in (aliases.COUNTRY_ALIASES | aliases.DEMONYMS).items():
            self._add(name, self._country_codes[code])
        continents = {e.literal: e for entries in self._entries.values() for e in entries if e.kind == "continent"}
        for name, code in aliases.CONTINENT_ALIASES.items():
            self._add(name, continents[code])
        for name, code in aliases.CURRENCY_CODE_ALIASES.items():
            for spelled in (name, f"{name}s"):
                self._add(spelled, Entry("money", code, code, 12))
        for name, currency in aliases.CURRENCY_ALIASES.items():
            for spelled in (name, f"{name}s"):
                self._add(spelled, Entry("currency", currency, currency, 9))
        for name, zone in aliases.TIMEZONE_ALIASES.items():
            self._add(name, Entry("tz", zone, zone, 12))
        for name, city in aliases.CITY_ALIASES.items():
            known = next((e for e in self._entries.get(fold(city), []) if e.kind == "city"), None)
            if known is not None:
                self._add(name, known)


def _spellings(name: str) -> list[str]:
    """A country's name and what people make of it: without 'the', with 'st' for 'saint', without 'islands'."""
    found = [name, name.removeprefix("The ")]
    if name.startswith("Saint "):
        found += ["St " + name.removeprefix("Saint ")]
    if " and " in name:
        found += [name.replace(" and ", " & ")]
    return (
        [*found, "the " + found[1]]
        if name.endswith(("Islands", "Territory", "Republic", "Emirates", "Kingdom"))
        else found
    )


def _key(words: list[Word], start: int, end: int) -> str:
    return " ".join(word.text for word in words[start:end])


def _singular(key: str) -> str:
    return key[:-1] if len(key) > 4 and key.endswith("s") else key


_PLACE_LEADS = frozenset(
    word_list("in of than as from like to for versus around near and or exceeds is not named called does")
)
_CITY_LEADS = frozenset(word_list("city town capital municipality"))
_MANY = frozenset(word_list("cities city towns town places settlements population many states largest biggest"))
_COUNTRY_WORDS = frozenset(
    word_list("country countries nation nations continent currency capital area phone dialing calling code tld")
)
_US = frozenset(["us", "u s", "usa", "american", "united states", "the united states", "the us"])
_SAME = frozenset(word_list("north south east west timezone zone latitude longitude hometown located"))


@dataclass(frozen=True, slots=True)
class _Context:
    """The neighbours of one name in a question: they tell a state from a country, and a city from a word."""

    words: list[Word]
    start: int
    end: int
    places: PlaceIndex
    homes: dict[str, frozenset[str]]

    def plausible(self, entry: Entry) -> bool:
        """Can this name mean `entry` here at all? Words that are no names are common among the names of cities."""
        key = _key(self.words, self.start, self.end)
        first = self.words[self.start]
        if entry.kind == "money" and len(key) == 3:
            return (first.raw.isupper() and not self._shouted()) or self._before(1) in ("code", "currency")
        if entry.kind == "country" and key in _US and self._after(1) in ("state", "states"):
            return False
        if entry.kind == "country" and key == "us":
            return first.raw == "US" or self._before(1) in ("the", "in", "of") or self._after(1) in (
                "cities", "city", "states", "state"
            )  # fmt: skip
        if entry.kind in ("country", "currency") and key in (
            "car",
            "real",
            "won",
            "sol",
            "rand",
            "pound",
            "som",
            "lao",
        ):
            return (first.capital and not first.first) or self._before(1) in ("the", "use", "uses", "using", "called")
        if entry.kind != "city":
            return not (entry.kind == "country" and key in ("the states", "the us") and self._before(1) == "all")
        return self._plausible_city(entry, key)

    def _plausible_city(self, entry: Entry, key: str) -> bool:
        pieces = key.split()
        first = self.words[self.start]
        after_lead = self._before(1) in _PLACE_LEADS or self._before(1) in _CITY_LEADS
        if first.form == "quoted":
            return True
        if key in ("la", "dc", "sf"):
            return first.raw.isupper()
        if all(piece in aliases.COMMON_WORDS for piece in pieces):
            named = self._before(1) in ("in", "of", "than", "as", "city", "called", "named", "from", "is", "and")
            return first.capital and not self._title() and named
        if first.capital and not self._title():
            return True
        if len(pieces) > 1:
            return pieces[0] not in ("the", "of", "in") or entry.weight >= 2 + math.log10(_WELL_KNOWN_CITY) / 2
        if len(key) <= 3 and not after_lead:
            return False
        return after_lead or entry.weight >= 2 + math.log10(_WELL_KNOWN_CITY) / 2

    def score(self, entry: Entry) -> float:
        score = entry.weight
        before, around = self._before(1), self._nearby()
        if entry.kind == "city":
            if before in _CITY_LEADS or (self._before(2) in _CITY_LEADS and before in ("of", "called", "named")):
                score += 8
            if self._before(2) == "capital" and before == "of":
                score -= 6
            if self._lies_in_next():
                score += 8
            if around & _SAME and not around & {"cities", "countries"}:
                score += 3
            if entry.shown == "New York City" or entry.shown == "Washington":
                score += self._city_or_state(before)
        if entry.kind == "state":
            if (
                self._before(1) == "state"
                or self._after(1) in ("state", "cities", "city", "towns")
                or around & {"state"}
            ):
                score += 4
            if self._comma_city():
                score += 6
            if self._other_state():
                score += 3
        if entry.kind == "country" and around & _COUNTRY_WORDS:
            score += 2
        return score

    def _city_or_state(self, before: str) -> float:
        """'Cities in New York' asks of the state, 'the population of New York' of the city."""
        texts = {word.text for word in self.words}
        return 0.0 if before in ("in", "from", "of") and texts & {"cities", "towns", "city", "state"} & texts else 6.0

    def _before(self, distance: int) -> str:
        return self.words[self.start - distance].text if self.start >= distance else ""

    def _after(self, distance: int) -> str:
        index = self.end + distance - 1
        return self.words[index].text if index < len(self.words) else ""

    def _nearby(self) -> set[str]:
        return {word.text for word in self.words}

    def _shouted(self) -> bool:
        """Is the whole question in capitals, so that they tell nothing?"""
        return all(word.raw.isupper() for word in self.words if word.form == "word")

    def _title(self) -> bool:
        """Is capitalisation meaningless here: the question's first word, or nearly all words capitalised?"""
        if self.words[self.start].first:
            return True
        others = [word for word in self.words if word.form == "word"]
        return len(others) > 3 and sum(word.capital for word in others) > 0.8 * len(others)

    def _lies_in_next(self) -> bool:
        """'Portland, Oregon': is the name followed by a place in which a city of that name lies?"""
        if self.end >= len(self.words):
            return False
        start = self.end + (self.words[self.end].text == "in")
        if start == self.end and not self.words[self.end].after_comma:
            return False
        homes = self.homes.get(_key(self.words, self.start, self.end), frozenset())
        return any(self.places.is_home(_key(self.words, start, end), homes) for end in range(start + 1, start + 4))

    def _comma_city(self) -> bool:
        """'Atlanta, Georgia': is the name behind a comma that follows a single capitalised name?"""
        return self.start > 0 and self.words[self.start].after_comma and self.words[self.start - 1].capital

    def _other_state(self) -> bool:
        return any(
            word.text in ("state", "usa", "alabama", "florida", "texas", "ohio", "california") for word in self.words
        )


def _is_worth_correcting(name: str, entry: Entry) -> bool:
    great = entry.kind == "city" and entry.weight >= 2 + math.log10(1_000_000) / 2
    return len(name) >= 6 and " " not in name and (entry.kind in ("country", "state", "continent") or great)


def _deletions(names: dict[str, Entry]) -> dict[str, tuple[Entry, ...]]:
    """Every name with at most one letter left out: names one slip apart share a form (Garbe's SymSpell, 2012)."""
    found: dict[str, tuple[Entry, ...]] = {}
    for name, entry in names.items():
        for form in _shortened(name):
            found[form] = (*found.get(form, ()), entry)
    return found


def _shortened(word: str) -> set[str]:
    return {word} | {word[:index] + word[index + 1 :] for index in range(len(word))}
