"""The documents program: what it asks of a model, what it makes of the answers, and that the bundled one can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.rag import demo, library, program
from examples.rag.answers import Search, show
from examples.rag.documents import Passage
from examples.rag.prompts import NONE
from tenuto.testing import ModelTask, ScriptedModel, no_real_engine, override, server

PAGES = {
    "peru.md": "# Peru\n\nPeru lies in South America. Its capital is Lima.\n\nPeople pay with the Sol.",
    "chile.md": "# Chile\n\nThe capital of Chile is Santiago. Chile has 18,729,160 inhabitants.\n",
    "lima.txt": "Lima is a city in Peru. The mayor of Lima is Ada Quist.",
}

SEARCH = Search("capital of Peru", ["Peru"], "capital of Peru")


@pytest.fixture(autouse=True)
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("TENUTO_DOCS", str(tmp_path))
    monkeypatch.setattr(library, "LOOK_S", 0.0)
    yield tmp_path


def test_the_user_code_is_short() -> None:
    lines = Path(program.__file__).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 60


def test_searches_of_a_plan_are_quoted_and_cited() -> None:
    def quote(task: ModelTask) -> str:
        search, _, shown = task.messages[-1].content.partition("\n")
        lines = shown.split("<normal>")[0].splitlines()[1:]
        wanted = {"Search: capital of Peru": "Lima.", "Search: capital of Chile": "Santiago"}[search]
        return next((line for line in lines if wanted in line and "capital" in line), NONE)

    script = ScriptedModel({"plan": "capital of e1\ncapital of e2", "quote": quote})
    with server(), no_real_engine(), override(script):
        answer = program.answer.run("What are the capitals of Peru and Chile?")
    assert answer.text == "Its capital is Lima. [1] The capital of Chile is Santiago. [2]"
    assert [(c.doc, c.search) for c in answer.citations] == [
        ("peru.md", "capital of Peru"),
        ("chile.md", "capital of Chile"),
    ]
    (planned,) = script.prompts("plan")
    assert planned == "What are the capitals of Peru and Chile?<normal><plan> what are the capitals of e1 and e2 ?"
    assert len(script.prompts("quote")) == 8  # four passages for each search


def test_what_no_passage_answers_is_not_in_the_documents() -> None:
    with server(), no_real_engine(), override(ScriptedModel({"plan": "x of e1", "quote": NONE})):
        answer = program.answer.run("Who painted Peru?")
    assert answer.text == "That is not in the documents."
    assert (answer.citations, answer.missing) == ([], ["Who painted Peru?"])


def test_the_demo_quotes_with_the_bundled_model(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        "What is the capital of Peru?",
        "How many people live in Chile, and what is its capital?",
        "Who is the king of Peru?",
    ]
    assert demo.demo(asked, as_json=True) == 0
    first, second, third = map(json.loads, capsys.readouterr().out.splitlines())
    assert [c["quote"] for c in first["citations"]] == ["Its capital is Lima."]
    assert {c["quote"] for c in second["citations"]} == {
        "Chile has 18,729,160 inhabitants.",
        "The capital of Chile is Santiago.",
    }
    assert third["citations"] == [] and third["error"] is None


def test_an_answer_hangs_on_the_version_of_its_document(pages: Path) -> None:
    def quote(task: ModelTask) -> str:
        return "[2]" if "Its capital" in task.messages[-1].content else NONE

    with server(), no_real_engine(), override(ScriptedModel({"plan": "capital of e1", "quote": quote})):
        first = program.answer.run("What is the capital of Peru?")
        (pages / "peru.md").write_text("# Peru\n\nPeru lies in South America. Its capital is Cusco.\n")
        second = program.answer.run("What is the capital of Peru?")
    assert [a.citations[0].quote for a in (first, second)] == ["Its capital is Lima.", "Its capital is Cusco."]
    old, new = (program.depends_on(show(SEARCH, p)) for p in (Passage("d", "D", 1, ("S.",), v) for v in ("1", "2")))
    assert old.tags != new.tags and old.mode == "exact"


def test_a_repeat_comes_from_the_cache_until_its_document_changes(pages: Path) -> None:
    script = ScriptedModel({"plan": "capital of e1", "quote": NONE})
    with server(semantic_cache={"mode": "exact"}), no_real_engine(), override(script):

        def written() -> tuple[int, int]:
            program.answer.run("What is the capital of Peru?")
            return len(script.prompts("plan")), len(script.prompts("quote"))

        assert written() == written() == (1, 4)
        (pages / "peru.md").write_text("# Peru\n\nIts capital is Cusco.\n")
        assert written() == (1, 5)  # one passage of the new version


def test_the_demo_says_what_is_wrong_with_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.demo(["x"], docs=tmp_path / "none", as_json=True) == 1
    assert "there is no such folder" in capsys.readouterr().err
