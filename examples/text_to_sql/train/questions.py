"""Questions about sets of things: listing, counting, aggregates, extremes, grouping; each with its SQL.

Every maker returns a `Draft` or None where the draw does not fit. Named places alone are asked of in `lookups`.
"""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from examples.text_to_sql.train.conditions import DENSITY
from examples.text_to_sql.train.filters import draw_filters
from examples.text_to_sql.train.speech import pick, say, third_person
from examples.text_to_sql.train.sql import Filter, Query
from examples.text_to_sql.train.world import World


@dataclass(frozen=True, slots=True)
class Draft:
    """A worded question, its SQL with marks for values, and its shape: what is asked, of what, under which conditions."""

    question: str
    sql: str
    shape: str
    parts: int


DraftMaker = Callable[[World, random.Random], Draft | None]

NOUNS = {
    "countries": ("country|country|country|nation", "countries|countries|countries|nations"),
    "cities": ("city|city|city|town", "cities|cities|cities|cities|towns"),
    "states": ("state|state|us state|american state", "states|states|us states|american states|states of the us"),
    "continents": ("continent", "continents"),
}
ASK = (
    "list|list all|show|show me|show all|give me|name|name all|find|find all|get|get all|display|tell me|which are|what are|give me a list of"
    "|i want|i need|i would like to see|return|enumerate|fetch|list out|give me all|show me all|can you list|please list|could you show me|identify|name every|list every"
)


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that things have: SQL, its name, and what the most and the least of it are called."""

    kind: str
    sql: str
    noun: str
    most: str
    least: str


MEASURES: dict[str, list[Measure]] = {
    "countries": [
        Measure("population", "@population", "population|number of {people|inhabitants}|population size",
                "most populous|most populated|with the {most people|largest population|highest population|biggest population|greatest population|most inhabitants}|largest by population|biggest by population|largest in terms of population|with the highest number of people",
                "least populous|least populated|with the {fewest people|smallest population|lowest population|least people|fewest inhabitants}|smallest by population"),
        Measure("area", "@area_km2", "area|land area|size|surface area|total area|surface",
                "largest|biggest|largest by area|with the {largest|biggest|greatest} {area|land area|surface area}|largest in area|biggest in size|biggest by area|that is largest by land area",
                "smallest|smallest by area|with the {smallest|least} {area|land area|surface area}|tiniest|smallest in area|smallest in size"),
        Measure("density", DENSITY, "population density|density|people per {sqkm|square kilometer}|number of people per sqkm",
                "most densely populated|with the {highest|greatest|largest} {population|} density|densest|most crowded|with the most people per {sqkm|square kilometer|km2}|most dense",
                "least densely populated|with the {lowest|smallest} {population|} density|sparsest|most sparsely populated|with the fewest people per {sqkm|square kilometer|km2}|least dense"),
    ],
    "cities": [
        Measure("population", "@population", "population|number of {people|inhabitants|residents}|size|population size",
                "largest|biggest|most populous|most populated|with the {most people|largest population|highest population|biggest population|greatest population|most inhabitants|most residents}|largest by population",
                "smallest|least populous|least populated|with the {fewest people|smallest population|lowest population|least people|fewest inhabitants}|tiniest|smallest by population"),
        Measure("latitude", "@latitude", "latitude",
                "northernmost|most northern|most northerly|furthest north|farthest north|with the highest latitude|that is {furthest|farthest} north|located {furthest|farthest} north|northmost",
                "southernmost|most southern|most southerly|furthest south|farthest south|with the lowest latitude|that is {furthest|farthest} south|located {furthest|farthest} south|southmost"),
        Measure("longitude", "@longitude", "longitude",
                "easternmost|most eastern|most easterly|furthest east|farthest east|with the highest longitude|that is {furthest|farthest} east|eastmost",
                "westernmost|most western|most westerly|furthest west|farthest west|with the lowest longitude|that is {furthest|farthest} west|westmost"),
        Measure("equator", "ABS(@latitude)", "distance from the equator",
                "{furthest|farthest} from the equator|most distant from the equator",
                "{closest|nearest} to the equator|that is {closest|nearest} to the equator"),
    ],
    "continents": [
        Measure("population", "@population", "population|number of people",
                "most populous|most populated|with the {most people|largest population|highest population|biggest population}|largest by population",
                "least populous|least populated|with the {fewest people|smallest population|lowest population}|smallest by population"),
    ],
}  # fmt: skip
_WEIGHTS: dict[str, list[float]] = {"countries": [5, 4, 2.2], "cities": [9, 1.6, 0.7, 0.7], "continents": [1]}


def measure_of(rng: random.Random, table: str) -> Measure:
    """One of the measures of `table`, population most often."""
    return rng.choices(MEASURES[table], _WEIGHTS[table])[0]


def noun(rng: random.Random, table: str, plural: bool = True) -> str:
    """What things of `table` are called."""
    return pick(rng, NOUNS[table][plural])


def phrase(rng: random.Random, head: str, filters: list[Filter], extra: str = "") -> str:
    """`head` (a noun) with the filters before and behind it; at most one goes before."""
    front, posts = "", [extra] if extra else []
    for one in filters:
        if one.adj and not front and rng.random() < 0.75:
            front = one.adj
        else:
            posts.append(one.post)
    if extra and rng.random() < 0.5:
        rng.shuffle(posts)
    return f"{front} {head} {join_posts(rng, posts)}".strip()


def join_posts(rng: random.Random, posts: list[str]) -> str:
    """Conditions one behind the other, joined as people do."""
    text = ""
    for index, post in enumerate(posts):
        short = posts[index - 1].count(" ") < 3 if index else True
        glue = (
            ""
            if not index
            else rng.choice(["", "", "", "and", "and"] if short else ["and", "and", "and", "", "but", "and also"])
        )
        text = f"{text} {glue} {post}"
    return text


def relative(rng: random.Random, filters: list[Filter], plural: bool = True) -> str:
    """The filters as the predicate of a 'which …' question: 'use the euro and have more than …'."""
    verbs = [one.verb if plural else third_person(one.verb) for one in filters]
    return f" {rng.choice(['and', 'and', 'and also'])} ".join(verbs)


def shape_of(kind: str, table: str, filters: list[Filter], *more: str) -> tuple[str, int]:
    """The shape's name and how many parts it is composed of."""
    kinds = sorted(one.kind for one in filters)
    parts = [kind, table, *more]
    return "/".join([*parts, "+".join(kinds)]), len(kinds) + len(more) + (kind not in ("list", "count", "top"))


