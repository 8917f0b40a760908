"""Questions of several steps: totals of the n greatest, shares of a part in a whole, spreads, counts compared, names in common.

Every maker returns a `Draft` or None where the draw does not fit.
"""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random

from examples.text_to_sql.train.extremes import superlative
from examples.text_to_sql.train.filters import draw_filters
from examples.text_to_sql.train.questions import MEASURES, Draft, noun, phrase, shape_of
from examples.text_to_sql.train.speech import pick, say
from examples.text_to_sql.train.sql import Query
from examples.text_to_sql.train.world import World

_PERCENT = "{percentage|percent|share|proportion|fraction|percentage}"


def ask_of_greatest(world: World, rng: random.Random) -> Draft | None:
    """The total or mean of the n greatest: 'how many people live in the ten biggest cities of …'."""
    table = rng.choices(["cities", "countries"], [3, 2])[0]
    filters = draw_filters(world, rng, table, rng.choices([0, 1, 2], [1, 5, 1])[0])
    if any(one.tables for one in filters):
        return None
    measure = MEASURES[table][0] if table == "cities" else rng.choice(MEASURES[table][:2])
    summed = measure if rng.random() < 0.75 else MEASURES[table][0]
    most = rng.random() < 0.85
    count = world.number(rng, 2, 50)
    column = summed.sql.removeprefix("@")
    inner = Query(column, table, order=f"{measure.sql}{' DESC' if most else ''}", limit=count.mark).add(filters)
    function = rng.choice(["SUM", "SUM", "SUM", "AVG"])
    things = superlative(rng, table, measure, most, True, filters, count=count.spoken)
    name = {"population": "population", "area_km2": "area"}[column]
    together = "{combined|together|altogether|in total|put together|taken together|}"
    if function == "SUM":
        text = f"{{what is|what's|}} the {{total|combined|summed|overall}} {name} of the {things}|{{total|combined}} {name} of the {things}|{{add up|sum}} the {name}s of the {things}"
        if column == "population":
            text += f"|how many {{people|inhabitants}} {{live in|are there in}} the {things} {together}|how many {{people|inhabitants}} do the {things} have {together}|how many people in total live in the {things}"
        else:
            text += f"|how {{big|large}} are the {things} {together}"
    else:
        text = f"{{what is|what's|}} the {{average|mean}} {name} of the {things}|{{average|mean}} {name} of the {things}|{{average|mean}} {name} {{across|over|among}} the {things}"
    shape, parts = shape_of(
        "of_greatest", table, filters, f"{function}_{column}_{measure.kind}_{'most' if most else 'least'}"
    )
    return Draft(say(rng, pick(rng, text)), f"SELECT {function}({column}) FROM ({inner.render()})", shape, parts)


def ask_part_of_whole(world: World, rng: random.Random) -> Draft | None:
    """A country's share of its continent, a continent's countries' share of the world."""
    column, noun_here = rng.choice(
        [
            ("population", "{population|people|inhabitants|total population}"),
            ("population", "population"),
            ("area_km2", "{area|land area|land|total area}"),
        ]
    )
    roll = rng.random()
    if roll < 0.65:
        country, continent = world.country(rng), world.continent(rng)
        sql = f"SELECT 100.0 * (SELECT {column} FROM countries WHERE code = {country.mark}) / SUM({column}) FROM countries WHERE continent = {continent.mark}"
        whole = rng.choice(
            [
                "{the <n> of <w>|<w>'s <n>|the <n> of {all|the|} countries in <w>|the <n> of {all|the|} <w> countries|the total <n> of <w> countries|the combined <n> of {all|} {<w> countries|countries in <w>}}"
            ]
        ).replace("<n>", noun_here)
        verb = "{lives|live|is|are|is found}" if column == "population" else "{is|lies|belongs}"
        text = f"what {_PERCENT} of {whole} {verb} in <v>|<v>'s {_PERCENT} of {whole}|what is <v>'s share of {whole}|what {_PERCENT} of {whole} does <v> {{have|hold|make up|account for|represent|contain}}|how much of {whole} {{is|does}} <v> {{in percent|make up in percent}}"
        return Draft(say(rng, pick(rng, text), v=country.spoken, w=continent.spoken), sql, f"part_of_whole/{column}", 2)
    continent = world.continent(rng)
    sql = f"SELECT 100.0 * SUM({column}) / (SELECT SUM({column}) FROM countries) FROM countries WHERE continent = {continent.mark}"
    whole = "{the world's|the global|all} " + (
        "{land area|land|area}" if column == "area_km2" else "country population"
    )
    text = f"what {_PERCENT} of {whole} {{is|lies|belongs to countries}} in <w>|what {_PERCENT} of {whole} {{do|does}} {{the countries of <w>|<w> countries|countries in <w>}} {{have|cover|make up|hold}}"
    return Draft(say(rng, pick(rng, text), w=continent.spoken), sql, f"part_of_world/{column}", 2)


