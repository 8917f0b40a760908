"""The bundled model: its size, its files, and that it answers plain questions rightly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from examples.text_to_sql.evaluate import execution_match
from examples.text_to_sql.geography import build
from examples.text_to_sql.linking import KINDS, Linker
from examples.text_to_sql.places import PlaceIndex
from examples.text_to_sql.train.offline import Writer, attempt, repair_prompt, run_program
from examples.text_to_sql.train.tokenizer import ANSWER, EOS, RESERVED, TASKS, prompt

FOLDER = Path(__file__).parents[2] / "orchestrator" / "bundled" / "geo-sql"
QUESTIONS = {
    "What is the capital of Japan?": "SELECT 'Tokyo'",
    "How many countries use the Euro?": "SELECT COUNT(*) FROM countries WHERE currency = 'Euro'",
    "List the five largest cities in Texas": (
        "SELECT name FROM cities WHERE state = 'TX' ORDER BY population DESC LIMIT 5"
    ),
    "Which African country has the most cities over a million people?": (
        "SELECT k.name FROM cities c JOIN countries k ON k.code = c.country WHERE k.continent = 'AF' "
        "AND c.population > 1000000 GROUP BY k.code ORDER BY COUNT(*) DESC LIMIT 1"
    ),
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("geography") / "geography.db")


@pytest.fixture(scope="module")
def writer() -> Writer:
    torch.set_num_threads(1)
    return Writer(FOLDER)


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 11_500_000


def test_placeholders_and_control_tokens_are_single_tokens(writer: Writer) -> None:
    for kind in KINDS:
        assert len(writer.tokenizer.encode(f" {kind}1").ids) == 1, kind
    for token in (EOS, ANSWER, *TASKS, *RESERVED):
        assert writer.tokenizer.token_to_id(token) is not None


def test_plain_questions_are_answered_rightly_in_one_shot(writer: Writer, database: Path) -> None:
    linker = Linker(PlaceIndex(database))
    links = [linker.link(question) for question in QUESTIONS]
    written = writer.write([prompt("<sql>", linked.text) for linked in links], 0.0, 0)
    for linked, raw, gold in zip(links, written, QUESTIONS.values(), strict=True):
        assert execution_match(database, gold, attempt(database, linked, raw).sql, " LIMIT 5" in gold), raw


def test_repair_mends_a_value_left_out(writer: Writer, database: Path) -> None:
    linked = Linker(PlaceIndex(database)).link("How many cities in Kenya have over 100,000 people?")
    bad = "SELECT COUNT(*) FROM cities WHERE country = country1"
    assert attempt(database, linked, bad).fault == "unused"
    (mended,) = writer.write([repair_prompt(linked.text, bad, "unused")], 0.0, 0)
    assert mended == "SELECT COUNT(*) FROM cities WHERE country = country1 AND population > number1"


def test_the_program_as_simulated_agrees(writer: Writer, database: Path) -> None:
    linker = Linker(PlaceIndex(database))
    answers = run_program(writer, linker, database, list(QUESTIONS), candidates=3, temperature=1.0, seed=0)
    for sql, gold in zip(answers, QUESTIONS.values(), strict=True):
        assert execution_match(database, gold, sql, " LIMIT 5" in gold), sql
