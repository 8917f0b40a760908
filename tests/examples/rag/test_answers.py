"""From a model's texts to searches, and from its quotes to an answer with citations."""

from __future__ import annotations

import pytest

from examples.rag.answers import SEARCHES, Question, Search, cite, planned, read, show
from examples.rag.documents import Passage
from examples.rag.prompts import NONE
from examples.rag.wording import Titles

TITLES = Titles(["Peru", "Chile"])
PERU = Passage("peru.md", "Peru", 1, ("Peru lies in South America.", 'Its capital is "Lima".'))
LIMA = Passage("lima.md", "Lima", 1, ("Lima is the capital of Peru.",))
SEARCH = Search("capital of Peru", ["Peru"], "capital of Peru")


def question(text: str) -> Question:
    return read(text, TITLES, frozenset({"mayor"}))


def texts(plan: str, asked: str = "What are the capitals of Peru and Chile?") -> list[str]:
    return [search.text for search in planned(question(asked), plan, TITLES)]


def test_a_plan_has_its_names_restored() -> None:
    searches = planned(question("What are the capitals of Peru and Chile?"), "capital of e1 ; capital of e2", TITLES)
    assert [(s.text, s.names) for s in searches] == [("capital of Peru", ["Peru"]), ("capital of Chile", ["Chile"])]


@pytest.mark.parametrize(
    "plan",
    [
        "1. Peru capital\n2) Chile capital",
        "- Peru capital\n* Chile capital\n\n",
        "Peru capital;Chile capital;Peru capital",
    ],
)
def test_general_models_may_write_lists(plan: str) -> None:
    assert texts(plan) == ["Peru capital", "Chile capital"]


def test_an_empty_plan_is_the_question_and_a_long_one_is_cut() -> None:
    assert texts(" \n ") == ["What are the capitals of Peru and Chile?"]
    assert len(texts("a\nb\nc\nd\ne")) == SEARCHES


def test_words_that_the_model_lacks_are_told_in_those_of_the_question() -> None:
    (search,) = planned(question("Who won in Peru?"), "x of e1", TITLES)
    assert (search.text, search.said) == ("x of Peru", "Who won in Peru?")


def test_the_grammar_allows_sentences_of_the_passage_and_nothing_else() -> None:
    shown = show(SEARCH, PERU)
    first, second = '"[1] Peru lies in South America."', r'"[2] Its capital is \"Lima\"."'
    assert shown.grammar == f'start: {first} | {second} | "{NONE}"'
    assert shown.text == 'Peru\n[1] Peru lies in South America.\n[2] Its capital is "Lima".'


def test_quotes_become_an_answer_with_citations() -> None:
    shown = [[show(SEARCH, LIMA), show(SEARCH, PERU)]]
    answer = cite([SEARCH], shown, [["[1] Lima is the capital of Peru.", '[2] Its capital is "Lima".']])
    assert answer.text == 'Its capital is "Lima". [1]'  # the page about Peru comes first
    (citation,) = answer.citations
    assert (citation.doc, citation.passage, citation.quote) == ("peru.md", "peru.md#1", 'Its capital is "Lima".')


def test_a_document_s_first_sentence_is_cited_from_its_passage() -> None:
    later = Passage("peru.md", "Peru", 2, ("It covers much.",), lead="Peru lies in South America.")
    shown = show(SEARCH, later)
    assert shown.sentences == ["Peru lies in South America.", "It covers much."]
    quoted = [cite([SEARCH], [[shown]], [[text]]).citations[0] for text in ("[1]", "[2]")]
    assert [(c.quote, c.passage) for c in quoted] == [
        ("Peru lies in South America.", "peru.md#1"),
        ("It covers much.", "peru.md#2"),
    ]


def test_what_no_passage_answers_is_said() -> None:
    other = Search("area of Peru", ["Peru"], "area of Peru")
    shown = [[show(SEARCH, PERU)], [show(other, PERU)]]
    answer = cite([SEARCH, other], shown, [["[2] x"], [NONE]])
    assert answer.text == 'Its capital is "Lima". [1] area of Peru: not in the documents.' and answer.missing == [
        "area of Peru"
    ]
    for text in (NONE, "[3] there is none", "nonsense", ""):
        assert cite([other], [[show(other, PERU)]], [[text]]).text == "That is not in the documents."