def _table(rng: random.Random) -> str:
    return rng.choices(["countries", "cities", "states", "continents"], [5, 5, 0.5, 0.25])[0]


def _filter_count(rng: random.Random, table: str) -> int:
    if table in ("states", "continents"):
        return 1
    return rng.choices([1, 2, 3], [6, 4, 0.6])[0]


def ask_list(world: World, rng: random.Random) -> Draft | None:
    """Which things meet the conditions?"""
    table = _table(rng)
    filters = draw_filters(world, rng, table, _filter_count(rng, table))
    if rng.random() < 0.06:
        filters = []
    column = "@name"
    roll = rng.random()
    things = phrase(rng, noun(rng, table), filters)
    if roll < 0.3 and filters:
        first, rest = filters[0], filters[1:]
        text = f"{rng.choice(['which', 'which', 'what'])} {phrase(rng, noun(rng, table), rest)} {first.verb}"
        if rng.random() < 0.35:
            text = f"{rng.choice(['which', 'what'])} {noun(rng, table)} {relative(rng, filters)}"
        elif rng.random() < 0.15:
            text = f"{rng.choice(['which', 'what'])} {noun(rng, table, False)} {relative(rng, filters, plural=False)}"
    elif roll < 0.42:
        text = say(rng, f"{{what|which}} {things} {{are there|exist|do we have|can be found|are listed|}}")
    elif roll < 0.55:
        text = things
    elif roll < 0.68:
        text = say(rng, f"{pick(rng, ASK)} the {{names|name}} of {{all|all the|the|every|}} {things}")
    else:
        text = say(rng, f"{pick(rng, ASK)} {{the|all|the|all the|every||}} {things}")
    if rng.random() < 0.05:
        text += say(
            rng,
            f" {{.|?|,}} {{{{just|only|}} {{the|}} {{names|{noun(rng, table, False)} names}} {{please|}}|names only|name only|{{give|list|show}} {{me|}} {{just|only|}} {{the|their}} names}}",
        )
    query = Query(column, table).add(filters)
    kind = "list"
    if rng.random() < 0.16:
        kind, text = _ordered(rng, table, query, text)
    shape, parts = shape_of(kind, table, filters)
    return Draft(text, query.render(), shape, parts)