def ask_spread(world: World, rng: random.Random) -> Draft | None:
    """The difference between the greatest and the smallest."""
    table = rng.choice(["cities", "countries"])
    filters = draw_filters(world, rng, table, rng.choices([0, 1], [1, 5])[0])
    column, name = rng.choice(
        [("population", "population"), ("latitude", "latitude")]
        if table == "cities"
        else [("population", "population"), ("area_km2", "area")]
    )
    things = phrase(rng, noun(rng, table), filters)
    one = phrase(rng, noun(rng, table, False), filters)
    text = f"{{what is|what's|}} the difference {{in {name}|}} between the {{largest|biggest|highest}} and {{the|}} {{smallest|lowest}} {name} {{of|among|for}} {things}|{{what is|}} the {{range|spread}} of {name}s {{of|among|across}} {things}|{{what is|}} the {name} difference between the {{largest|biggest|most populous}} and {{the|}} {{smallest|least populous}} {one}|by how much {{do|does}} the {{largest|highest}} and smallest {name} of {things} differ"
    if table == "countries" and column == "population":
        text = text.replace(
            "{largest|biggest|most populous} and {the|} {smallest|least populous}",
            "most populous and {the|} least populous",
        )
    query = Query(f"MAX(@{column}) - MIN(@{column})", table).add(filters)
    shape, parts = shape_of("spread", table, filters, column)
    return Draft(say(rng, pick(rng, text)), query.render(), shape, parts)


def ask_counts_compared(world: World, rng: random.Random) -> Draft | None:
    """Which of two places has more cities (or time zones), and how many more."""
    draw = rng.choice([world.country, world.country, world.state])
    a, b = draw(rng), draw(rng)
    rows = [
        one
        for one in draw_filters(world, rng, "cities", rng.choices([0, 1], [3, 2])[0])
        if one.kind in ("population", "population_between", "name_start", "hemisphere_south", "hemisphere_north")
    ]
    things = phrase(rng, noun(rng, "cities"), rows)
    extra = "".join(f" AND {one.sql.replace('@', '')}" for one in rows)
    kind = a.kind
    roll = rng.random()
    more = rng.random() < 0.8
    shape, parts = shape_of("counts_compared", "cities", rows, kind)
    if roll < 0.45:
        table = {"country": "countries", "state": "states"}[kind]
        query = Query(
            f"{table}.name",
            "cities",
            [table],
            [f"@{kind} IN ({a.mark}, {b.mark})"],
            group=f"{table}.code",
            order="COUNT(*) DESC" if more else "COUNT(*)",
            limit="1",
        ).add(rows)
        word = "more" if more else "fewer"
        text = f"{{which|what}} {{{kind}|}} has {word} {things} <a> or <b>|does <a> or <b> have {word} {things}|{{which|}} {{of|between}} <a> and <b> {{which|}} has {{the {'most' if more else 'fewest'}|{word}}} {things}|who has {word} {things} <a> or <b>|are there {word} {things} in <a> or {{in|}} <b>|where are there {word} {things} in <a> or {{in|}} <b>"
        return Draft(say(rng, pick(rng, text), a=a.spoken, b=b.spoken), query.render(), f"{shape}/which_{word}", parts)
    if roll < 0.75:
        sql = f"SELECT (SELECT COUNT(*) FROM cities WHERE {kind} = {a.mark}{extra}) - (SELECT COUNT(*) FROM cities WHERE {kind} = {b.mark}{extra})"
        text = f"how many more {things} does <a> have than <b>|how many more {things} are {{there|}} in <a> than {{in|}} <b>|{{what is|}} the difference in the number of {things} between <a> and <b>|by how many {things} does <a> {{exceed|beat}} <b>|how many {things} more {{does <a> have|are in <a>}} than {{in|}} <b>"
        return Draft(say(rng, pick(rng, text), a=a.spoken, b=b.spoken), sql, f"{shape}/difference", parts)
    sql = f"SELECT (SELECT COUNT(*) FROM cities WHERE {kind} = {a.mark}{extra}) > (SELECT COUNT(*) FROM cities WHERE {kind} = {b.mark}{extra})"
    text = f"does <a> have more {things} than <b>|are there more {things} in <a> than {{in|}} <b>"
    return Draft(say(rng, pick(rng, text), a=a.spoken, b=b.spoken), sql, f"{shape}/is_more", parts)


