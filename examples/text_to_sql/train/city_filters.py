"""Conditions on cities, each with its SQL and many wordings."""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random

from examples.text_to_sql.train.conditions import (
    POPULATION_POST,
    POPULATION_VERB,
    Maker,
    average_filter,
    number_filter,
    worded,
)
from examples.text_to_sql.train.country_filters import (
    country_area,
    country_density,
    country_population,
    currency,
    either_continent,
    in_continent,
    not_in_continent,
    phone,
    same_as_country,
)
from examples.text_to_sql.train.speech import pick
from examples.text_to_sql.train.sql import Filter, Val
from examples.text_to_sql.train.world import World


def in_country(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.25:
        v = world.demonym(rng)
        return worded(rng, "country", f"@country = {v.mark}", "are <v>", "that are <v>", "<v>", values=(v,))
    v = world.country(rng)
    return worded(
        rng,
        "country",
        f"@country = {v.mark}",
        "are {in|located in|situated in|found in|part of} <v>|lie in <v>|belong to <v>",
        "in <v>|in <v>|in <v>|in <v>|of <v>|from <v>|located in <v>|within <v>|across <v>|throughout <v>|anywhere in <v>|inside <v>",
        values=(v,),
    )


def in_state(world: World, rng: random.Random) -> Filter:
    v = world.state(rng)
    return worded(
        rng,
        "state",
        f"@state = {v.mark}",
        "are {in|located in|found in} {the state of|} <v>|lie in <v>|belong to <v>",
        "in <v>|in <v>|in <v>|in <v>|in the state of <v>|in {the|} <v> state|of <v>|from <v>|located in <v>|within <v>|across <v>",
        "<v>" if rng.random() < 0.25 else "",
        values=(v,),
    )


def city_continent(world: World, rng: random.Random) -> Filter:
    found = in_continent(world, rng)
    return Filter(
        "city_continent",
        found.sql.replace("@", "countries."),
        found.verb,
        found.post,
        found.adj,
        ("countries",),
        found.values,
    )


def not_in_country(world: World, rng: random.Random) -> Filter:
    v = world.country(rng)
    return worded(
        rng,
        "not_country",
        f"@country <> {v.mark}",
        "are {not in|outside|outside of} <v>",
        "outside <v>|outside of <v>|not in <v>|that are not in <v>|excluding <v>|except those in <v>",
        values=(v,),
    )


def either_country(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.3:
        v, w = world.state(rng), world.state(rng)
        return worded(
            rng,
            "either_state",
            f"@state IN ({v.mark}, {w.mark})",
            "are in {either|} <v> or <w>|are in <v> and <w>",
            "in <v> or <w>|in <v> and <w>|in either <v> or <w>|in <v> and <w> {combined|together|}",
            values=(v, w),
        )
    v, w = world.country(rng), world.country(rng)
    return worded(
        rng,
        "either_country",
        f"@country IN ({v.mark}, {w.mark})",
        "are in {either|} <v> or <w>|are in <v> and <w>",
        "in <v> or <w>|in <v> and <w>|in either <v> or <w>|located in <v> or <w>|in <v> and <w> {combined|together|}|in both <v> and <w>",
        values=(v, w),
    )


city_population = number_filter("population", "@population", 16_000, 20_000_000, POPULATION_VERB, POPULATION_POST)


def zone(world: World, rng: random.Random) -> Filter:
    v = world.zone(rng)
    if rng.random() < 0.15:
        outside = "outside {of|} {the|} <v> {time zone|timezone|}|not in {the|} <v> {time zone|timezone|}|that are not in {the|} <v> {time zone|timezone}|in {a|any} {time zone|timezone} other than <v>"
        return worded(
            rng,
            "not_zone",
            f"@timezone <> {v.mark}",
            "are {outside|not in} {the|} <v> {time zone|timezone|}|{do not|don't} use {the|} <v> {time zone|timezone|}",
            outside,
            values=(v,),
        )
    return worded(
        rng,
        "zone",
        f"@timezone = {v.mark}",
        "are in {the|} <v> {time zone|timezone|}|use {the|} <v> {time zone|timezone|time|}|observe <v> time|have {the|} timezone <v>",
        "in {the|} <v> {time zone|timezone|}|in {the|} {timezone|time zone} <v>|with {the|} {timezone|time zone} <v>|on <v> time|using the <v> {timezone|time zone}|that use <v>|whose {timezone|time zone} is <v>",
        values=(v,),
    )


def latitude(world: World, rng: random.Random) -> Filter:
    roll = rng.random()
    if roll > 0.9:
        column = rng.choice(["latitude", "longitude"])
        v, w = sorted([world.number(rng, 3, 75), world.number(rng, 3, 75)], key=lambda one: int(one.literal))
        text = pick(
            rng,
            f"between {{{column}|{column}s}} <v> and <w>|with {{a|}} {column} between <v> and <w> {{degrees|}}|between <v> and <w> degrees {column}|whose {column} {{is|lies}} between <v> and <w>",
        )
        verb = (
            "have " + text.removeprefix("with ")
            if text.startswith("with")
            else f"have {text.removeprefix('whose ')}"
            if text.startswith("whose")
            else f"are {text}"
        )
        return worded(rng, f"{column}_between", f"@{column} BETWEEN {v.mark} AND {w.mark}", verb, text, values=(v, w))
    if roll < 0.4:
        word, sql, kind = rng.choice(
            [
                ("{in|located in|of} the southern hemisphere|south of the equator|below the equator", "@latitude < 0", "south"),
                ("{in|located in|of} the northern hemisphere|north of the equator|above the equator", "@latitude > 0", "north"),
                ("in the western hemisphere|west of {greenwich|the prime meridian|the greenwich meridian}", "@longitude < 0", "west"),
                ("in the eastern hemisphere|east of {greenwich|the prime meridian|the greenwich meridian}", "@longitude > 0", "east"),
            ]
        )  # fmt: skip
        text = pick(rng, word)
        return worded(
            rng,
            f"hemisphere_{kind}",
            sql,
            f"are {text}|lie {text}",
            f"{text}|that are {text}|located {text}|lying {text}",
        )
    v = world.number(rng, 3, 75)
    degrees = "{degrees|deg|°|}"
    if roll < 0.65:
        text = f"{{north of|above}} {{latitude|the latitude|}} <v> {degrees} {{north|latitude|}}|at a latitude {{above|over|greater than|higher than}} <v> {degrees}|with {{a|}} latitude {{above|over|greater than|higher than|more than}} <v> {degrees}|above <v> degrees {{latitude|north}}|above latitude <v>"
        sql, kind = f"@latitude > {v.mark}", "latitude_over"
    elif roll < 0.75:
        text = f"south of {{latitude|}} <v> {degrees} south|below <v> {degrees} south|beyond <v> degrees south"
        sql, kind = f"@latitude < -{v.mark}", "latitude_under_south"
    elif roll < 0.85:
        text = f"south of {{latitude|}} <v> {degrees} {{north|latitude|}}|with {{a|}} latitude {{below|under|less than}} <v> {degrees}|below latitude <v>"
        sql, kind = f"@latitude < {v.mark}", "latitude_under"
    else:
        text = f"east of {{longitude|}} <v> {degrees} {{east|}}|with {{a|}} longitude {{above|over|greater than}} <v> {degrees}"
        sql, kind = f"@longitude > {v.mark}", "longitude_over"
    text = pick(rng, text)
    lead = "" if text.startswith(("with", "at")) else "are "
    verb = (
        "have " + text.removeprefix("with ") if text.startswith("with") else f"are {text}" if not lead else lead + text
    )
    return worded(rng, kind, sql, verb, text, values=(v,))


def city_value(column: str, mark: str) -> str:
    """The value of `column` for the named city: of the greatest one, where several share the name."""
    return f"(SELECT {column} FROM cities WHERE name = {mark} ORDER BY population DESC LIMIT 1)"


def against_city(world: World, rng: random.Random) -> Filter:
    v = world.city(rng)
    kind, sign, verb, post = rng.choice(
        [
            ("population", ">", "are {bigger|larger|more populous} than <v>|have more {people|inhabitants} than <v>|have a {larger|bigger|higher} population than <v>", "{bigger|larger|more populous} than <v>|with more {people|inhabitants} than <v>|with a {larger|bigger|higher} population than <v>"),
            ("population", "<", "are {smaller|less populous} than <v>|have fewer {people|inhabitants} than <v>|have a smaller population than <v>", "{smaller|less populous} than <v>|with fewer {people|inhabitants} than <v>|with a {smaller|lower} population than <v>"),
            ("latitude", ">", "are {further|farther|more|} north {of|than} <v>|lie north of <v>", "{further|farther|} north {of|than} <v>|north of <v>|located north of <v>"),
            ("latitude", "<", "are {further|farther|} south {of|than} <v>|lie south of <v>", "{further|farther|} south {of|than} <v>|south of <v>|located south of <v>"),
            ("longitude", ">", "are {further|farther|} east {of|than} <v>|lie east of <v>", "{further|farther|} east {of|than} <v>|east of <v>"),
            ("longitude", "<", "are {further|farther|} west {of|than} <v>|lie west of <v>", "{further|farther|} west {of|than} <v>|west of <v>"),
        ]
    )  # fmt: skip
    verb = verb.replace("{further|farther|} north {of|than}", "{{further|farther} north than|north of}")
    fix = {d: f"{{{{further|farther}} {d} than|{d} of}}" for d in ("north", "south", "east", "west")}
    for d, text in fix.items():
        for form in (f"{{further|farther|more|}} {d} {{of|than}}", f"{{further|farther|}} {d} {{of|than}}"):
            verb, post = verb.replace(form, text), post.replace(form, text)
    return worded(rng, f"than_city_{kind}", f"@{kind} {sign} {city_value(kind, v.mark)}", verb, post, values=(v,))


def same_as_city(world: World, rng: random.Random) -> Filter:
    v = world.city(rng)
    column, noun = rng.choice(
        [("timezone", "{time zone|timezone}"), ("timezone", "{time zone|timezone}"), ("country", "country")]
    )
    verb = f"are in the same {noun} as <v>" + (
        f"|share {{a|the}} {noun} with <v>|have the same {noun} as <v>" if column == "timezone" else ""
    )
    post = f"in the same {noun} as <v>|in the same {noun} as <v>" + (
        f"|sharing {{a|the|}} {noun} with <v>|with the same {noun} as <v>|that share <v>'s {noun}"
        if column == "timezone"
        else ""
    )
    return worded(rng, f"same_city_{column}", f"@{column} = {city_value(column, v.mark)}", verb, post, values=(v,))


def city_average(world: World, rng: random.Random) -> Filter:
    up = rng.random() < 0.75
    return average_filter(
        rng, f"@population {'>' if up else '<'} (SELECT AVG(population) FROM cities)", "population", up, "city"
    )


def capital_city(world: World, rng: random.Random) -> Filter:
    return worded(
        rng,
        "capital_city",
        "@name = countries.capital",
        "are {capitals|capital cities|the capital|national capitals|the capital of {their|its} country}",
        "that are {capitals|capital cities|national capitals|the capital of their country}|which are {capitals|the capital of their country}",
        "capital",
        tables=("countries",),
    )


def not_capital_city(world: World, rng: random.Random) -> Filter:
    return worded(
        rng,
        "not_capital_city",
        "@name <> countries.capital",
        "are not {capitals|capital cities|the capital|national capitals|the capital of {their|its} country}",
        "that are not {capitals|capital cities|the capital|the capital of their country}|that aren't capitals|which are not the capital|other than {the capital|capitals}",
        "non capital|non-capital" if rng.random() < 0.5 else "",
        tables=("countries",),
    )


def city_named(world: World, rng: random.Random) -> Filter:
    v = world.city(rng)
    return worded(
        rng,
        "named",
        f"@name = {v.mark}",
        "are {called|named} <v>|have the name <v>|share the name <v>",
        "{called|named} <v>|with the name <v>|whose name is <v>|{called|named} <v>",
        values=(v,),
    )


def capital_not_greatest(world: World, rng: random.Random) -> Filter:
    up = rng.random() < 0.75
    greatest = "(SELECT name FROM cities WHERE country = countries.code ORDER BY population DESC LIMIT 1)"
    word = "{largest|biggest|most populous}"
    if up:
        return worded(
            rng,
            "capital_not_greatest",
            f"@capital <> {greatest}",
            f"have a capital that {{is not|isn't}} {{their|its|the}} {word} city|have a {{larger|bigger}} city than {{their|its|the}} capital",
            f"whose capital {{is not|isn't}} {{their|its|the}} {word} city|where the capital {{is not|isn't}} the {word} city|with a city {{larger|bigger}} than {{their|the}} capital",
        )
    return worded(
        rng,
        "capital_greatest",
        f"@capital = {greatest}",
        f"have a capital that is {{also|}} {{their|its|the}} {word} city",
        f"whose capital is {{also|}} {{their|its|the}} {word} city|where the capital is {{also|}} the {word} city",
    )


def more_cities_than(world: World, rng: random.Random) -> Filter:
    v = world.country(rng)
    up = rng.random() < 0.75
    sql = f"@code IN (SELECT country FROM cities GROUP BY country HAVING COUNT(*) {'>' if up else '<'} (SELECT COUNT(*) FROM cities WHERE country = {v.mark}))"
    word = "more" if up else "fewer"
    return worded(
        rng,
        "city_count_than",
        sql,
        f"have {word} {{cities|listed cities}} than <v>",
        f"with {word} cities than <v>|having {word} cities than <v>",
        values=(v,),
    )


def shared_name(world: World, rng: random.Random) -> Filter:
    """A city whose name another country or state has too."""
    v = world.country(rng) if rng.random() < 0.7 else world.state(rng)
    sql = f"@name IN (SELECT name FROM cities WHERE {v.kind} = {v.mark})"
    return worded(
        rng,
        f"shared_name_{v.kind}",
        sql,
        "share {a|their} name with {a|some|any} city in <v>|have the same name as a city in <v>|also {exist|occur|appear} in <v>",
        "that share {a|their} name with a city in <v>|with the same name as {a city|one} in <v>|whose name also {occurs|exists|appears} in <v>|sharing a name with a city in <v>",
        values=(v,),
    )


def of_best_country(world: World, rng: random.Random) -> Filter:
    """A city in the greatest (or smallest) country, at times of a continent."""
    column, words = rng.choice(
        [
            ("population", "most populous|most populated"),
            ("area_km2", "largest|biggest"),
            ("area_km2", "smallest"),
            ("population", "least populous"),
        ]
    )
    down = words in ("smallest", "least populous")
    where, place = "", ""
    values: tuple[Val, ...] = ()
    if rng.random() < 0.6:
        v = world.continent(rng)
        where, place, values = f" WHERE continent = {v.mark}", "{in|of} <v>", (v,)
    sql = f"@country = (SELECT code FROM countries{where} ORDER BY {column}{'' if down else ' DESC'} LIMIT 1)"
    text = f"in the {pick(rng, words)} country {place}"
    return worded(rng, f"best_country_{column}", sql, f"are {text}|lie {text}", text, values=values)


def subset_average(world: World, rng: random.Random) -> Filter:
    """Above the mean of the same country, state or continent, which the filter names as well."""
    v = rng.choice([world.country, world.country, world.state])(rng)
    up = rng.random() < 0.8
    sql = f"@{v.kind} = {v.mark} AND @population {'>' if up else '<'} (SELECT AVG(population) FROM cities WHERE {v.kind} = {v.mark})"
    than = "{larger|bigger|more populous}" if up else "{smaller|less populous}"
    side = "above" if up else "below"
    return worded(
        rng,
        f"{v.kind}average_filter",
        sql,
        f"in <v> are {than} than the average {{city in <v>|<v> city|there|city there}}",
        f"in <v> {{{than} than|with more people than}} the {{average city in <v>|average <v> city|average there|<v> average|average city there}}|in <v> {side} the {{<v> |}}average|in <v> with {{a|}} population {side} the average {{of <v>|for <v>|in <v>|there}}".replace(
            "with more people than", f"with {'more' if up else 'fewer'} people than"
        ),
        values=(v,),
    )


def country_subset_average(world: World, rng: random.Random) -> Filter:
    v = world.continent(rng)
    column, noun = rng.choice([("population", "population"), ("population", "population"), ("area_km2", "area")])
    up = rng.random() < 0.8
    sql = f"@continent = {v.mark} AND @{column} {'>' if up else '<'} (SELECT AVG({column}) FROM countries WHERE continent = {v.mark})"
    than = {
        ("population", True): "{more populous|more populated}",
        ("population", False): "less populous",
        ("area_km2", True): "{larger|bigger}",
        ("area_km2", False): "smaller",
    }[column, up]
    return worded(
        rng,
        f"continent_average_{noun}",
        sql,
        f"in <v> are {than} than the average {{country in <v>|<v> country|country there}}",
        f"in <v> {than} than the average {{country in <v>|<v> country|country there|one}}|in <v> with {{a|an}} {noun} {'above' if up else 'below'} the {{average of <v>|<v> average|continent's average|average there|continental average}}",
        values=(v,),
    )


def than_capital(world: World, rng: random.Random) -> Filter:
    """Cities of a named country that outnumber its capital."""
    v = world.country(rng)
    sql = f"@country = {v.mark} AND @population > (SELECT population FROM cities WHERE country = {v.mark} AND name = (SELECT capital FROM countries WHERE code = {v.mark}))"
    return worded(
        rng,
        "than_capital",
        sql,
        "in <v> {are {bigger|larger|more populous} than|have more {people|inhabitants} than|have a {larger|bigger} population than|outnumber} {its|the|the country's|<v>'s} capital {city|}",
        "in <v> {{bigger|larger|more populous} than|with more {people|inhabitants} than|that are {larger|bigger} than|with a {larger|bigger} population than} {its|the|the country's|<v>'s} capital {city|}|{bigger|larger} than the capital of <v> in <v>",
        values=(v,),
    )


_COUNTRY_OF_CITY: list[Maker] = [
    phone,
    country_population,
    country_area,
    currency,
    not_in_continent,
    same_as_country,
    either_continent,
    country_density,
]


def city_country_filter(world: World, rng: random.Random) -> Filter:
    """A city in a country that meets a condition of its own."""
    inner = rng.choice(_COUNTRY_OF_CITY)(world, rng)
    noun = rng.choice(["countries", "countries", "nations"])
    lead = rng.choice(["in", "in", "in", "located in", "within"])
    text = f"{noun} {inner.post}"
    return Filter(
        f"country_{inner.kind}",
        inner.sql.replace("@", "countries."),
        f"are {lead} {text}",
        f"{lead} {text}",
        "",
        ("countries",),
        inner.values,
    )