def _ordered(rng: random.Random, table: str, query: Query, text: str) -> tuple[str, str]:
    """Ask for an order as well."""
    if table not in MEASURES or rng.random() < 0.3:
        down = rng.random() < 0.12
        query.order = "@name DESC" if down else "@name"
        how = (
            "{in reverse alphabetical order|in descending alphabetical order|from z to a|reverse alphabetically}"
            if down
            else "{alphabetically|in alphabetical order|sorted by name|ordered by name|from a to z|sorted alphabetically|by name}"
        )
        return "list_by_name", f"{text} {say(rng, how)}"
    measure = measure_of(rng, table)
    if measure.kind == "equator":
        measure = MEASURES[table][0]
    down = rng.random() < 0.7
    query.order = f"{measure.sql} {'DESC' if down else ''}".strip()
    if measure.kind == "density":
        query.where.append("@area_km2 > 0")
    by = pick(rng, measure.noun)
    ways = [
        "{sorted|ordered|ranked|order|sort} by <by> {{descending|in descending order|from {highest|largest|biggest} to {lowest|smallest}|{largest|biggest|highest} first|from most to least|desc}}"
        if down
        else "{sorted|ordered|order|sort} by <by> {{ascending|in ascending order|from {lowest|smallest} to {highest|largest|biggest}|{smallest|lowest} first|from least to most|asc|}}"
    ]
    if down:
        ways.append("{by|ranked by|in order of|in descending order of} <by>")
    if measure.kind in ("population", "area"):
        ways.append(
            "{from {largest|biggest} to smallest|{largest|biggest} first|starting with the {largest|biggest}} {by <by>|}"
            if down
            else "{from smallest to {largest|biggest}|smallest first} {by <by>|}"
        )
        if table == "countries" and measure.kind == "population":
            ways.pop()
    return f"list_by_{measure.kind}_{'down' if down else 'up'}", f"{text} {say(rng, rng.choice(ways), by=by)}"


def ask_count(world: World, rng: random.Random) -> Draft | None:
    """How many things meet the conditions?"""
    table = _table(rng)
    filters = draw_filters(world, rng, table, _filter_count(rng, table))
    if rng.random() < 0.05:
        filters = []
    things = phrase(rng, noun(rng, table), filters)
    roll = rng.random()
    if roll < 0.3 and filters:
        text = f"how many {phrase(rng, noun(rng, table), filters[1:])} {filters[0].verb}"
        if rng.random() < 0.3:
            text = f"how many {noun(rng, table)} {relative(rng, filters)}"
    elif roll < 0.65:
        text = say(
            rng, f"how many {things} {{are there|exist||do we have|are listed|are in the database|can you find}}"
        )
    elif roll < 0.72:
        text = say(
            rng,
            f"how many {noun(rng, table)} are there {phrase(rng, '', [Filter(f.kind, f.sql, f.verb, f.post) for f in filters])}",
        )
    else:
        text = say(
            rng, f"{{what is the|tell me the|give me the|find the|}} {{number|total number|count|amount}} of {things}|x"
        )
        text = say(
            rng,
            f"{{count|count the|count all|count how many|{{what is the|tell me the|give me the|find the|show the|}} {{number|total number|count|number|total count}} of|tell me how many|number of|can you count the}} {things}",
        )
    query = Query("COUNT(*)", table).add(filters)
    shape, parts = shape_of("count", table, filters)
    return Draft(text, query.render(), shape, parts)


