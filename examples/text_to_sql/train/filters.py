"""All conditions by table, with their weights, and how some are drawn together.

Owns the conditions on states and continents. Never builds a whole question.
"""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random

from examples.text_to_sql.train.city_filters import (
    against_city,
    capital_city,
    capital_not_greatest,
    city_average,
    city_continent,
    city_country_filter,
    city_named,
    city_population,
    country_subset_average,
    either_country,
    in_country,
    in_state,
    latitude,
    more_cities_than,
    not_capital_city,
    not_in_country,
    of_best_country,
    same_as_city,
    shared_name,
    subset_average,
    than_capital,
    zone,
)
from examples.text_to_sql.train.conditions import (
    POPULATION_POST,
    POPULATION_VERB,
    Maker,
    name_like,
    number_filter,
    worded,
)
from examples.text_to_sql.train.country_filters import (
    against_country,
    capital_size,
    city_count,
    country_area,
    country_average,
    country_density,
    country_population,
    currency,
    either_continent,
    except_country,
    has_big_city,
    in_continent,
    no_capital,
    no_cities,
    no_currency,
    not_in_continent,
    phone,
    same_as_country,
    zone_count,
)
from examples.text_to_sql.train.speech import comparison
from examples.text_to_sql.train.sql import Filter
from examples.text_to_sql.train.world import World
from examples.text_to_sql.words import word_list


def _state_city_count(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 2, 150)
    operator, words = comparison(rng)
    words = words.replace("<n>", "<v>")
    sql = f"@code IN (SELECT state FROM cities GROUP BY state HAVING COUNT(*) {operator} {v.mark})"
    return worded(
        rng,
        "state_city_count",
        sql,
        f"have {words} {{cities|towns|cities listed}}",
        f"with {words} {{cities|towns}}|having {words} cities|where there are {words} cities",
        values=(v,),
    )


def _state_big_city(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 20_000, 5_000_000)
    if rng.random() < 0.4:
        return worded(
            rng,
            "state_no_big_city",
            f"@code NOT IN (SELECT state FROM cities WHERE state IS NOT NULL AND population > {v.mark})",
            "have no {city|cities} {over|above|with more than|larger than} <v> {people|}|{do not|don't} have {a city|any city|any cities} {over|with more than} <v> {people|}",
            "with no {city|cities} {over|above|with more than|larger than} <v> {people|}|without {a city|any city|cities} {over|with more than} <v> {people|}",
            values=(v,),
        )
    return worded(
        rng,
        "state_big_city",
        f"@code IN (SELECT state FROM cities WHERE population > {v.mark})",
        "have {a city|any city|cities} {over|above|with more than|larger than} <v> {people|inhabitants|}",
        "with {a city|any city|cities} {over|above|with more than|larger than|of more than} <v> {people|inhabitants|}",
        values=(v,),
    )


def _continent_countries(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 2, 60)
    operator, words = comparison(rng)
    words = words.replace("<n>", "<v>")
    sql = f"@code IN (SELECT continent FROM countries GROUP BY continent HAVING COUNT(*) {operator} {v.mark})"
    return worded(
        rng,
        "country_count",
        sql,
        f"have {words} {{countries|nations}}",
        f"with {words} {{countries|nations}}|having {words} countries",
        values=(v,),
    )


_continent_population = number_filter(
    "population", "@population", 1000, 5_000_000_000, POPULATION_VERB, POPULATION_POST
)

FILTERS: dict[str, list[tuple[Maker, float]]] = {
    "countries": [
        (in_continent, 5), (not_in_continent, 0.6), (either_continent, 0.7), (country_population, 3),
        (country_area, 2), (country_density, 0.7), (currency, 2), (name_like, 1.3), (no_capital, 0.35),
        (no_currency, 0.15), (against_country, 1), (country_average, 0.6), (has_big_city, 1.2),
        (city_count, 0.8), (no_cities, 0.35), (zone_count, 0.5), (same_as_country, 0.8), (except_country, 0.3),
        (capital_size, 0.8), (phone, 0.7), (capital_not_greatest, 0.4), (more_cities_than, 0.4),
        (country_subset_average, 0.5),
    ],
    "cities": [
        (in_country, 5), (in_state, 2.2), (city_continent, 2.2), (not_in_country, 0.4), (either_country, 0.8),
        (city_population, 3.2), (zone, 0.9), (latitude, 1.3), (name_like, 1.1), (against_city, 1.2),
        (same_as_city, 0.6), (city_average, 0.4), (capital_city, 0.8), (not_capital_city, 0.4), (city_named, 0.5),
        (city_country_filter, 1.2), (shared_name, 0.5), (of_best_country, 0.4), (subset_average, 0.7), (than_capital, 0.5),
    ],
    "states": [(_state_city_count, 1.2), (_state_big_city, 1.2), (name_like, 1)],
    "continents": [(_continent_countries, 1), (_continent_population, 1), (name_like, 0.3)],
}  # fmt: skip
"""The conditions that each table's rows may be given, with their weights."""


def draw_filters(world: World, rng: random.Random, table: str, count: int) -> list[Filter]:
    """`count` conditions on rows of `table`, at most one of each kind and at most one that says where it lies."""
    makers = [maker for maker, _ in FILTERS[table]]
    weights = [weight for _, weight in FILTERS[table]]
    found: list[Filter] = []
    for _ in range(12):
        if len(found) == count:
            break
        one = rng.choices(makers, weights)[0](world, rng)
        family = _family(one.kind)
        if all(_family(other.kind) != family for other in found):
            found.append(one)
    return found


_WHERE_IT_LIES = frozenset(
    word_list(
        "continent not_continent either_continent country state city_continent not_country either_country either_state same_continent"
    )
)


def _family(kind: str) -> str:
    if kind in _WHERE_IT_LIES or kind.startswith(
        ("country_", "state_average", "continent_average", "same_city_country", "than_capital", "best_country")
    ):
        return "place"
    if kind == "same_currency_code":
        return "currency"
    return kind.removeprefix("not_").removeprefix("no_").removesuffix("_between").removesuffix("_code").split("_")[0]
