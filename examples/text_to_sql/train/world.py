"""Draws real values from the database and words them as people would.

Owns the choice of values for questions. Never writes SQL of a question.
"""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

from examples.text_to_sql import aliases
from examples.text_to_sql.train.speech import speak_number, speak_ordinal
from examples.text_to_sql.train.sql import Val
from examples.text_to_sql.words import word_list


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class World:
    """Real names by kind, weighted as people ask for them (great places more often)."""

    def __init__(self, database: Path) -> None:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        rows = connection.execute
        self.continents: list[tuple[str, str]] = rows("SELECT code, name FROM continents").fetchall()
        self.countries: list[tuple[str, str]] = rows(
            "SELECT code, name FROM countries ORDER BY population DESC"
        ).fetchall()
        self.states: list[tuple[str, str]] = rows("SELECT code, name FROM states").fetchall()
        self.cities: list[str] = [r[0] for r in rows("SELECT name FROM cities ORDER BY population DESC LIMIT 4000")]
        self.currencies: list[str] = [r[0] for r in rows("SELECT DISTINCT currency FROM countries WHERE currency > ''")]
        self.money: list[str] = [r[0] for r in rows("SELECT DISTINCT currency_code FROM countries WHERE currency > ''")]
        self.zones: list[str] = [r[0] for r in rows("SELECT DISTINCT timezone FROM cities")]
        self.tlds: list[str] = [r[0] for r in rows("SELECT DISTINCT tld FROM countries WHERE tld > ''")]
        self.phones: list[str] = [r[0] for r in rows("SELECT phone_code FROM countries WHERE phone_code GLOB '[1-9]*'")]
        connection.close()
        self._by_country: dict[str, list[str]] = {}
        for name, code in aliases.COUNTRY_ALIASES.items():
            self._by_country.setdefault(code, []).append(name)
        self._demonyms: dict[str, list[str]] = {}
        for name, code in aliases.DEMONYMS.items():
            self._demonyms.setdefault(code, []).append(name)

    def country(self, rng: random.Random) -> Val:
        code, name = self.countries[int(len(self.countries) * rng.random() ** 1.7)]
        spoken = name
        if rng.random() < 0.12 and code in self._by_country:
            spoken = rng.choice(self._by_country[code])
            spoken = spoken.upper() if len(spoken) <= 3 else spoken.title()
        if spoken in ("United States", "United Kingdom", "Philippines", "Bahamas", "United Arab Emirates", "Maldives"):
            spoken = rng.choice(["the ", ""]) + spoken
        return Val("country", _quote(code), spoken)

    def demonym(self, rng: random.Random) -> Val:
        code = rng.choice(list(self._demonyms))
        return Val("country", _quote(code), rng.choice(self._demonyms[code]).title())

    def continent(self, rng: random.Random) -> Val:
        code, name = rng.choice(self.continents[:6])
        return Val("continent", _quote(code), name)

    def continental(self, rng: random.Random) -> Val:
        name, code = rng.choice([pair for pair in aliases.CONTINENT_ALIASES.items() if pair[0].endswith("n")])
        return Val("continent", _quote(code), name.title())

    def state(self, rng: random.Random) -> Val:
        code, name = rng.choice(self.states)
        return Val("state", _quote(code), name)

    def city(self, rng: random.Random) -> Val:
        name = self.cities[int(len(self.cities) * rng.random() ** 2)]
        return Val("city", _quote(name), name)

    def currency(self, rng: random.Random) -> Val:
        name = (
            rng.choice(["Euro", "Dollar", "Pound", "Franc", "Peso", "Dinar"])
            if rng.random() < 0.5
            else rng.choice(self.currencies)
        )
        spoken = name.lower() if rng.random() < 0.6 else name
        return Val("currency", _quote(name), spoken)

    def money_code(self, rng: random.Random) -> Val:
        if rng.random() < 0.5:
            name, code = rng.choice(list(aliases.CURRENCY_CODE_ALIASES.items()))
            return Val("money", _quote(code), name)
        code = rng.choice(self.money)
        return Val("money", _quote(code), code)

    def zone(self, rng: random.Random) -> Val:
        zone = rng.choice(self.zones)
        return Val("tz", _quote(zone), zone)

    def tld(self, rng: random.Random) -> Val:
        tld = rng.choice(self.tlds)
        return Val("tld", _quote(tld), tld)

    def phone(self, rng: random.Random) -> Val:
        phone = rng.choice(self.phones)
        return Val("phone", _quote(phone), f"+{phone}")

    def text(self, rng: random.Random, letters: bool) -> Val:
        if letters or rng.random() < 0.6:
            letter = rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        else:
            letter = rng.choice(
                word_list("San New Saint Al El burg ville ton land stan ia Los Port Bad ing Guinea Island North Ka Mar")
            )
        quoted = rng.choice([letter, f'"{letter}"', f"'{letter}'"])
        return Val("text", _quote(letter), quoted)

    def number(self, rng: random.Random, low: float, high: float) -> Val:
        """A round number between `low` and `high`, small ones as likely as great ones (log-uniform)."""
        value = low * (high / low) ** rng.random()
        digits = 10 ** max(0, len(str(int(value))) - rng.choice([1, 1, 1, 2]))
        rounded = max(1, int(value // digits * digits))
        return Val("number", str(rounded), speak_number(rng, rounded))

    def rank(self, rng: random.Random) -> Val:
        rank = min(rng.choice([2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10]), 10)
        return Val("rank", str(rank - 1), speak_ordinal(rng, rank))