Detail = tuple[str, str, str, tuple[str, ...]]
"""A column that may be asked for: its kind, SQL, names and joined tables."""
_DETAILS: dict[str, list[Detail]] = {
    "countries": [
        ("capital", "@capital", "capital|capital city|capitals|capital cities", ()),
        ("population", "@population", "population|populations|number of people|number of inhabitants", ()),
        ("area", "@area_km2", "area|land area|areas|size|surface area", ()),
        ("currency", "@currency", "currency|currencies|official currency|money", ()),
        ("currency_code", "@currency_code", "currency code|currency codes|iso currency code", ()),
        ("phone", "@phone_code", "phone code|phone codes|dialing code|calling code|calling codes|dialing codes|phone prefix", ()),
        ("tld", "@tld", "tld|internet domain|domain|top level domain|tlds|top-level domains|web domain", ()),
        ("code", "@code", "code|country code|iso code|iso codes|country codes|two letter code", ()),
        ("continent", "continents.name", "continent", ("continents",)),
        ("density", DENSITY, "population density|density|people per sqkm", ()),
    ],
    "cities": [
        ("population", "@population", "population|populations|number of people|number of inhabitants", ()),
        ("country", "countries.name", "country|countries", ("countries",)),
        ("timezone", "@timezone", "time zone|timezone|time zones|timezones", ()),
        ("latitude", "@latitude", "latitude|latitudes", ()),
        ("longitude", "@longitude", "longitude|longitudes", ()),
        ("state", "states.name", "state|states", ("states",)),
        ("continent", "continents.name", "continent", ("continents", "countries")),
    ],
    "states": [("code", "@code", "code|abbreviation|state code|postal code|abbreviations|codes|postal abbreviation", ())],
    "continents": [("population", "@population", "population|number of people|populations", ()), ("code", "@code", "code|codes|continent code", ())],
}  # fmt: skip


def details(rng: random.Random, table: str, filters: list[Filter], count: int) -> list[Detail]:
    """`count` different columns to ask for: kind, SQL, names, joined tables."""
    options = list(_DETAILS[table])
    if not any("state" in one.kind or one.kind == "country" for one in filters):
        options = [option for option in options if option[0] != "state"]
    weights = [4.0 if option[0] in ("population", "capital", "country") else 1.0 for option in options]
    found: list[Detail] = []
    while options and len(found) < count:
        option = rng.choices(options, weights)[0]
        weights.pop(options.index(option))
        options.remove(option)
        found.append(option)
    return found


def ask_details(world: World, rng: random.Random) -> Draft | None:
    """Columns of the things that meet the conditions: 'the capitals of …', 'names and populations of …'."""
    table = rng.choices(["countries", "cities", "states", "continents"], [6, 4, 0.4, 0.4])[0]
    filters = draw_filters(
        world, rng, table, rng.choices([0, 1, 2], [0.5, 6, 1.5])[0] if table in ("countries", "cities") else 0
    )
    with_name = rng.random() < 0.55
    chosen = details(rng, table, filters, rng.choices([1, 2], [4, 1])[0])
    words = [pick(rng, option[2]) for option in chosen]
    things = phrase(rng, noun(rng, table), filters)
    columns = [option[1] for option in chosen]
    if with_name:
        columns.insert(0, "@name")
        names = rng.choice(["names", "name"])
        listed = (
            " and ".join([" ".join([names] if len(words) == 1 else [f"{names},"]), *words])
            if rng.random() < 0.4
            else ""
        )
        text = say(
            rng,
            rng.choice(
                [
                    f"{pick(rng, ASK)} the {listed} of {{all|all the|the|}} {things}"
                    if listed
                    else f"{pick(rng, ASK)} {{the|all|}} {things} {{with|and|along with|together with|including}} {{their|its|the}} {' and '.join(words)}",
                    f"{{list|show|give me|show me|display}} {{the|all|each|every|}} {things} {{with|and|along with|together with}} {{their|its}} {' and '.join(words)}",
                    f"{things} {{with|and|and also|plus}} {{their|}} {' and '.join(words)}",
                    f"{{list|show|give me|}} {{the|}} {' and '.join(words)} {{of|for}} {{all|the|}} {things} {{, with the|with the|and the|along with the|together with the|. include the}} {{{noun(rng, table, False)}|}} {{name|names}}"
                    if len(words) == 1
                    else f"{things} with {' and '.join(words)}",
                    f"{pick(rng, ASK)} {{the|all|}} {things} {{.|,}} {{show|give|include|list}} {{me|}} {{the|}} name and {' and '.join(words)}",
                ]
            ),
        )
    else:
        head = " and ".join(words)
        text = say(
            rng,
            rng.choice(
                [
                    f"{{what are the|list the|show me the|give me the|show|what is the|tell me the|find the|get the|list}} {head} of {{all|all the|the|every|each|}} {things}",
                    f"{head} of {{all|all the|the|}} {things}",
                    f"{{what are the|list the|show the|list all|show all}} {head} {{for|of}} {{all|}} {things}",
                ]
            ),
        )
        if len(chosen) == 2 and rng.random() < 0.4:
            text = say(
                rng,
                f"what {{is|are}} the {words[0]} of {things} and {{what is|what are|what|}} {{their|its|the}} {words[1]}",
            )
        if (
            len(chosen) == 1
            and chosen[0][0] in ("capital", "currency", "currency_code")
            and filters
            and rng.random() < 0.12
        ):
            text = say(rng, f"what {head} do {things} {{have|use}}")
    query = Query(", ".join(columns), table).add(filters)
    for option in chosen:
        query.tables += option[3]
    kind = "details_named" if with_name else "details"
    if rng.random() < 0.08 and with_name:
        order_kind, text = _ordered(rng, table, query, text)
        kind += order_kind.removeprefix("list")
    shape, parts = shape_of(kind, table, filters, "+".join(option[0] for option in chosen))
    return Draft(text, query.render(), shape, parts)


