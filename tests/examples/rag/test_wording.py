"""The normal form: what stays a word, what becomes a name, a number or nothing."""

from __future__ import annotations

import pytest

from examples.rag.aliases import made_names, other_names
from examples.rag.prompts import quote_prompt
from examples.rag.wording import NAMES, SYNONYMS, Titles, align, known_words, names_in, normal, restore

TITLES = Titles(
    ["France", "Trinidad and Tobago", "New York City", "York", "Nice", "Split", "Bogotá", "Kenya", "Iceland"]
)


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("What is the capital of France?", ["France"]),
        ("what is france's capital", ["france"]),
        ("Is Trinidad and Tobago larger than France?", ["Trinidad and Tobago", "France"]),
        ("Is New York City in the state of New York?", ["New York City", "New York"]),
        ("Is it nice in Nice?", ["Nice"]),
        ("How many live in Ouagadougou Centre?", ["Ouagadougou Centre"]),
        ("France, France and France?", ["France"]),
        ("", []),
    ],
)
def test_names_are_titles_and_strange_words(question: str, names: list[str]) -> None:
    assert names_in(question, TITLES) == names


@pytest.mark.parametrize(
    ("question", "aligned"),
    [
        ("Where is Bogota?", "Where is Bogotá?"),
        ("bogota's time zone", "Bogotá's time zone"),
        ("What is the Kenyan currency?", "What is the Kenya currency?"),
        ("Which language do Icelanders speak?", "Which language do Iceland speak?"),
        ("NEW YORK CITY, population", "New York City, population"),
        ("Who are the Kenyattas?", "Who are the Kenyattas?"),
        ("It is nice.", "It is Nice."),
        ("No name here?", "No name here?"),
    ],
)
def test_names_are_spelled_as_the_documents_spell_them(question: str, aligned: str) -> None:
    assert align(question, TITLES) == aligned


COUNTRIES = Titles(["Denmark", "Peru", "Poland", "Germany", "Kenya"], other_names(), made_names())


@pytest.mark.parametrize(
    ("question", "aligned"),
    [
        ("Peruvian capital?", "Peru capital?"),
        ("How many Danes are there?", "How many inhabitants of Denmark are there?"),
        ("How many Danes live in Denmark?", "How many inhabitants live in Denmark?"),
        ("Polish phone code", "Poland phone code"),
        ("Is Polish spoken in Germany?", "Is Polish spoken in Germany?"),  # a language
        ("Are there Kenyans in Germany?", "Are there Kenya in Germany?"),
        ("Deutschland, area", "Germany, area"),
        ("What do Mexicans eat?", "What do Mexicans eat?"),  # no page tells of them
    ],
)
def test_other_names_and_peoples_are_told_by_tables(question: str, aligned: str) -> None:
    assert align(question, COUNTRIES) == aligned


def test_synonyms_become_words_that_the_model_knows() -> None:
    assert not SYNONYMS.keys() & known_words() and set(SYNONYMS.values()) <= known_words()
    assert normal("Peru's headcount?", ["Peru"]) == "e1 population ?"
    assert names_in("frontier of Peru", COUNTRIES) == ["Peru"]


def test_a_strange_word_that_no_document_has_is_no_name() -> None:
    assert names_in("Who is the mayor of France?", TITLES, vocabulary={"france"}) == ["France"]
    assert names_in("Who is the mayor of France?", TITLES, vocabulary={"mayor"}) == ["mayor", "France"]
    assert names_in("Who is the mayor of France?", TITLES, vocabulary={"Mayor"}) == ["France"]  # part of a name there


def test_what_is_written_as_a_name_is_one_even_if_no_document_has_it() -> None:
    assert names_in("Hallstatt village, how many live there", TITLES, vocabulary={"village"}) == ["Hallstatt village"]
    assert names_in("How many live in Hallstatt?", TITLES, vocabulary=set()) == ["Hallstatt"]
    assert names_in("Folx in France?", TITLES, vocabulary=set()) == ["France"]


def test_names_are_bounded() -> None:
    assert len(names_in(" and ".join(f"Zq{chr(97 + n)}" for n in range(NAMES + 4)), TITLES)) == NAMES


def test_the_normal_form_keeps_known_words_and_hides_the_rest() -> None:
    names = ["New York City"]
    assert normal("New York City counts 8,804,190 residents.", names) == "e1 counts # residents"
    assert normal("York is a city in Yorkshire Dales.", names) == "p1 is a city in x"
    assert normal("What's its area?", names) == "what its area ?"


def test_placeholders_are_restored() -> None:
    assert restore("capital of e1 ; area of e2, e9", ["Peru", "Chile"]) == "capital of Peru ; area of Chile, e9"


def test_the_quote_prompt_numbers_its_sentences() -> None:
    prompt = quote_prompt(
        "capital of Peru", ["Peru"], "Peru", ["Peru is a country in South America.", "Its capital is Lima."]
    )
    assert prompt == "capital of e1 <in> e1 : [1] e1 is a country in south america [2] its capital is x"


def test_the_known_words_hold_no_names() -> None:
    assert not known_words() & {"france", "china", "lyon", "euro", "mayor"}
    assert {"capital", "population", "currency", "the"} <= known_words()
