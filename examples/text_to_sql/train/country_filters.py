"""Conditions on countries, each with its SQL and many wordings."""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random

from examples.text_to_sql.train.conditions import (
    AREA_POST,
    AREA_VERB,
    DENSITY,
    DENSITY_POST,
    DENSITY_VERB,
    POPULATION_POST,
    POPULATION_VERB,
    average_filter,
    number_filter,
    worded,
)
from examples.text_to_sql.train.speech import comparison, pick
from examples.text_to_sql.train.sql import Filter
from examples.text_to_sql.train.world import World


def in_continent(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.35:
        v = world.continental(rng)
        return worded(
            rng,
            "continent",
            f"@continent = {v.mark}",
            "are <v>",
            "in <v> continent" if rng.random() < 0.02 else "that are <v>",
            "<v>",
            values=(v,),
        )
    v = world.continent(rng)
    return worded(
        rng,
        "continent",
        f"@continent = {v.mark}",
        "are {in|located in|part of|situated in|found in|on the continent of} <v>|lie in <v>|belong to <v>",
        "in <v>|in <v>|in <v>|of <v>|from <v>|located in <v>|on the continent of <v>|in the continent of <v>|within <v>|across <v>|throughout <v>|anywhere in <v>",
        values=(v,),
    )


def not_in_continent(world: World, rng: random.Random) -> Filter:
    v = world.continent(rng)
    return worded(
        rng,
        "not_continent",
        f"@continent <> {v.mark}",
        "are {not in|outside|outside of|not part of} <v>|{do not|don't} lie in <v>",
        "outside <v>|outside of <v>|not in <v>|that are not in <v>|that aren't in <v>|not located in <v>|except those in <v>|excluding <v>",
        "non <v>" if rng.random() < 0.1 else "",
        values=(v,),
    )


def either_continent(world: World, rng: random.Random) -> Filter:
    v, w = world.continent(rng), world.continent(rng)
    return worded(
        rng,
        "either_continent",
        f"@continent IN ({v.mark}, {w.mark})",
        "are in {either|} <v> or <w>|are in <v> and <w>",
        "in <v> or <w>|in <v> and <w>|in either <v> or <w>|located in <v> or <w>|from <v> and <w>|in both <v> and <w>",
        values=(v, w),
    )


country_population = number_filter("population", "@population", 20_000, 500_000_000, POPULATION_VERB, POPULATION_POST)
country_area = number_filter("area", "@area_km2", 50, 5_000_000, AREA_VERB, AREA_POST)
country_density = number_filter("density", DENSITY, 5, 2000, DENSITY_VERB, DENSITY_POST)


def currency(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.35:
        v, column, kind = world.money_code(rng), "@currency_code", "currency_code"
    else:
        v, column, kind = world.currency(rng), "@currency", "currency"
    if rng.random() < 0.17:
        return worded(
            rng,
            f"not_{kind}",
            f"{column} <> {v.mark}",
            "{do not|don't} use {the|} <v>|do not have the <v> as {their|its} currency|are not using the <v>",
            "that {do not|don't} use {the|} <v>|not using the <v>|without the <v>|whose currency is not the <v>|whose currency isn't <v>|with a currency other than the <v>",
            values=(v,),
        )
    return worded(
        rng,
        kind,
        f"{column} = {v.mark}",
        "use {the|} <v>|use {the|} <v>|use {the|} <v> as {their|its|a|official} currency|have {the|} <v> as {their|its|the} {official|national|} currency"
        "|have <v> as currency|pay {with|in} {the|} <v>|have the currency <v>|have currency code <v>"
        + ("|use currency code <v>" if column != "@currency" else ""),
        "using {the|} <v>|that use {the|} <v>|whose currency is {the|} <v>|with {the|} <v> as {their|its|the|} currency|where {the|} <v> is {used|the currency|legal tender}"
        "|on {the|} <v>|where people pay {with|in} {the|} <v>|with currency <v>|with the currency code <v>|which use the <v>|where you can pay {with|in} {the|} <v>"
        "|that have adopted the <v>|where {they use|you pay with|people use} {the|} <v>",
        "<v> using|<v>" if rng.random() < 0.15 else "",
        values=(v,),
    )


def no_capital(world: World, rng: random.Random) -> Filter:
    return worded(
        rng,
        "no_capital",
        "@capital IS NULL",
        "have no capital {city|}|{do not|don't} have a capital {city|}|lack a capital {city|}|are without a capital",
        "without a capital {city|}|with no capital {city|}|that have no capital|lacking a capital|with no known capital|that do not have a capital|where the capital is {missing|unknown}",
    )


def no_currency(world: World, rng: random.Random) -> Filter:
    return worded(
        rng,
        "no_currency",
        "@currency IS NULL",
        "have no {official|} currency|{do not|don't} have a currency|lack a currency",
        "without {a|} currency|with no currency|that have no currency|with no listed currency",
    )


def against_country(world: World, rng: random.Random) -> Filter:
    """Larger or smaller than a named country."""
    v = world.country(rng)
    column, more, less = rng.choice(
        [
            ("population", "more {people|inhabitants} than|a {larger|bigger|higher|greater} population than", "fewer {people|inhabitants} than|a {smaller|lower} population than|less people than"),
            ("area_km2", "a {larger|bigger|greater} {land|surface|} area than|more {land|area} than", "a smaller {land|surface|} area than|less {land|area} than"),
        ]
    )  # fmt: skip
    up = rng.random() < 0.65
    words = pick(rng, more if up else less)
    sql = f"@{column} {'>' if up else '<'} (SELECT {column} FROM countries WHERE code = {v.mark})"
    shorts = {
        ("population", True): "more populous than|more populated than",
        ("population", False): "less populous than|less populated than",
        ("area_km2", True): "bigger than|larger than|larger in area than|bigger in size than",
        ("area_km2", False): "smaller than|smaller in area than",
    }[column, up]
    return worded(
        rng,
        f"than_{column}",
        sql,
        f"have {words} <v>|are {pick(rng, shorts)} <v>",
        f"with {words} <v>|{pick(rng, shorts)} <v>|that are {pick(rng, shorts)} <v>",
        values=(v,),
    )


def country_average(world: World, rng: random.Random) -> Filter:
    column, noun = rng.choice([("population", "population"), ("area_km2", "area")])
    up = rng.random() < 0.7
    sql = f"@{column} {'>' if up else '<'} (SELECT AVG({column}) FROM countries)"
    return average_filter(rng, sql, noun, up, "country")


def has_big_city(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 20_000, 15_000_000)
    if rng.random() < 0.3:
        sql = f"@code NOT IN (SELECT country FROM cities WHERE population > {v.mark})"
        return worded(rng, "no_big_city", sql, "have no {city|cities} {over|above|with more than|larger than} <v> {people|}|{do not|don't} have {a city|any city|any cities} {over|with more than} <v> people",
                  "with no {city|cities} {over|above|with more than|larger than} <v> {people|inhabitants|}|without {a city|any city|cities} {over|with more than|of more than} <v> {people|}", values=(v,))  # fmt: skip
    sql = f"@code IN (SELECT country FROM cities WHERE population > {v.mark})"
    return worded(rng, "big_city", sql, "have {a city|any city|some city|cities} {over|above|with more than|with over|larger than|of more than} <v> {people|inhabitants|}",
              "with {a city|any city|some city|cities} {over|above|with more than|with over|larger than|of more than} <v> {people|inhabitants|}|having a city with more than <v> people|containing a city with more than <v> people", values=(v,))  # fmt: skip


def city_count(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 2, 300)
    operator, words = comparison(rng)
    words = words.replace("<n>", "<v>")
    sql = f"@code IN (SELECT country FROM cities GROUP BY country HAVING COUNT(*) {operator} {v.mark})"
    return worded(
        rng,
        "city_count",
        sql,
        f"have {words} {{cities|cities|towns|cities listed}}",
        f"with {words} {{cities|cities|towns}}|having {words} cities|where there are {words} cities",
        values=(v,),
    )


def no_cities(world: World, rng: random.Random) -> Filter:
    sql = "@code NOT IN (SELECT country FROM cities)"
    return worded(
        rng,
        "no_cities",
        sql,
        "have no cities {at all|listed|in the database|}|{do not|don't} have {any|} cities",
        "without {any|} cities|with no cities|that have no cities {listed|at all|}|with zero cities",
    )


def zone_count(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 1, 12)
    sql = f"@code IN (SELECT country FROM cities GROUP BY country HAVING COUNT(DISTINCT timezone) > {v.mark})"
    return worded(
        rng,
        "zone_count",
        sql,
        "have {more than|over} <v> {time zones|timezones|time zone}|span {more than|over} <v> time zones|use more than <v> timezones",
        "with {more than|over} <v> {time zones|timezones|different time zones|time zone}|spanning more than <v> time zones",
        values=(v,),
    )


def same_as_country(world: World, rng: random.Random) -> Filter:
    v = world.country(rng)
    column, noun = rng.choice([("currency_code", "currency"), ("currency_code", "money"), ("continent", "continent")])
    sql = f"@{column} = (SELECT {column} FROM countries WHERE code = {v.mark})"
    if column == "continent":
        verb = "are {on|in} the same continent as <v>|share a continent with <v>"
        post = (
            "{on|in} the same continent as <v>|{sharing|that share} a continent with <v>|from the same continent as <v>"
        )
    else:
        verb = f"use the same {noun} as <v>|share {{a|its|their}} {noun} with <v>|have the same {noun} as <v>|share <v>'s {noun}"
        post = f"with the same {noun} as <v>|using the same {noun} as <v>|that use the same {noun} as <v>|sharing {{a|the|}} {noun} with <v>|that share <v>'s {noun}"
    return worded(rng, f"same_{column}", sql, verb, post, values=(v,))


def except_country(world: World, rng: random.Random) -> Filter:
    v = world.country(rng)
    return worded(
        rng,
        "except_country",
        f"@code <> {v.mark}",
        "are not <v>",
        "other than <v>|except <v>|except for <v>|besides <v>|excluding <v>|apart from <v>|not counting <v>",
        values=(v,),
    )


def capital_size(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 30_000, 15_000_000)
    up = rng.random() < 0.75
    words = pick(rng, MORE_PEOPLE if up else LESS_PEOPLE)
    sql = f"@capital IN (SELECT name FROM cities WHERE country = countries.code AND population {'>' if up else '<'} {v.mark})"
    return worded(
        rng,
        "capital_size",
        sql,
        f"have a capital {{city|}} with {words} <v> {{people|inhabitants|}}",
        f"whose capital {{city|}} has {words} <v> {{people|inhabitants|residents}}|with a capital {{city|}} {{of|with}} {words} <v> {{people|}}|whose capital has a population {{of|}} {words} <v>",
        values=(v,),
    )


MORE_PEOPLE = "more than|over|above|at least"
LESS_PEOPLE = "fewer than|less than|under|below"
MORE_PEOPLE = "more than|over|above"


def phone(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.5:
        v = world.phone(rng)
        return worded(
            rng,
            "phone",
            f"@phone_code = {v.mark}",
            "have {the|} {phone|calling|dialing|country calling|dial|telephone} {code|prefix} <v>|use {phone|calling|dialing} code <v>|use <v>",
            "with {the|} {phone|calling|dialing|country|telephone} {code|prefix} <v>|whose {phone|calling|dialing} code is <v>|with phone code <v>",
            values=(v,),
        )
    v = world.tld(rng)
    return worded(
        rng,
        "tld",
        f"@tld = {v.mark}",
        "use {the|} <v> {domain|tld|as its domain|as a top level domain|}|have {the|} {domain|tld|internet domain|top-level domain} <v>|have <v> as {its|their} {domain|tld}",
        "with {the|} {domain|tld|internet domain|top level domain} <v>|whose {tld|domain|internet domain} is <v>|using {the|} <v> {domain|}",
        values=(v,),
    )