_AGGREGATES: list[tuple[str, str, float]] = [
    ("SUM", "total|combined|total|overall|sum of the|aggregate|summed", 4),
    ("AVG", "average|mean|average|avg|typical", 5),
    ("MAX", "maximum|highest|largest|max|greatest|biggest", 1.3),
    ("MIN", "minimum|lowest|smallest|min", 1.3),
]  # fmt: skip


def ask_aggregate(world: World, rng: random.Random) -> Draft | None:
    """A total, mean, maximum or minimum over the things that meet the conditions."""
    table = rng.choices(["countries", "cities", "continents"], [5, 5, 0.2])[0]
    measure = measure_of(rng, table)
    function, words, _ = rng.choices(_AGGREGATES, [entry[2] for entry in _AGGREGATES])[0]
    if measure.kind == "equator" or (function == "SUM" and measure.kind not in ("population", "area")):
        return None
    filters = draw_filters(world, rng, table, 0 if table == "continents" else rng.choices([0, 1, 2], [0.5, 6, 2])[0])
    things = phrase(rng, noun(rng, table), filters)
    name = pick(
        rng,
        {
            "population": "population|number of people|number of inhabitants|population",
            "area": "area|land area|size|surface area",
        }.get(measure.kind, measure.noun),
    )
    word = pick(rng, words)
    options = [
        f"{{what is the|what's the|tell me the|give me the|find the|calculate the|compute the|show me the|}} {word} {name} of {{all|all the|the|}} {things}",
        f"{{what is the|what's the|tell me the|find the|}} {word} {name} {{of|for|across|among|over}} {{all|the|}} {things}",
        f"{word} {name} of {things}",
    ]
    if function == "SUM" and measure.kind == "population":
        options += [
            f"how many {{people|inhabitants|residents}} {{live|live in total|in total live|are there|altogether live}} in {{all|the|all the|}} {things} {{combined|in total|together|altogether|put together|taken together|}}",
            f"how many {{people|inhabitants}} do {{all|the|}} {things} have {{combined|in total|together|altogether}}",
            f"{{how many people|total number of people|total number of inhabitants}} {{live|living}} in {things}",
            f"what do the populations of {things} add up to",
            f"add up the {{population|populations}} of {{all|all the|the|}} {things} {{. what do you get|}}",
            f"{{sum|add|add up}} {{the|}} {{population|populations}} of {{all|}} {things}",
        ]
    if function == "SUM" and measure.kind == "area":
        options += [
            f"how {{big|large}} are {{all|the|all the|}} {things} {{combined|together|in total}}",
            f"how {{much land|many sqkm|many square kilometers}} do {{all|the|}} {things} {{cover|have}} {{combined|together|in total|}}",
        ]
    if function == "AVG" and measure.kind == "population":
        options += [
            f"how many {{people|inhabitants}} {{live|are there}} on average in {things}",
            f"how many people does {{a|an|the}} {{average|typical}} {phrase(rng, noun(rng, table, False), filters)} have",
            f"what is the population of {{an|the}} average {phrase(rng, noun(rng, table, False), filters)}",
            f"how {{populous|big|large}} are {things} on average"
            if table == "cities"
            else f"on average how many people live in {things}",
        ]
    if function == "AVG" and measure.kind == "area":
        options += [
            f"how {{big|large}} is {{a|an|the}} {{average|typical}} {phrase(rng, noun(rng, table, False), filters)}",
            f"how {{big|large}} are {things} on average",
        ]
    query = Query(f"{function}({measure.sql})", table).add(filters)
    shape, parts = shape_of("aggregate", table, filters, f"{function}_{measure.kind}")
    return Draft(say(rng, rng.choice(options)), query.render(), shape, parts)


