"""A small model's plan is held against the words of the question."""

from __future__ import annotations

import pytest

from examples.rag.checks import checked
from examples.rag.wording import normal


def kept(question: str, *searches: str, names: tuple[str, ...] = ("Peru",)) -> list[str]:
    return checked(searches, question, normal(question, names), names)


def test_what_the_question_has_words_for_stays() -> None:
    asked = ("capital of Peru", "currency of Peru")
    assert kept("Peru: capital and money?", *asked) == list(asked)
    assert kept("Which country is ruled from Peru?", "Peru is the capital of") == ["Peru is the capital of"]


def test_what_it_has_no_word_for_is_dropped() -> None:
    assert kept("How much cash is that in Peru?", "area of Peru", "currency of Peru") == ["currency of Peru"]
    assert kept("What do they eat in Peru?", "currency of Peru") == ["x of Peru"]
    assert kept("What do they eat?", "currency of it", names=()) == ["currency of it"]  # a search of its own kind


def test_what_it_asks_for_in_so_many_words_takes_its_place() -> None:
    assert kept("latitude peru", "capital of Peru") == ["coordinates of Peru"]
    assert kept("Where I live, Peru, which timezone?", "population of Peru") == ["time zone of Peru"]


@pytest.mark.parametrize("question", ["How large is the army of Peru?", "Is the flag of Peru spoken of?"])
def test_a_question_about_another_thing_asks_for_none(question: str) -> None:
    assert kept(question, "area of Peru") == ["x of Peru"]


def test_searches_as_general_models_write_them_stay() -> None:
    assert kept("What do they eat in Peru?", "Peruvian cuisine", "dishes") == ["Peruvian cuisine", "dishes"]