def ask_names_in_common(world: World, rng: random.Random) -> Draft | None:
    """City names that two countries or states share."""
    draw = rng.choice([world.country, world.country, world.state])
    a, b = draw(rng), draw(rng)
    number = world.number(rng, 20_000, 2_000_000) if rng.random() < 0.3 else None
    over = f" AND population > {number.mark}" if number else ""
    sized = f"{{over|with more than|of more than|above}} {number.spoken} {{people|inhabitants|}}" if number else ""
    inner = f"SELECT name FROM cities WHERE {b.kind} = {b.mark}{over}"
    sql = f"SELECT DISTINCT name FROM cities WHERE {a.kind} = {a.mark} AND name IN ({inner}){over}"
    count = rng.random() < 0.25
    if count:
        sql = sql.replace("DISTINCT name", "COUNT(DISTINCT name)", 1)
    ask = "{how many|count the|number of}" if count else "{which|what|which|what|list|list the|show the|find}"
    text = f"{ask} city names {sized} {{{{that|}} {{occur|exist|appear|are found|are used}} {{both|}} in {{both|}} <a> and {{in|}} <b>|{{that|}} <a> and <b> {{have in common|share}}|{{are|that are|}} {{common to|shared by}} {{both|}} <a> and <b>}}|{ask} cities {sized} {{have|with|that have}} the same name in <a> and {{in|}} <b>|{ask} names of cities {sized} {{occur|exist|appear}} {{both|}} in <a> and {{in|}} <b>"
    return Draft(
        say(rng, pick(rng, text), a=a.spoken, b=b.spoken),
        sql,
        f"names_in_common/{a.kind}{'/over' if number else ''}{'/count' if count else ''}",
        2,
    )


def ask_mean_count(world: World, rng: random.Random) -> Draft | None:
    """How many cities a country (or state) has on average."""
    key, one = rng.choice([("@country", "country"), ("@state", "state"), ("@timezone", "time zone")])
    filters = [
        one
        for one in draw_filters(world, rng, "cities", rng.choices([0, 1], [2, 3])[0])
        if one.kind in ("city_continent", "population", "country")
    ]
    if key == "@country" and any(one.kind == "country" for one in filters):
        return None
    if key == "@state":
        filters = [one for one in filters if one.kind == "population"]
    query = Query(f"1.0 * COUNT(*) / COUNT(DISTINCT {key})", "cities").add(filters)
    if key == "@state":
        query.where.append("@state IS NOT NULL")
    things = phrase(rng, noun(rng, "cities"), filters)
    text = f"{{what is|}} the {{average|mean}} number of {things} {{per|in a|in each|by}} {one}|how many {things} {{does|has}} {{a|the average|an average}} {one} have on average|how many {things} are there per {one} on average|on average how many {things} {{are there|}} per {one}"
    shape, parts = shape_of("mean_count", "cities", filters, one)
    return Draft(say(rng, pick(rng, text)), query.render(), shape, parts)


def ask_best_capital(world: World, rng: random.Random) -> Draft | None:
    """The country whose capital is the greatest, smallest or northernmost."""
    column, most, words = rng.choice(
        [
            ("population", True, "{largest|biggest|most populous}"), ("population", False, "{smallest|least populous}"),
            ("latitude", True, "{northernmost|most northern}"), ("latitude", False, "{southernmost|most southern}"),
        ]
    )  # fmt: skip
    outer = [one for one in draw_filters(world, rng, "countries", rng.choices([0, 1], [2, 3])[0]) if not one.tables]
    sql = Query(
        "countries.name",
        "cities",
        ["countries"],
        ["@name = countries.capital"],
        order=f"@{column}{' DESC' if most else ''}",
        limit="1",
    )
    sql.where += [one.sql.replace("@", "countries.") for one in outer]
    place = phrase(rng, noun(rng, "countries", False), outer)
    text = f"{{which|what}} {place} has the {words} capital {{city|}}|{{what is|}} the {place} with the {words} capital {{city|}}|the {words} capital {{city|}} belongs to which {place}"
    shape, parts = shape_of("best_capital", "countries", outer, f"{column}_{'most' if most else 'least'}")
    return Draft(say(rng, pick(rng, text)), sql.render(), shape, parts)
