"""The linker: values and numbers out of questions, and back into SQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.text_to_sql.geography import build
from examples.text_to_sql.linking import Linked, Linker, LinkError, restore, unused
from examples.text_to_sql.places import PlaceIndex


@pytest.fixture(scope="module")
def linker(tmp_path_factory: pytest.TempPathFactory) -> Linker:
    database: Path = build(tmp_path_factory.mktemp("geography") / "geography.db")
    return Linker(PlaceIndex(database))


def literals(linked: Linked) -> dict[str, str]:
    return {name: value.literal for name, value in linked.values.items()}


@pytest.mark.parametrize(
    ("question", "text", "values"),
    [
        (
            "Which African country has the most cities over a million people?",
            "which continent1 country has the most cities over number1 people",
            {"continent1": "'AF'", "number1": "1000000"},
        ),
        ("What's Japan's capital?", "what is country1 's capital", {"country1": "'JP'"}),
        (
            "How many cities in texas have more than 100,000 people",
            "how many cities in state1 have more than number1 people",
            {"state1": "'TX'", "number1": "100000"},
        ),
        (
            "Top five largest countries in South America",
            "top number1 largest countries in continent1",
            {"number1": "5", "continent1": "'SA'"},
        ),
        (
            "Is Germany bigger than France?",
            "is country1 bigger than country2",
            {"country1": "'DE'", "country2": "'FR'"},
        ),
        ("countries starting with 'S'", "countries starting with text1", {"text1": "'S'"}),
        ("All countries ending in stan", "all countries ending in text1", {"text1": "'stan'"}),
        ("second largest city in Brazil", "rank1 largest city in country1", {"rank1": "1", "country1": "'BR'"}),
        ("3rd biggest city of the UK", "rank1 biggest city of country1", {"rank1": "2", "country1": "'GB'"}),
        ("cities in the Europe/Paris timezone", "cities in the tz1 timezone", {"tz1": "'Europe/Paris'"}),
        ("Who has phone code +44?", "who has phone code phone1", {"phone1": "'44'"}),
        ("Which country uses .de?", "which country uses tld1", {"tld1": "'.de'"}),
        ("Which countries use the US dollar?", "which countries use the money1", {"money1": "'USD'"}),
        ("where do they pay with pesos", "where do they pay with currency1", {"currency1": "'Peso'"}),
        ("population of Bogota", "population of city1", {"city1": "'Bogotá'"}),
        ("Which US state has the code ND?", "which us state has the code state1", {"state1": "'ND'"}),
        ("Which country has the code NE?", "which country has the code country1", {"country1": "'NE'"}),
        ("people in Holland", "people in country1", {"country1": "'NL'"}),
        ("cities in the Phillipines", "cities in the country1", {"country1": "'PH'"}),
    ],
)
def test_values_become_typed_placeholders(linker: Linker, question: str, text: str, values: dict[str, str]) -> None:
    linked = linker.link(question)
    assert (linked.text, literals(linked)) == (text, values)


@pytest.mark.parametrize(
    ("spoken", "value"),
    [
        ("a million", "1000000"),
        ("2.5 million", "2500000"),
        ("half a million", "500000"),
        ("fifty thousand", "50000"),
        ("100,000", "100000"),
        ("5m", "5000000"),
        ("300k", "300000"),
        ("one and a half billion", "1500000000"),
        ("a quarter of a million", "250000"),
        ("two hundred and fifty thousand", "250000"),
        ("twenty-five", "25"),
        ("42.5", "42.5"),
        ("a dozen", "12"),
    ],
)
def test_numbers_in_figures_and_words(linker: Linker, spoken: str, value: str) -> None:
    assert literals(linker.link(f"cities with more than {spoken} people")) == {"number1": value}


def test_joined_numbers_share_a_magnitude_but_stay_two(linker: Linker) -> None:
    shared = literals(linker.link("cities with between 5 and 10 million people"))
    assert shared == {"number1": "5000000", "number2": "10000000"}
    apart = literals(linker.link("between five hundred thousand and two million"))
    assert apart == {"number1": "500000", "number2": "2000000"}


@pytest.mark.parametrize(
    "question",
    [
        "most people",
        "the same time zone",
        "reading list of cities",
        "which one is it",
        "Most populous of all",
        "all cities",
    ],
)
def test_common_words_are_no_places(linker: Linker, question: str) -> None:
    assert not linker.link(question).values


def test_a_common_word_is_a_city_where_a_place_is_meant(linker: Linker) -> None:
    assert literals(linker.link("How many people live in Nice?")) == {"city1": "'Nice'"}


@pytest.mark.parametrize(
    ("question", "first", "other"),
    [
        ("What is the capital of Georgia?", "'GE'", "'GA'"),
        ("Which cities lie in the state of Georgia?", "'GA'", ""),
        ("population of New York", "'New York City'", "'NY'"),
        ("cities in New York with more than 100,000 people", "'NY'", "'New York City'"),
        ("population of Atlanta, Georgia", "'GA'", "'GE'"),
    ],
)
def test_ambiguous_names_go_by_context_and_keep_the_other_reading(
    linker: Linker, question: str, first: str, other: str
) -> None:
    linked = linker.link(question)
    assert first in literals(linked).values()
    assert not other or any(other in literals(one).values() for one in linked.alternatives)


def test_strange_words_are_left_out_or_corrected_in_the_plain_reading(linker: Linker) -> None:
    linked = linker.link("biggest citties in splendiferous Kenya")
    assert linked.text == "biggest citties in splendiferous country1"
    assert linked.alternatives[0].text == "biggest cities in country1"


def test_places_named_twice_share_a_placeholder(linker: Linker) -> None:
    assert linker.link("Italian cities larger than the average in Italy").text.count("country1") == 2


@pytest.mark.parametrize("question", ["", "   ", "x" * 2001])
def test_unusable_questions_are_refused(linker: Linker, question: str) -> None:
    with pytest.raises(LinkError):
        linker.link(question)


def test_hostile_questions_link_without_harm(linker: Linker) -> None:
    linked = linker.link("cities named \"O'Fallon'; DROP TABLE cities; --\" in Illinois")
    assert "'IL'" in literals(linked).values()


def test_restore_goes_by_the_column_compared_with(linker: Linker) -> None:
    values = linker.link("Japan, Bogota").values
    assert restore("SELECT 1 FROM cities WHERE country = country1", values).endswith("country = 'JP'")
    assert restore("SELECT 1 FROM countries WHERE countries.name = 'country1'", values).endswith("name = 'Japan'")
    assert restore("SELECT 1 FROM countries WHERE capital = city1", values).endswith("capital = 'Bogota'")
    assert restore("SELECT 1 FROM cities WHERE name IN (city1, city1)", values).endswith("('Bogotá', 'Bogotá')")


def test_restore_names_the_placeholder_that_is_missing(linker: Linker) -> None:
    with pytest.raises(LinkError, match=r"number1.*it has: country1"):
        restore("SELECT name FROM cities WHERE population > number1", linker.link("Japan").values)


def test_values_are_quoted(linker: Linker) -> None:
    values = linker.link('cities starting with "O\'"').values
    assert restore("SELECT name FROM cities WHERE name LIKE text1 || '%'", values).endswith("LIKE 'O''' || '%'")


def test_unused_placeholders_are_told(linker: Linker) -> None:
    values = linker.link("cities in Japan over 1 million").values
    assert unused("SELECT name FROM cities WHERE country = country1", values) == ("number1",)
    assert unused("SELECT name FROM cities WHERE country = country1 AND population > number1", values) == ()
