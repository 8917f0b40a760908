"""The text-to-SQL program: its graph, repairs and vote with scripted models, and once for real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.text_to_sql import demo, program, world
from examples.text_to_sql.answers import Attempt, elect, sentence
from tenuto import CallFailed
from tenuto.testing import ModelTask, ScriptedModel, no_real_engine, override, server
from tenuto.wire import FunctionCall

CAPITAL = "SELECT capital FROM countries WHERE code = country1"
QUESTION = "What is the capital of Japan?"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The database lies in a directory of these tests, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENUTO_CACHE", str(tmp_path_factory.mktemp("cache")))
        world.forget()
        yield
    world.forget()


def test_the_user_code_is_short() -> None:
    lines = Path(program.__file__).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 60


def test_candidates_are_declared_before_anything_is_awaited() -> None:
    calls = program.answer.graph(QUESTION).calls
    assert [call.stage for call in calls].count("write_sql") == program.CANDIDATES
    runs = [call for call in calls if isinstance(call, FunctionCall) and call.tool == "run_sql"]
    assert len(runs) == program.CANDIDATES


def test_a_majority_of_candidates_decides() -> None:
    def write(task: ModelTask) -> str:
        return CAPITAL.replace("capital", "MAX(capital)").replace("=", "<>") if task.call == "write_sql" else CAPITAL

    script = ScriptedModel({"write_sql": write})
    with server(), no_real_engine(), override(script):
        answer = program.answer.run(QUESTION)
    assert (answer.rows, answer.votes, answer.candidates) == ([["Tokyo"]], 6, 7)
    assert answer.sql == CAPITAL.replace("country1", "'JP'")


def test_failing_candidates_are_repaired_and_told_why() -> None:
    def write(task: ModelTask) -> str:
        return "SELECT capital FROM nowhere" if task.call == "write_sql" else f"{CAPITAL} AND 1 = 2"

    script = ScriptedModel({"write_sql": write, "repair_sql": CAPITAL})
    with server(), no_real_engine(), override(script):
        answer = program.answer.run(QUESTION)
    assert (answer.rows, answer.votes) == ([["Tokyo"]], program.CANDIDATES)
    prompts = script.prompts("repair_sql")
    assert "<repair> what is the capital of country1<bad> SELECT capital FROM nowhere<err> error" in prompts
    assert sum("<err> empty" in prompt for prompt in prompts) == program.CANDIDATES - 1


def test_repair_is_given_up_after_two_turns() -> None:
    script = ScriptedModel({"write_sql": "SELECT 1 FROM nowhere", "repair_sql": "DROP TABLE cities"})
    with server(), no_real_engine(), override(script):
        answer = program.answer.run(QUESTION)
    assert len(script.prompts("repair_sql")) == program.CANDIDATES * program.REPAIRS
    assert answer.votes == 0
    assert answer.error is not None and "no such table" in answer.error


def test_an_empty_question_is_refused_by_its_tool() -> None:
    with server(), no_real_engine(), override(ScriptedModel({})), pytest.raises(CallFailed, match="question is empty"):
        program.answer.run("  ")


def test_the_vote_prefers_rows_over_nothing_and_the_first_in_a_tie() -> None:
    japan = Attempt("a", "SELECT a", ["capital"], [["Tokyo"]])
    peru = Attempt("b", "SELECT b", ["capital"], [["Lima"]])
    nothing = Attempt("c", "SELECT c", ["capital"], [], "empty")
    assert elect([nothing, nothing, nothing, peru]).rows == [["Lima"]]
    assert elect([japan, peru]).rows == [["Tokyo"]]
    assert elect([japan, peru, peru]).rows == [["Lima"]]


def test_sentences() -> None:
    assert sentence([]) == sentence([[None]]) == "There is none."
    assert sentence([[1234567]]) == "1,234,567."
    assert sentence([["Peru", 3.14159]]) == "Peru, 3.14."
    assert sentence([[name] for name in "abcdefg"]) == "7 results: a; b; c; d; e, and 2 more."


def test_the_demo_answers_with_the_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.demo([QUESTION, "How many cities are there in Iceland?"], as_json=True) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(first) == {"question", "sql", "columns", "rows", "answer", "program", "trace", "seconds", "error"}
    assert (first["rows"], first["error"], len(first["trace"])) == ([["Tokyo"]], None, 32)
    assert second["rows"] and second["trace"] != first["trace"]


def test_the_demo_says_what_is_wrong_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.demo([QUESTION], as_json=True, model=str(tmp_path / "none")) == 1
    assert "there is no such directory" in capsys.readouterr().err
