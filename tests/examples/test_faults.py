"""What the program sees of a candidate that went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.text_to_sql.database import run_sql
from examples.text_to_sql.faults import FAULTS, TRUST, doubt
from examples.text_to_sql.geography import build
from examples.text_to_sql.linking import Linker, restore
from examples.text_to_sql.places import PlaceIndex


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("geography") / "geography.db")


@pytest.fixture(scope="module")
def linker(database: Path) -> Linker:
    return Linker(PlaceIndex(database))


@pytest.mark.parametrize(
    ("question", "written", "fault"),
    [
        ("capital of Japan", "SELECT capital FROM countries WHERE code = country1", ""),
        ("cities in Japan over a million", "SELECT name FROM cities WHERE country = country1", "unused"),
        (
            "cities in Japan over 2 billion",
            "SELECT name FROM cities WHERE country = country1 AND population > number1",
            "empty",
        ),
        ("What money do they use in Vietnam?", "SELECT tld FROM countries WHERE code = country1", "missing"),
        (
            "average population of German cities",
            "SELECT SUM(population) FROM cities WHERE country = country1",
            "missing",
        ),
        (
            "How many people live in the ten biggest cities of China?",
            "SELECT SUM(population) FROM cities WHERE country = country1 ORDER BY population DESC LIMIT number1",
            "missing",
        ),
        ("How many cities are in Kenya?", "SELECT name FROM cities WHERE country = country1", "kind"),
        ("Which countries use the euro?", "SELECT COUNT(*) FROM countries WHERE currency = currency1", "kind"),
        ("Which cities are in Kenya?", "SELECT COUNT(*) FROM cities WHERE country = country1", "kind"),
        ("which place is Kenya", "SELECT name FROM countries WHERE code = country1", "echo"),
        ("Which country has the code KE?", "SELECT name FROM countries WHERE code = country1", ""),
        (
            "Which is larger, Spain or France?",
            "SELECT name FROM countries WHERE code IN (country1, country2) ORDER BY area_km2 DESC LIMIT 1",
            "",
        ),
    ],
)
def test_doubts(database: Path, linker: Linker, question: str, written: str, fault: str) -> None:
    linked = linker.link(question)
    rows = run_sql(database, restore(written, linked.values)).rows
    assert doubt(linked, written, rows) == fault


def test_trust_is_told_for_every_fault_that_may_vote() -> None:
    assert set(TRUST) == {"", *FAULTS} - {"placeholder", "error"}
    assert all(0 < TRUST[fault] < TRUST[""] for fault in TRUST if fault)
