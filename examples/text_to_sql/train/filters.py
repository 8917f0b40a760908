"""Conditions on countries, cities, states and continents, each with its SQL and many wordings.

`country_filter` and the like draw one; the tables at the end name the kinds. Never builds a whole question.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from examples.text_to_sql.train.speech import comparison, pick, say
from examples.text_to_sql.train.sql import Filter, Val
from examples.text_to_sql.train.world import World

Maker = Callable[[World, random.Random], Filter]


def _f(
    rng: random.Random,
    kind: str,
    sql: str,
    verb: str,
    post: str,
    adj: str = "",
    tables: tuple[str, ...] = (),
    values: tuple[Val, ...] = (),
) -> Filter:
    """A filter whose wordings are templates; `<v>`, `<w>` stand for the values as spoken."""
    slots = {"v": values[0].spoken} if values else {}
    if len(values) > 1:
        slots["w"] = values[1].spoken
    verb = say(rng, pick(rng, verb), **slots)
    post = say(rng, pick(rng, post), **slots)
    if rng.random() < 0.2:
        post = f"that {verb}"
    return Filter(kind, sql, verb, post, say(rng, pick(rng, adj), **slots) if adj else "", tables, values)


# -- countries ---------------------------------------------------------------------------------------------------------


def _in_continent(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.35:
        v = world.continental(rng)
        return _f(rng, "continent", f"@continent = {v.mark}", "are <v>", "in <v> continent" if rng.random() < 0.02 else "that are <v>", "<v>", values=(v,))
    v = world.continent(rng)
    return _f(
        rng,
        "continent",
        f"@continent = {v.mark}",
        "are {in|located in|part of|situated in|found in|on the continent of} <v>|lie in <v>|belong to <v>",
        "in <v>|in <v>|in <v>|of <v>|from <v>|located in <v>|on the continent of <v>|in the continent of <v>|within <v>|across <v>|throughout <v>|anywhere in <v>",
        values=(v,),
    )


def _not_in_continent(world: World, rng: random.Random) -> Filter:
    v = world.continent(rng)
    return _f(
        rng,
        "not_continent",
        f"@continent <> {v.mark}",
        "are {not in|outside|outside of|not part of} <v>|{do not|don't} lie in <v>",
        "outside <v>|outside of <v>|not in <v>|that are not in <v>|that aren't in <v>|not located in <v>|except those in <v>|excluding <v>",
        "non <v>" if rng.random() < 0.1 else "",
        values=(v,),
    )


def _either_continent(world: World, rng: random.Random) -> Filter:
    v, w = world.continent(rng), world.continent(rng)
    return _f(
        rng,
        "either_continent",
        f"@continent IN ({v.mark}, {w.mark})",
        "are in {either|} <v> or <w>|are in <v> and <w>",
        "in <v> or <w>|in <v> and <w>|in either <v> or <w>|located in <v> or <w>|from <v> and <w>|in both <v> and <w>",
        values=(v, w),
    )


def _number_filter(
    kind: str, column: str, low: float, high: float, verb: str, post: str, adj: str = ""
) -> Maker:
    """A comparison of `column` with a number; `<c>` in the wordings is the comparison with its number."""

    def make(world: World, rng: random.Random) -> Filter:
        if rng.random() < 0.13:
            a = world.number(rng, low, high)
            b = world.number(rng, low, high)
            if int(a.literal) > int(b.literal):
                a, b = b, a
            spoken = say(rng, pick(rng, "between <v> and <w>|between <v> and <w>|from <v> to <w>|in the range <v> to <w>|between <v> to <w>|of <v> to <w>|in between <v> and <w>"))
            sql, values = f"{column} BETWEEN {a.mark} AND {b.mark}", (a, b)
            kind_here = f"{kind}_between"
        else:
            a = world.number(rng, low, high)
            operator, spoken = comparison(rng)
            spoken = spoken.replace("<n>", "<v>")
            sql, values = f"{column} {operator} {a.mark}", (a,)
            kind_here = kind
        return _f(rng, kind_here, sql, verb.replace("<c>", spoken), post.replace("<c>", spoken), adj, values=values)

    return make


_PEOPLE = "{people|people|inhabitants|residents|persons|citizens}"
_POP_VERB = (
    f"have <c> {_PEOPLE}|have {{a population|populations}} {{of|}} <c>|have a population {{that is|}} <c>|are home to <c> {_PEOPLE}"
    f"|have <c> {_PEOPLE} living in {{them|it}}|have <c> in population"
)
_POP_POST = (
    f"with <c> {_PEOPLE}|with <c> {_PEOPLE}|with {{a population|populations}} {{of|}} <c>|with a population <c>|whose population is <c>"
    f"|where <c> {_PEOPLE} live|having <c> {_PEOPLE}|having a population of <c>|with population <c>|population <c>|<c> {_PEOPLE}"
    f"|of <c> {_PEOPLE}|that have <c> {_PEOPLE}|where the population is <c>|home to <c> {_PEOPLE}"
)
_SQKM = "{sqkm|square kilometers|square kilometres|km2|sq km|square km|km²}"
_AREA_VERB = f"have an area {{of|}} <c> {{{_SQKM}|}}|are <c> {_SQKM}|cover <c> {_SQKM}|have <c> {_SQKM} {{of land|}}|are <c> {_SQKM} in {{area|size}}"
_AREA_POST = (
    f"with an area {{of|}} <c> {{{_SQKM}|}}|<c> {_SQKM}|whose area is <c> {{{_SQKM}|}}|covering <c> {_SQKM}|with areas <c>|with area <c>"
    f"|with <c> {_SQKM} {{of land|}}|having an area <c> {{{_SQKM}|}}|spanning <c> {_SQKM}|of <c> {_SQKM}|with a {{land|surface}} area of <c> {{{_SQKM}|}}"
)
_DENSITY_UNIT = "{people per sqkm|people per square kilometer|people per square km|people per km2|inhabitants per sqkm|}"
_DENSITY_VERB = f"have a {{population|}} density {{of|}} <c> {_DENSITY_UNIT}|have <c> people per {_SQKM}"
_DENSITY_POST = f"with a {{population|}} density {{of|}} <c> {_DENSITY_UNIT}|with <c> people per {_SQKM}|whose {{population|}} density is <c> {_DENSITY_UNIT}|density <c>"
DENSITY = "@population / @area_km2"

_country_population = _number_filter("population", "@population", 20_000, 500_000_000, _POP_VERB, _POP_POST)
_country_area = _number_filter("area", "@area_km2", 50, 5_000_000, _AREA_VERB, _AREA_POST)
_country_density = _number_filter("density", DENSITY, 5, 2000, _DENSITY_VERB, _DENSITY_POST)


def _currency(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.35:
        v, column, kind = world.money_code(rng), "@currency_code", "currency_code"
    else:
        v, column, kind = world.currency(rng), "@currency", "currency"
    if rng.random() < 0.17:
        return _f(
            rng,
            f"not_{kind}",
            f"{column} <> {v.mark}",
            "{do not|don't} use {the|} <v>|do not have the <v> as {their|its} currency|are not using the <v>",
            "that {do not|don't} use {the|} <v>|not using the <v>|without the <v>|whose currency is not the <v>|whose currency isn't <v>|with a currency other than the <v>",
            values=(v,),
        )
    return _f(
        rng,
        kind,
        f"{column} = {v.mark}",
        "use {the|} <v>|use {the|} <v>|use {the|} <v> as {their|its|a|official} currency|have {the|} <v> as {their|its|the} {official|national|} currency"
        "|have <v> as currency|pay {with|in} {the|} <v>|have the currency <v>|have currency code <v>" + ("|use currency code <v>" if column != "@currency" else ""),
        "using {the|} <v>|that use {the|} <v>|whose currency is {the|} <v>|with {the|} <v> as {their|its|the|} currency|where {the|} <v> is {used|the currency|legal tender}"
        "|on {the|} <v>|where people pay {with|in} {the|} <v>|with currency <v>|with the currency code <v>|which use the <v>|where you can pay {with|in} {the|} <v>"
        "|that have adopted the <v>|where {they use|you pay with|people use} {the|} <v>",
        "<v> using|<v>" if rng.random() < 0.15 else "",
        values=(v,),
    )


def _name_like(world: World, rng: random.Random) -> Filter:
    mode = rng.choice(["start", "start", "start", "end", "contain"])
    v = world.text(rng, letters=mode == "start" and rng.random() < 0.6)
    letter = "{the letter|letter|the|}" if len(v.literal) == 3 else "{the word|the letters|}"
    if mode == "start":
        sql = f"@name LIKE {v.mark} || '%'"
        verb = f"{{start|begin}} with {letter} <v>|have {{a name|names}} {{starting|that starts|beginning}} with {letter} <v>"
        post = f"{{starting|beginning}} with {letter} <v>|whose {{name|names}} {{starts|start|begins|begin}} with {letter} <v>|that {{start|begin}} with {letter} <v>|with {{a name|names}} {{starting|beginning}} with {letter} <v>"
    elif mode == "end":
        sql = f"@name LIKE '%' || {v.mark}"
        verb = f"end {{in|with}} {letter} <v>|have {{a name|names}} {{ending|that ends}} {{in|with}} {letter} <v>"
        post = f"ending {{in|with}} {letter} <v>|whose {{name|names}} {{ends|end}} {{in|with}} {letter} <v>|that end {{in|with}} {letter} <v>|with names ending {{in|with}} {letter} <v>"
    else:
        v = Val("text", v.literal, f'"{v.literal[1:-1]}"')
        sql = f"@name LIKE '%' || {v.mark} || '%'"
        verb = f"contain {letter} <v>|have {letter} <v> in {{their|its|the}} {{name|names}}|contain {letter} <v> in {{their|the}} name"
        post = f"containing {letter} <v>|whose {{name|names}} {{contains|contain|includes}} {letter} <v>|with {letter} <v> in {{their|its|the}} {{name|names}}|that contain {letter} <v>|with names containing {letter} <v>"
    return _f(rng, f"name_{mode}", sql, verb, post, values=(v,))


def _no_capital(world: World, rng: random.Random) -> Filter:
    return _f(
        rng,
        "no_capital",
        "@capital IS NULL",
        "have no capital {city|}|{do not|don't} have a capital {city|}|lack a capital {city|}|are without a capital",
        "without a capital {city|}|with no capital {city|}|that have no capital|lacking a capital|with no known capital|that do not have a capital|where the capital is {missing|unknown}",
    )


def _no_currency(world: World, rng: random.Random) -> Filter:
    return _f(
        rng,
        "no_currency",
        "@currency IS NULL",
        "have no {official|} currency|{do not|don't} have a currency|lack a currency",
        "without {a|} currency|with no currency|that have no currency|with no listed currency",
    )


def _against_country(world: World, rng: random.Random) -> Filter:
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
    return _f(rng, f"than_{column}", sql, f"have {words} <v>|are {pick(rng, shorts)} <v>", f"with {words} <v>|{pick(rng, shorts)} <v>|that are {pick(rng, shorts)} <v>", values=(v,))


def _country_average(world: World, rng: random.Random) -> Filter:
    column, noun = rng.choice([("population", "population"), ("area_km2", "area")])
    up = rng.random() < 0.7
    sql = f"@{column} {'>' if up else '<'} (SELECT AVG({column}) FROM countries)"
    return _average(rng, sql, noun, up, "country")


def _average(rng: random.Random, sql: str, noun: str, up: bool, thing: str) -> Filter:
    than = "{larger|bigger|higher|greater|more}" if up else "{smaller|lower|less}"
    side = "above" if up else "below"
    base = f"a {{{than} {noun} than|{noun} {side}}} {{the|}} average|{{an|}} {side} average {noun}|a {noun} {side} the {{average|mean}}|a {than} than average {noun}|a {than} {noun} than the average {thing}"
    words = pick(rng, base)
    extra = "|more populous than {the|} average" if noun == "population" and up else ""
    return _f(rng, f"average_{noun}", sql, f"have {words}", f"with {words}|whose {noun} is {side} {{the|}} average{extra}")


def _has_big_city(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 20_000, 15_000_000)
    if rng.random() < 0.3:
        sql = f"@code NOT IN (SELECT country FROM cities WHERE population > {v.mark})"
        return _f(rng, "no_big_city", sql, "have no {city|cities} {over|above|with more than|larger than} <v> {people|}|{do not|don't} have {a city|any city|any cities} {over|with more than} <v> people",
                  "with no {city|cities} {over|above|with more than|larger than} <v> {people|inhabitants|}|without {a city|any city|cities} {over|with more than|of more than} <v> {people|}", values=(v,))  # fmt: skip
    sql = f"@code IN (SELECT country FROM cities WHERE population > {v.mark})"
    return _f(rng, "big_city", sql, "have {a city|at least one city|any city|cities} {over|above|with more than|with over|larger than|of more than} <v> {people|inhabitants|}",
              "with {a city|at least one city|any city|cities} {over|above|with more than|with over|larger than|of more than} <v> {people|inhabitants|}|having a city with more than <v> people|containing a city with more than <v> people", values=(v,))  # fmt: skip


def _city_count(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 2, 300)
    operator, words = comparison(rng)
    words = words.replace("<n>", "<v>")
    sql = f"@code IN (SELECT country FROM cities GROUP BY country HAVING COUNT(*) {operator} {v.mark})"
    return _f(rng, "city_count", sql, f"have {words} {{cities|cities|towns|cities listed}}", f"with {words} {{cities|cities|towns}}|having {words} cities|where there are {words} cities", values=(v,))


def _no_cities(world: World, rng: random.Random) -> Filter:
    sql = "@code NOT IN (SELECT country FROM cities)"
    return _f(rng, "no_cities", sql, "have no cities {at all|listed|in the database|}|{do not|don't} have {any|} cities", "without {any|} cities|with no cities|that have no cities {listed|at all|}|with zero cities")


def _zone_count(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 1, 12)
    sql = f"@code IN (SELECT country FROM cities GROUP BY country HAVING COUNT(DISTINCT timezone) > {v.mark})"
    return _f(rng, "zone_count", sql, "have {more than|over} <v> {time zones|timezones|time zone}|span {more than|over} <v> time zones|use more than <v> timezones", "with {more than|over} <v> {time zones|timezones|different time zones|time zone}|spanning more than <v> time zones", values=(v,))


def _same_as_country(world: World, rng: random.Random) -> Filter:
    v = world.country(rng)
    column, noun = rng.choice([("currency_code", "currency"), ("currency_code", "money"), ("continent", "continent")])
    sql = f"@{column} = (SELECT {column} FROM countries WHERE code = {v.mark})"
    if column == "continent":
        verb = "are {on|in} the same continent as <v>|share a continent with <v>"
        post = "{on|in} the same continent as <v>|{sharing|that share} a continent with <v>|from the same continent as <v>"
    else:
        verb = f"use the same {noun} as <v>|share {{a|its|their}} {noun} with <v>|have the same {noun} as <v>|share <v>'s {noun}"
        post = f"with the same {noun} as <v>|using the same {noun} as <v>|that use the same {noun} as <v>|sharing {{a|the|}} {noun} with <v>|that share <v>'s {noun}"
    return _f(rng, f"same_{column}", sql, verb, post, values=(v,))


def _except_country(world: World, rng: random.Random) -> Filter:
    v = world.country(rng)
    return _f(rng, "except_country", f"@code <> {v.mark}", "are not <v>", "other than <v>|except <v>|except for <v>|besides <v>|excluding <v>|apart from <v>|not counting <v>", values=(v,))


def _capital_size(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 30_000, 15_000_000)
    up = rng.random() < 0.75
    words = pick(rng, MORE_PEOPLE if up else LESS_PEOPLE)
    sql = f"@capital IN (SELECT name FROM cities WHERE country = countries.code AND population {'>' if up else '<'} {v.mark})"
    return _f(rng, "capital_size", sql, f"have a capital {{city|}} with {words} <v> {{people|inhabitants|}}", f"whose capital {{city|}} has {words} <v> {{people|inhabitants|residents}}|with a capital {{city|}} {{of|with}} {words} <v> {{people|}}|whose capital has a population {{of|}} {words} <v>", values=(v,))


MORE_PEOPLE = "more than|over|above|at least"
LESS_PEOPLE = "fewer than|less than|under|below"
MORE_PEOPLE = "more than|over|above"


def _phone(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.5:
        v = world.phone(rng)
        return _f(rng, "phone", f"@phone_code = {v.mark}", "have {the|} {phone|calling|dialing|country calling|dial|telephone} {code|prefix} <v>|use {phone|calling|dialing} code <v>|use <v>", "with {the|} {phone|calling|dialing|country|telephone} {code|prefix} <v>|whose {phone|calling|dialing} code is <v>|with phone code <v>", values=(v,))
    v = world.tld(rng)
    return _f(rng, "tld", f"@tld = {v.mark}", "use {the|} <v> {domain|tld|as its domain|as a top level domain|}|have {the|} {domain|tld|internet domain|top-level domain} <v>|have <v> as {its|their} {domain|tld}", "with {the|} {domain|tld|internet domain|top level domain} <v>|whose {tld|domain|internet domain} is <v>|using {the|} <v> {domain|}", values=(v,))


# -- cities ------------------------------------------------------------------------------------------------------------


def _in_country(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.25:
        v = world.demonym(rng)
        return _f(rng, "country", f"@country = {v.mark}", "are <v>", "that are <v>", "<v>", values=(v,))
    v = world.country(rng)
    return _f(rng, "country", f"@country = {v.mark}", "are {in|located in|situated in|found in|part of} <v>|lie in <v>|belong to <v>", "in <v>|in <v>|in <v>|in <v>|of <v>|from <v>|located in <v>|within <v>|across <v>|throughout <v>|anywhere in <v>|inside <v>", values=(v,))


def _in_state(world: World, rng: random.Random) -> Filter:
    v = world.state(rng)
    return _f(rng, "state", f"@state = {v.mark}", "are {in|located in|found in} {the state of|} <v>|lie in <v>|belong to <v>", "in <v>|in <v>|in <v>|in <v>|in the state of <v>|in {the|} <v> state|of <v>|from <v>|located in <v>|within <v>|across <v>", "<v>" if rng.random() < 0.25 else "", values=(v,))


def _city_continent(world: World, rng: random.Random) -> Filter:
    found = _in_continent(world, rng)
    return Filter("city_continent", found.sql.replace("@", "countries."), found.verb, found.post, found.adj, ("countries",), found.values)


def _not_in_country(world: World, rng: random.Random) -> Filter:
    v = world.country(rng)
    return _f(rng, "not_country", f"@country <> {v.mark}", "are {not in|outside|outside of} <v>", "outside <v>|outside of <v>|not in <v>|that are not in <v>|excluding <v>|except those in <v>", values=(v,))


def _either_country(world: World, rng: random.Random) -> Filter:
    if rng.random() < 0.3:
        v, w = world.state(rng), world.state(rng)
        return _f(rng, "either_state", f"@state IN ({v.mark}, {w.mark})", "are in {either|} <v> or <w>|are in <v> and <w>", "in <v> or <w>|in <v> and <w>|in either <v> or <w>|in <v> and <w> {combined|together|}", values=(v, w))
    v, w = world.country(rng), world.country(rng)
    return _f(rng, "either_country", f"@country IN ({v.mark}, {w.mark})", "are in {either|} <v> or <w>|are in <v> and <w>", "in <v> or <w>|in <v> and <w>|in either <v> or <w>|located in <v> or <w>|in <v> and <w> {combined|together|}|in both <v> and <w>", values=(v, w))


_city_population = _number_filter("population", "@population", 16_000, 20_000_000, _POP_VERB, _POP_POST)


def _zone(world: World, rng: random.Random) -> Filter:
    v = world.zone(rng)
    return _f(rng, "zone", f"@timezone = {v.mark}", "are in {the|} <v> {time zone|timezone|}|use {the|} <v> {time zone|timezone|time|}|observe <v> time|have {the|} timezone <v>", "in {the|} <v> {time zone|timezone|}|in {the|} {timezone|time zone} <v>|with {the|} {timezone|time zone} <v>|on <v> time|using the <v> {timezone|time zone}|that use <v>|whose {timezone|time zone} is <v>", values=(v,))


def _latitude(world: World, rng: random.Random) -> Filter:
    roll = rng.random()
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
        return _f(rng, f"hemisphere_{kind}", sql, f"are {text}|lie {text}", f"{text}|that are {text}|located {text}|lying {text}")
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
    verb = "have " + text.removeprefix("with ") if text.startswith("with") else f"are {text}" if not lead else lead + text
    return _f(rng, kind, sql, verb, text, values=(v,))


def city_value(column: str, mark: str) -> str:
    """The value of `column` for the named city: of the greatest one, where several share the name."""
    return f"(SELECT {column} FROM cities WHERE name = {mark} ORDER BY population DESC LIMIT 1)"


def _against_city(world: World, rng: random.Random) -> Filter:
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
    return _f(rng, f"than_city_{kind}", f"@{kind} {sign} {city_value(kind, v.mark)}", verb, post, values=(v,))


def _same_as_city(world: World, rng: random.Random) -> Filter:
    v = world.city(rng)
    column, noun = rng.choice([("timezone", "{time zone|timezone}"), ("timezone", "{time zone|timezone}"), ("country", "country")])
    verb = f"are in the same {noun} as <v>" + (f"|share {{a|the}} {noun} with <v>|have the same {noun} as <v>" if column == "timezone" else "")
    post = f"in the same {noun} as <v>|in the same {noun} as <v>" + (f"|sharing {{a|the|}} {noun} with <v>|with the same {noun} as <v>|that share <v>'s {noun}" if column == "timezone" else "")
    return _f(rng, f"same_city_{column}", f"@{column} = {city_value(column, v.mark)}", verb, post, values=(v,))


def _city_average(world: World, rng: random.Random) -> Filter:
    up = rng.random() < 0.75
    return _average(rng, f"@population {'>' if up else '<'} (SELECT AVG(population) FROM cities)", "population", up, "city")


def _capital_city(world: World, rng: random.Random) -> Filter:
    return _f(rng, "capital_city", "@name = countries.capital", "are {capitals|capital cities|the capital|national capitals|the capital of {their|its} country}", "that are {capitals|capital cities|national capitals|the capital of their country}|which are {capitals|the capital of their country}", "capital", tables=("countries",))


def _not_capital_city(world: World, rng: random.Random) -> Filter:
    return _f(rng, "not_capital_city", "@name <> countries.capital", "are not {capitals|capital cities|the capital|national capitals|the capital of {their|its} country}", "that are not {capitals|capital cities|the capital|the capital of their country}|that aren't capitals|which are not the capital|other than {the capital|capitals}", "non capital|non-capital" if rng.random() < 0.5 else "", tables=("countries",))


def _city_named(world: World, rng: random.Random) -> Filter:
    v = world.city(rng)
    return _f(rng, "named", f"@name = {v.mark}", "are {called|named} <v>|have the name <v>|share the name <v>", "{called|named} <v>|with the name <v>|whose name is <v>|{called|named} <v>", values=(v,))


_COUNTRY_OF_CITY: list[Maker] = [_country_population, _country_area, _currency, _not_in_continent, _same_as_country, _either_continent, _country_density]


def _city_country_filter(world: World, rng: random.Random) -> Filter:
    """A city in a country that meets a condition of its own."""
    inner = rng.choice(_COUNTRY_OF_CITY)(world, rng)
    noun = rng.choice(["countries", "countries", "nations"])
    lead = rng.choice(["in", "in", "in", "located in", "within"])
    text = f"{noun} {inner.post}"
    return Filter(f"country_{inner.kind}", inner.sql.replace("@", "countries."), f"are {lead} {text}", f"{lead} {text}", "", ("countries",), inner.values)


# -- states and continents ---------------------------------------------------------------------------------------------


def _state_city_count(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 2, 150)
    operator, words = comparison(rng)
    words = words.replace("<n>", "<v>")
    sql = f"@code IN (SELECT state FROM cities GROUP BY state HAVING COUNT(*) {operator} {v.mark})"
    return _f(rng, "state_city_count", sql, f"have {words} {{cities|towns|cities listed}}", f"with {words} {{cities|towns}}|having {words} cities|where there are {words} cities", values=(v,))


def _state_big_city(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 20_000, 5_000_000)
    if rng.random() < 0.4:
        return _f(rng, "state_no_big_city", f"@code NOT IN (SELECT state FROM cities WHERE state IS NOT NULL AND population > {v.mark})", "have no {city|cities} {over|above|with more than|larger than} <v> {people|}|{do not|don't} have {a city|any city|any cities} {over|with more than} <v> {people|}", "with no {city|cities} {over|above|with more than|larger than} <v> {people|}|without {a city|any city|cities} {over|with more than} <v> {people|}", values=(v,))
    return _f(rng, "state_big_city", f"@code IN (SELECT state FROM cities WHERE population > {v.mark})", "have {a city|at least one city|any city|cities} {over|above|with more than|larger than} <v> {people|inhabitants|}", "with {a city|at least one city|any city|cities} {over|above|with more than|larger than|of more than} <v> {people|inhabitants|}", values=(v,))


def _continent_countries(world: World, rng: random.Random) -> Filter:
    v = world.number(rng, 2, 60)
    operator, words = comparison(rng)
    words = words.replace("<n>", "<v>")
    sql = f"@code IN (SELECT continent FROM countries GROUP BY continent HAVING COUNT(*) {operator} {v.mark})"
    return _f(rng, "country_count", sql, f"have {words} {{countries|nations}}", f"with {words} {{countries|nations}}|having {words} countries", values=(v,))


_continent_population = _number_filter("population", "@population", 1000, 5_000_000_000, _POP_VERB, _POP_POST)

FILTERS: dict[str, list[tuple[Maker, float]]] = {
    "countries": [
        (_in_continent, 5), (_not_in_continent, 0.6), (_either_continent, 0.7), (_country_population, 3),
        (_country_area, 2), (_country_density, 0.7), (_currency, 2), (_name_like, 1.3), (_no_capital, 0.35),
        (_no_currency, 0.15), (_against_country, 1), (_country_average, 0.6), (_has_big_city, 1.2),
        (_city_count, 0.8), (_no_cities, 0.35), (_zone_count, 0.5), (_same_as_country, 0.8), (_except_country, 0.3),
        (_capital_size, 0.8), (_phone, 0.7),
    ],
    "cities": [
        (_in_country, 5), (_in_state, 2.2), (_city_continent, 2.2), (_not_in_country, 0.4), (_either_country, 0.8),
        (_city_population, 3.2), (_zone, 0.9), (_latitude, 1.3), (_name_like, 1.1), (_against_city, 1.2),
        (_same_as_city, 0.6), (_city_average, 0.4), (_capital_city, 0.8), (_not_capital_city, 0.4), (_city_named, 0.5),
        (_city_country_filter, 1.2),
    ],
    "states": [(_state_city_count, 1.2), (_state_big_city, 1.2), (_name_like, 1)],
    "continents": [(_continent_countries, 1), (_continent_population, 1), (_name_like, 0.3)],
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
    "continent not_continent either_continent country state city_continent not_country either_country either_state same_continent".split()
)


def _family(kind: str) -> str:
    if kind in _WHERE_IT_LIES or kind.startswith(("country_", "same_city_country")):
        return "place"
    if kind == "same_currency_code":
        return "currency"
    return kind.removeprefix("not_").removeprefix("no_").removesuffix("_between").removesuffix("_code").split("_")[0]