def ask_distinct(world: World, rng: random.Random) -> Draft | None:
    """Which currencies or time zones occur among the things that meet the conditions, or how many."""
    table, column, words = rng.choice(
        [
            ("countries", "currency", "currencies|currencies|different currencies|distinct currencies|kinds of money|unique currencies"),
            ("cities", "timezone", "time zones|timezones|different time zones|distinct timezones|unique timezones|time zones"),
            ("cities", "timezone", "time zones|timezones|time zones"),
            ("countries", "currency_code", "currency codes|different currency codes|unique currency codes"),
            ("cities", "countries.name", "countries|different countries|countries|nations"),
            ("countries", "continents.name", "continents|different continents"),
        ]
    )  # fmt: skip
    filters = draw_filters(world, rng, table, rng.choices([0, 1, 2], [0.7, 6, 1])[0])
    joined = "." in column
    if joined and (
        not filters
        or any(one.kind in ("country", "state", "continent", "same_continent", "not_country") for one in filters)
    ):
        return None
    plural = pick(rng, words)
    things = phrase(rng, noun(rng, table), filters)
    place = next((one for one in filters if one.kind in ("country", "state", "city_continent", "continent")), None)
    where = (
        place.post
        if place and len(filters) == 1 and rng.random() < 0.7 and not place.post.startswith(("that", "are"))
        else f"{{in|of|across|among|by}} {things}"
    )
    count = rng.random() < 0.35
    expression = column if joined else f"@{column}"
    query = Query(f"COUNT(DISTINCT {expression})" if count else f"DISTINCT {expression}", table).add(filters)
    if joined:
        query.tables.append(column.split(".")[0])
        if column == "countries.name" and count:
            query.select = "COUNT(DISTINCT @country)"
            query.tables.remove("countries")
        if column == "continents.name" and count:
            query.select = "COUNT(DISTINCT @continent)"
            query.tables.remove("continents")
        verb = "have" if rng.random() < 0.6 else "contain"
        asks = [
            f"{{which|what}} {plural} {verb} {{a|any|at least one}} {phrase(rng, noun(rng, table, False), filters)}",
            f"{{which|what}} {plural} have {things}",
        ]
        counts = [
            f"how many {plural} have {{a|any|at least one}} {phrase(rng, noun(rng, table, False), filters)}",
            f"how many {plural} have {things}",
        ]
    else:
        asks = [
            f"{{what|which}} {plural} {{are used|exist|are there|do they use|can be found|are in use|are found|}} {where}",
            f"{pick(rng, ASK)} {{the|all|all the|}} {plural} {{used|found||}} {where}",
            f"{plural} {{used|}} {where}",
            f"{{what|which}} {plural} do {things} {{use|have|span}}",
        ]
        counts = [
            f"how many {plural} {{are used|exist|are there|are in use|}} {where}",
            f"how many {plural} do {things} {{use|have|span}}",
            f"{{what is the|}} number of {plural} {{used|}} {where}",
            f"count the {plural} {where}",
        ]
    shape, parts = shape_of("count_distinct" if count else "distinct", table, filters, column)
    return Draft(say(rng, rng.choice(counts if count else asks)), query.render(), shape, parts)
