"""Questions about named places: their columns, comparisons of two or three of them, shares, and things about names.

Every maker returns a `Draft` or None where the draw does not fit.
"""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random

from examples.text_to_sql.train.city_filters import city_value
from examples.text_to_sql.train.filters import draw_filters
from examples.text_to_sql.train.questions import Draft, noun, phrase, shape_of
from examples.text_to_sql.train.speech import pick, say
from examples.text_to_sql.train.sql import Query, Val
from examples.text_to_sql.train.world import World

_SQKM = "{square kilometers|square km|sqkm|km2|sq km}"
_WHAT = "{what is|what is|what's|tell me|give me|find|show|show me|i want to know|do you know|what was|can you tell me}"
COUNTRY_ASKS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "capital": ("@capital", (), f"{_WHAT} the capital {{city|}} of <x>|{_WHAT} <x>'s capital {{city|}}|<x> capital|capital of <x>|{{which|what}} city is the capital of <x>|name the capital {{city|}} of <x>|what {{city|}} is <x>'s capital|where is the {{government|capital}} of <x>|what is the name of the capital of <x>|<x>'s capital city|capital <x>|which city serves as the capital of <x>|what city is the seat of government of <x>"),
    "population": ("@population", (), f"{_WHAT} the population of <x>|{_WHAT} <x>'s population|how many {{people|inhabitants}} {{live|are there|are living}} in <x>|<x> population|population of <x>|how {{populous|populated}} is <x>|how many {{people|inhabitants|residents|citizens}} does <x> have|how {{big|large}} is the population of <x>|number of {{people|inhabitants}} in <x>|how many people {{live|are}} {{there|}} in <x>|what's the number of people in <x>|how many {{people|citizens}} has <x> {{got|}}|<x> has how many people|population <x>|what is the population in <x>|how many people call <x> home|how many people are there in <x>"),
    "area": ("@area_km2", (), f"how {{big|large}} is <x>|{_WHAT} the {{area|land area|surface area|total area|size}} of <x>|{_WHAT} <x>'s {{area|land area|size}}|<x> area|area of <x>|how many {_SQKM} {{does <x> {{cover|have}}|is <x>}}|how {{big|large}} is <x> in {_SQKM}|{{area|size}} of <x> in {_SQKM}|how much {{land|area}} does <x> {{have|cover}}|size of <x>|area <x>|what area does <x> {{cover|have}}|how many {{square kilometers|sqkm}} is <x>"),
    "currency": ("@currency", (), f"{{what|which}} {{currency|money}} {{does <x> use|is used in <x>|do they use in <x>|does <x> have|do people use in <x>}}|{_WHAT} the {{official|national|}} currency {{of|in|used in}} <x>|{_WHAT} <x>'s currency|<x> currency|currency of <x>|currency used in <x>|how do people pay in <x>|what do {{people|you|they}} pay with in <x>|what is the {{money|legal tender}} {{in|of}} <x>|currency <x>|what do {{people|they}} spend in <x>|what currency is {{used|spent|accepted}} in <x>"),
    "currency_code": ("@currency_code", (), f"{_WHAT} the {{iso|}} currency code {{of|for|in|used in}} <x>|<x> currency code|{_WHAT} <x>'s currency code|{{what|which}} currency code does <x> {{use|have}}|{_WHAT} the {{iso code|code}} of <x>'s currency|{_WHAT} the code of the currency {{of|used in}} <x>"),
    "phone": ("@phone_code", (), "{what is|what's|tell me|give me|find|show} the {phone|calling|dialing|country calling|dial|telephone|international dialing} {code|prefix} {of|for|in} <x>|<x> {phone|calling|dialing|dial|country calling} code|{phone|dialing|calling|dial} code {of|for} <x>|which {phone|dialing|calling} {code|prefix} does <x> {use|have}|how do i {dial|call} <x>|what {number|prefix|code} do i dial {to call|for} <x>|<x>'s {phone|calling|dialing} code"),
    "tld": ("@tld", (), "{what is|what's|tell me|give me|find} the {tld|internet domain|domain|top level domain|top-level domain|web domain|internet tld|internet country domain} {of|for} <x>|<x> {tld|domain|internet domain|top level domain}|{tld|domain|internet domain} of <x>|{what|which} {tld|internet domain|domain|top-level domain} does <x> {use|have}|what do {websites|web addresses|web sites|domains} {in|from|of} <x> end {with|in|}|<x>'s {internet|top-level|} domain"),
    "code": ("@code", (), "{what is|what's|tell me|give me|find} the {iso|country|two letter|iso country|2 letter|two-letter|iso 3166} code {of|for} <x>|<x> {iso|country} code|iso code of <x>|{what|which} {iso|country} code does <x> have|how is <x> abbreviated|<x>'s {iso|country} code|abbreviation of <x>"),
    "continent": ("continents.name", ("continents",), "{what|which} continent is <x> {in|on|located in|part of|located on|a part of}|{on|in} {what|which} continent {is|does} <x> {lie|located||found}|where is <x>|which continent does <x> {belong to|lie in}|continent of <x>|<x> continent|what is <x>'s continent|which part of the world is <x> in|to {which|what} continent does <x> belong"),
    "density": ("@population / @area_km2", (), f"{_WHAT} the {{population density|density|population density}} of <x>|<x> population density|how {{densely populated|dense|crowded}} is <x>|how many people {{live|are there}} per {{sqkm|square kilometer|square km|km2}} in <x>|{{population|}} density of <x>|people per {{sqkm|square kilometer}} in <x>|<x>'s population density"),
}  # fmt: skip
THERE_ASKS: dict[str, str] = {
    "capital": "what is the capital {there|}|what is the capital city|which city is the capital",
    "population": "how many people live there|how many people are there|what is the population|how many inhabitants does it have",
    "area": "how {big|large} is it|how {big|large} is the country|what is its area",
    "currency": "what {currency|money} do {they|people} use {there|}|which currency do i need {there|}|what {money|currency} do i need {there|}|what is the currency {there|}|how do people pay there|what do i pay with {there|}|what money should i {bring|take}|which currency should i {bring|take}",
    "currency_code": "what is the currency code {there|}|which currency code do they use",
    "phone": "what is the {phone|calling|dialing|country} code {there|}|which {prefix|code} do i {dial|need}|what {prefix|code} do i have to dial",
    "tld": "what is the {internet domain|tld|domain} {there|}|what do web addresses there end in|which top level domain do they use",
    "continent": "what continent is {that|it} {in|on}|which continent is {that|it} {in|on}|on which continent is {that|it}",
    "density": "how densely populated is it|what is the population density {there|}",
}  # fmt: skip
_CONTEXTS = (
    "{i am|i'm|we are|my friend is|my sister is} {going|travelling|traveling|flying|moving|off} to <x> {next month|next week|soon|this summer|tomorrow|next year|on holiday|for work|}"
    "|{going|travelling|flying|moving} to <x> {next month|next week|soon|tomorrow|for work|}|{i live|my family lives|we live|my friend lives} in <x>|{i am|i'm} planning a trip to <x>"
    "|{i want|i need} to {call|phone|visit} {someone in|a friend in|} <x>|{i am|i'm} writing {about|a report about} <x>|speaking of <x>|regarding <x>|about <x>|{i|we} {just|} booked a flight to <x>"
)
CITY_ASKS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "population": COUNTRY_ASKS["population"],
    "country": ("countries.name", ("countries",), "{what|which} country is <x> {in|located in|part of|found in|a city in|situated in}|in {what|which} country {is|lies} <x> {located||found|situated}|where is <x>|{what|which} country does <x> {belong to|lie in}|country of <x>|{what|which} country is the city {of|called|} <x> in|{what|which} country {has|contains} <x>|<x> is in {what|which} country|<x> country|where can i find <x>|<x> is located in what country"),
    "continent": ("continents.name", ("continents", "countries"), "{what|which} continent is <x> {in|on|located in|located on}|{on|in} {what|which} continent {is|does} <x> {lie|located|}|which continent does <x> {belong to|lie in}"),
    "state": ("states.name", ("states",), "{what|which} {us|american|} state is <x> {in|located in|part of|found in}|in {what|which} {us|} state {is|lies} <x> {located|}|{what|which} state does <x> {belong to|lie in}|state of <x>|<x> is in {what|which} state"),
    "timezone": ("@timezone", (), f"{{what|which}} {{time zone|timezone}} is <x> {{in|on}}|{_WHAT} the {{time zone|timezone}} {{of|in|for}} <x>|{{time zone|timezone}} of <x>|<x> {{time zone|timezone}}|{{what|which}} {{time zone|timezone}} {{does <x> use|is used in <x>|does <x> have|do they use in <x>|applies in <x>}}|{_WHAT} <x>'s {{time zone|timezone}}|in {{what|which}} {{time zone|timezone}} {{is|lies}} <x>"),
    "currency": ("countries.currency", ("countries",), "{what|which} {currency|money} {is used in|do they use in|do people use in|do i need in} {the city of|} <x>|{what|which} currency does the country of <x> use|{what is|} the currency {of the country where|in the country where} <x> {is|lies}"),
    "capital": ("countries.capital", ("countries",), "what is the capital of the country {that <x> is in|where <x> is|<x> is in|<x> belongs to|with the city <x>}|<x> is in a country with {which|what} capital"),
    "latitude": ("@latitude", (), f"{_WHAT} the latitude of <x>|latitude of <x>|at {{what|which}} latitude {{is|does}} <x> {{lie|located|}}|<x> latitude|{_WHAT} <x>'s latitude|how far north is <x>|what latitude is <x> {{at|}}"),
    "longitude": ("@longitude", (), f"{_WHAT} the longitude of <x>|longitude of <x>|at {{what|which}} longitude {{is|does}} <x> {{lie|located|}}|<x> longitude|{_WHAT} <x>'s longitude|what longitude is <x> {{at|}}"),
    "coordinates": ("@latitude, @longitude", (), f"{_WHAT} the {{coordinates|latitude and longitude|geographic coordinates|exact location|gps coordinates|location}} of <x>|{{coordinates|latitude and longitude}} of <x>|<x> {{coordinates|latitude and longitude}}|where {{exactly|on the map}} is <x> {{located|}}"),
}  # fmt: skip


def ask_country(world: World, rng: random.Random) -> Draft | None:
    """One column (or two) of a named country."""
    v = world.country(rng)
    keys = list(COUNTRY_ASKS)
    weights = [5, 5, 3, 4, 1.5, 2.2, 1.8, 1.2, 2, 1.6]
    key = rng.choices(keys, weights)[0]
    column, tables, templates = COUNTRY_ASKS[key]
    query = Query(column, "countries", list(tables), [f"@code = {v.mark}"])
    if rng.random() < 0.1:
        other = rng.choice([one for one in keys[:4] if one != key])
        names = {
            "capital": "capital",
            "population": "population",
            "area": "area",
            "currency": "currency",
            "currency_code": "currency code",
            "phone": "phone code",
            "tld": "tld",
            "code": "country code",
            "continent": "continent",
            "density": "population density",
        }
        query.select += f", {COUNTRY_ASKS[other][0]}"
        text = say(
            rng, f"{{what are|what is|tell me|give me|show me|}} the {names[key]} and {names[other]} of <x>", x=v.spoken
        )
        return Draft(text, query.render(), f"country/{key}+{other}", 2)
    if rng.random() < 0.08 and key in THERE_ASKS:
        text = f"{pick(rng, _CONTEXTS)} {rng.choice(['.', ',', '-', '.'])} {pick(rng, THERE_ASKS[key])}"
        return Draft(say(rng, text, x=v.spoken), query.render(), f"country/{key}", 1)
    return Draft(say(rng, pick(rng, templates), x=v.spoken), query.render(), f"country/{key}", 1)


def ask_city(world: World, rng: random.Random) -> Draft | None:
    """One column of a named city, at times told apart by its state or country."""
    v = world.city(rng)
    key = rng.choices(list(CITY_ASKS), [6, 5, 1.2, 1.5, 4, 0.6, 0.5, 1.6, 1.2, 1.2])[0]
    column, tables, templates = CITY_ASKS[key]
    query = Query(column, "cities", list(tables), [f"@name = {v.mark}"], order="@population DESC", limit="1")
    spoken = say(rng, rng.choice(["<x>", "<x>", "<x>", "<x>", "the city of <x>", "<x> city"]), x=v.spoken)
    shape = f"city/{key}"
    if rng.random() < 0.14 and key not in ("country", "state", "continent", "currency", "capital"):
        place = world.state(rng) if rng.random() < 0.55 else world.country(rng)
        query.where.append(f"@{place.kind} = {place.mark}")
        spoken = rng.choice(
            [
                f"{v.spoken}, {place.spoken}",
                f"{v.spoken} in {place.spoken}",
                f"{v.spoken} {place.spoken}",
                f"{v.spoken} ({place.spoken})",
            ]
        )
        shape += f"/{place.kind}"
    return Draft(say(rng, pick(rng, templates), x=spoken), query.render(), shape, 1)


def ask_other_name(world: World, rng: random.Random) -> Draft | None:
    """States and continents by name; countries and states by code, capital, phone code or domain."""
    roll = rng.random()
    if roll < 0.2:
        v = world.state(rng)
        text = "{what is|what's|tell me} the {abbreviation|code|postal code|postal abbreviation|state code|two letter code} {of|for} <x>|<x> {abbreviation|state code|postal abbreviation}|how is <x> abbreviated|abbreviation for <x>|<x>'s {state code|abbreviation|postal code}"
        return Draft(
            say(rng, pick(rng, text), x=v.spoken), f"SELECT code FROM states WHERE code = {v.mark}", "state/code", 1
        )
    if roll < 0.34:
        v = world.continent(rng)
        text = say(
            rng,
            pick(
                rng,
                COUNTRY_ASKS["population"][2]
                + "|how many people live on the continent of <x>|population of the continent of <x>|how many people live on <x>",
            ),
            x=v.spoken,
        )
        return Draft(text, f"SELECT population FROM continents WHERE code = {v.mark}", "continent/population", 1)
    if roll < 0.42:
        code, _ = rng.choice(world.states)
        v = Val("state", f"'{code}'", code)
        text = "{which|what} {us|} state {has the {abbreviation|code|postal code|state code}|is abbreviated {as|}|has code|uses the abbreviation} <x>|{which|what} state is <x>|what {is the|} state code <x> {stands for|stand for|}|state with {the|} code <x>"
        return Draft(
            say(rng, pick(rng, text), x=rng.choice([code, f"'{code}'", f'"{code}"'])),
            f"SELECT name FROM states WHERE code = {v.mark}",
            "state/of_code",
            1,
        )
    if roll < 0.54:
        code, _ = rng.choice(world.countries)
        v = Val("country", f"'{code}'", code)
        text = "{which|what} country {has the {iso|country|two letter|iso country|} code|is abbreviated {as|}|has {iso|country|} code|has code} <x>|{which|what} country is {the|} {iso|country|} code <x>|country with {the|} {iso|} code <x>|what does {country|iso} code <x> stand for|{which|what} country does the {iso|country} code <x> {belong to|stand for}"
        return Draft(
            say(rng, pick(rng, text), x=rng.choice([code, f"'{code}'", f'"{code}"'])),
            f"SELECT name FROM countries WHERE code = {v.mark}",
            "country/of_code",
            1,
        )
    if roll < 0.66:
        v = world.phone(rng)
        text = "{which|what} country {has|uses} {the|} {phone|calling|dialing|country calling|dial|telephone|international} {code|prefix} <x>|{which|what} country {is|does} {the|} {phone|calling|dialing} code <x> {belong to|for|from}|country with {the|} {phone|calling|dialing|dial} code <x>|whose {phone|calling|dialing} code is <x>|where is {phone|dialing|calling} code <x> {used|from}|{which|what} country do you call with <x>|{someone|somebody|a stranger} {called|phoned|rang} me from <x> {.|,} {which|what} country is {that|it}|i got a call from <x> {.|,} {where is that|which country is that|what country is it}|{my phone shows|there was a call from} <x> {.|,} which country is {that|this}|where does a call {from|with} <x> come from"
        return Draft(
            say(rng, pick(rng, text), x=v.spoken),
            f"SELECT name FROM countries WHERE phone_code = {v.mark}",
            "country/of_phone",
            1,
        )
    if roll < 0.78:
        v = world.tld(rng)
        text = "{which|what} country {has|uses|owns} {the|} {tld|domain|internet domain|top level domain|top-level domain|web domain|} <x> {domain|}|{which|what} country {is|does} {the|} {tld|domain} <x> {belong to|for}|country with {the|} {tld|domain|internet domain} <x>|{which|what} country's {websites|domain|internet domain|tld} {end in|ends in|is} <x>|<x> is the {tld|domain|internet domain} of {which|what} country|to which country does the {domain|tld} <x> belong|{a|this} {website|web site|web address|url} {ends|ending} in <x> {.|,} which country is {that|it}|whose {internet domain|domain} is <x>"
        return Draft(
            say(rng, pick(rng, text), x=v.spoken),
            f"SELECT name FROM countries WHERE tld = {v.mark}",
            "country/of_tld",
            1,
        )
    v = world.city(rng)
    text = "{which|what} country {has|uses} <x> as {its|the} capital|<x> is the capital {city|} of {which|what} country|{which|what} country's capital is <x>|{which|what} country has {its|the|} capital {in|city|} <x>|of {which|what} country is <x> the capital|country {whose capital is|with capital|with the capital} <x>|<x> is {which|what} country's capital|what is <x> the capital of|{which|what} country is <x> the capital {city|} of"
    return Draft(
        say(rng, pick(rng, text), x=v.spoken),
        f"SELECT name FROM countries WHERE capital = {v.mark}",
        "country/of_capital",
        1,
    )


def ask_capital_of(world: World, rng: random.Random) -> Draft | None:
    """A column of a country's capital."""
    v = world.country(rng)
    column, text = rng.choice(
        [
            ("population", f"{_WHAT} the population of the capital {{city|}} of <x>|how many {{people|inhabitants}} {{live|are there}} in the capital {{city|}} of <x>|how {{big|populous|large}} is the capital {{city|}} of <x>|population of <x>'s capital {{city|}}|how many people live in <x>'s capital|how {{big|large}} is <x>'s capital"),
            ("timezone", "{what|which} {time zone|timezone} is the capital {city|} of <x> in|{what is|} {the|} {time zone|timezone} of the capital of <x>|{what|which} {time zone|timezone} is <x>'s capital in"),
            ("latitude", "{what is|} the latitude of the capital of <x>|how far north is the capital of <x>|what is the latitude of <x>'s capital"),
            ("latitude, longitude", "{what are|} the {coordinates|latitude and longitude} of the capital of <x>|coordinates of <x>'s capital|where is the capital of <x> located exactly"),
        ]
    )  # fmt: skip
    sql = f"SELECT {column} FROM cities WHERE country = {v.mark} AND name = (SELECT capital FROM countries WHERE code = {v.mark})"
    return Draft(say(rng, pick(rng, text), x=v.spoken), sql, f"capital_of/{column}", 2)


_COMPARED: dict[str, list[tuple[str, str, str, str]]] = {
    "countries": [
        ("population", "{more populous|more populated}|larger by population|bigger in population|larger in population", "less populous|less populated|smaller by population", "{more|more|most} {people|inhabitants}|{a larger|the larger|the bigger|a bigger|the higher|a higher|the largest|a greater} population|{fewer|less|fewest}"),
        ("area_km2", "{bigger|larger|biggest|largest|bigger in area|larger by area|larger in area|the larger country|the bigger country}", "{smaller|smallest|smaller in area|smaller by area|the smaller country}", "{a larger|the larger|a bigger|the bigger|the largest|more|a greater|the greater} {area|land area|surface area}"),
        ("population / area_km2", "{more densely populated|denser|more crowded}", "{less densely populated|less dense|more sparsely populated|less crowded}", "{a higher|the higher} {population|} density"),
    ],
    "cities": [
        ("population", "{bigger|larger|more populous|more populated|biggest|largest|the larger city|the bigger city}", "{smaller|less populous|smallest|the smaller city}", "{more people|a larger population|the larger population|more inhabitants|more residents|a bigger population|the most people|a higher population}"),
        ("latitude", "{further north|farther north|more northern|more northerly|the more northern|the northernmost}", "{further south|farther south|more southern|more southerly}", "{the higher|a higher} latitude"),
        ("longitude", "{further east|farther east|more eastern}", "{further west|farther west|more western}", "{the higher|a higher} longitude"),
    ],
}  # fmt: skip


def _two(world: World, rng: random.Random, table: str) -> tuple[Val, Val]:
    draw = world.country if table == "countries" else world.city
    return draw(rng), draw(rng)


def _names(rng: random.Random, *values: Val) -> str:
    spoken = [value.spoken for value in values]
    return f"{', '.join(spoken[:-1])} or {spoken[-1]}"


def ask_which_of(world: World, rng: random.Random) -> Draft | None:
    """Which of two or three named places has more of something?"""
    table = rng.choice(["countries", "cities"])
    a, b = _two(world, rng, table)
    values = [a, b]
    if rng.random() < 0.18:
        values.append(_two(world, rng, table)[0])
    column, more, less, has = rng.choice(_COMPARED[table])
    up = rng.random() < 0.75
    if column == "population" and table == "countries":
        has = (
            "{more|more|most} {people|inhabitants}|{a larger|the larger|the bigger|a bigger|the higher|a higher|the largest|a greater} population"
            if up
            else "{fewer|less|the fewest} {people|inhabitants}|{a smaller|the smaller|the smallest|the lower} population"
        )
    elif not up and column in ("population", "area_km2"):
        has = "{a smaller|the smaller|the smallest} " + ("population" if column == "population" else "{area|land area}")
    elif not up:
        has = ""
    is_words = pick(rng, more if up else less)
    names = _names(rng, *values)
    one = {"countries": "country", "cities": "city"}[table]
    options = [
        f"{{which|what}} is {is_words} {names}",
        f"{{which|what}} {{{one}|}} is {is_words} {names}",
        f"is {names} {is_words}",
        f"{{which of|between|out of|among}} {names.replace(' or ', ' and ')} {{which|}} {{{one}|}} is {is_words}",
        f"{{which|}} is {is_words} between {names.replace(' or ', ' and ')}",
    ]
    if has:
        words = pick(rng, has)
        options += [
            f"{{which|what}} {{{one}|}} has {words} {names}",
            f"{{who|which {one}}} has {words} {names}",
            f"does {names} have {words}",
            f"which of {names.replace(' or ', ' and ')} has {words}",
        ]
    key = "code" if table == "countries" else "name"
    marks = ", ".join(value.mark for value in values)
    order = f"{column} DESC" if up else column
    sql = f"SELECT name FROM {table} WHERE {key} IN ({marks}) ORDER BY {order} LIMIT 1"
    return Draft(
        say(rng, rng.choice(options)), sql, f"which_of/{table}/{column}/{'more' if up else 'less'}/{len(values)}", 3
    )


def _value(table: str, column: str, value: Val) -> str:
    return (
        city_value(column, value.mark)
        if table == "cities"
        else f"(SELECT {column} FROM countries WHERE code = {value.mark})"
    )


def ask_is_more(world: World, rng: random.Random) -> Draft | None:
    """Yes or no: does one named place have more of something than another?"""
    table = rng.choice(["countries", "cities"])
    a, b = _two(world, rng, table)
    column, words, sign = rng.choice(
        [
            ("population", "does <a> have {more people|a larger population|a bigger population|more inhabitants|a higher population} than <b>|is <a> more {populous|populated} than <b>|is the population of <a> {larger|bigger|higher|greater} than {that of <b>|<b>'s|the population of <b>}|are there more people in <a> than in <b>|do more people live in <a> than {in|} <b>", ">"),
            ("population", "does <a> have {fewer people|a smaller population|less people} than <b>|is <a> less {populous|populated} than <b>|are there fewer people in <a> than in <b>", "<"),
        ]
        + (
            [("area_km2", "is <a> {bigger|larger} than <b>|is <a> {bigger|larger} in area than <b>|does <a> have a larger {area|land area} than <b>|is the area of <a> {larger|bigger|greater} than {that of|} <b>", ">"), ("area_km2", "is <a> smaller than <b>|does <a> have a smaller {area|land area} than <b>", "<")]
            if table == "countries"
            else [("population", "is <a> {bigger|larger} than <b>", ">"), ("population", "is <a> smaller than <b>", "<"), ("latitude", "is <a> {further|farther|} north of <b>|is <a> {further|farther} north than <b>|does <a> lie north of <b>", ">"), ("latitude", "is <a> south of <b>|is <a> {further|farther} south than <b>|does <a> lie south of <b>", "<"), ("longitude", "is <a> east of <b>|is <a> {further|farther} east than <b>", ">"), ("longitude", "is <a> west of <b>|is <a> {further|farther} west than <b>", "<")]
        )
    )  # fmt: skip
    text = say(rng, pick(rng, words), a=a.spoken, b=b.spoken)
    return Draft(
        text,
        f"SELECT {_value(table, column, a)} {sign} {_value(table, column, b)}",
        f"is_more/{table}/{column}/{sign}",
        3,
    )


def ask_difference(world: World, rng: random.Random) -> Draft | None:
    """The difference, the ratio, the sum, or both values of two named places."""
    table = rng.choice(["countries", "countries", "cities"])
    a, b = _two(world, rng, table)
    column = (
        rng.choice(["population", "population", "area_km2"])
        if table == "countries"
        else rng.choice(["population", "population", "latitude"])
    )
    noun_here = {"population": "population", "area_km2": "{area|land area|size}", "latitude": "latitude"}[column]
    left, right = _value(table, column, a), _value(table, column, b)
    key = "code" if table == "countries" else "name"
    roll = rng.random()
    if roll < 0.34:
        kind, sql = "difference", f"SELECT {left} - {right}"
        text = f"{{what is|what's|calculate|find}} the {{difference in {noun_here}|{noun_here} difference}} between <a> and <b>"
        if column == "population":
            text += "|how many more {people|inhabitants} {live in <a> than in <b>|does <a> have than <b>|live in <a> than <b>|are there in <a> than {in|} <b>}|by how {much|many people} does the population of <a> exceed {that of|} <b>|how much {larger|bigger} is the population of <a> than {that of|} <b>"
        if column == "area_km2":
            text += "|how much {bigger|larger} is <a> than <b>|by how much is <a> {bigger|larger} than <b>"
    elif roll < 0.6 and column != "latitude":
        kind, sql = "ratio", f"SELECT 1.0 * {left} / {right}"
        text = f"{{what is|}} the ratio of <a>'s {noun_here} to <b>'s|{{what is the|}} {noun_here} ratio {{of|between}} <a> {{to|and}} <b>|how many times {{bigger|larger|greater}} is the {noun_here} of <a> {{than|compared to}} {{that of|}} <b>"
        if column == "population":
            text += (
                "|how many times more {people|inhabitants} {live in <a> than in <b>|does <a> have than <b>}|how many times more populous is <a> than <b>"
                + (
                    "|how many times {bigger|larger} is <a> than <b>|how many times the size of <b> is <a>"
                    if table == "cities"
                    else ""
                )
            )
        else:
            text += "|how many times {bigger|larger} is <a> than <b>|how many times does <b> fit {into|in} <a>|how many times the size of <b> is <a>"
    elif roll < 0.8 and column != "latitude":
        kind, sql = "sum", f"SELECT SUM({column}) FROM {table} WHERE {key} IN ({a.mark}, {b.mark})"
        text = f"{{what is|what's|}} the {{combined|total|joint}} {noun_here} of <a> and <b>|{{combined|total}} {noun_here} of <a> and <b>|{noun_here} of <a> and <b> {{combined|together|in total}}|{{sum|add}} {{of|up|}} the {noun_here}s of <a> and <b>"
        if column == "population":
            text += "|how many people live in <a> and <b> {combined|together|in total|altogether}|how many {people|inhabitants} do <a> and <b> have {combined|together|in total}"
        else:
            text += "|how {big|large} are <a> and <b> {combined|together}"
    else:
        kind, sql = "both", f"SELECT name, {column} FROM {table} WHERE {key} IN ({a.mark}, {b.mark})"
        text = f"compare the {{{noun_here}|{noun_here}s}} of <a> and <b>|compare <a> and <b> by {noun_here}|{{show|list|give me}} the {{{noun_here}|{noun_here}s}} of <a> and <b>|{{what are|}} the {noun_here}s of <a> and <b>|{noun_here} of <a> versus <b>|<a> vs <b> {noun_here}|compare <a> to <b> in {noun_here}"
    return Draft(say(rng, pick(rng, text), a=a.spoken, b=b.spoken), sql, f"{kind}/{table}/{column}", 3)


def ask_share(world: World, rng: random.Random) -> Draft | None:
    """Percentages: of the world's people, of its land, or of things that meet a condition."""
    percent = "{percentage|percent|share|proportion|fraction|percentage}"
    roll = rng.random()
    if roll < 0.3:
        v = world.country(rng) if rng.random() < 0.6 else world.continent(rng)
        table = "countries" if v.kind == "country" else "continents"
        sql = f"SELECT 100.0 * population / (SELECT SUM(population) FROM {table}) FROM {table} WHERE code = {v.mark}"
        text = f"what {percent} of {{the world's population|the world population|the global population|all people|people|the people in the world|humanity|the world's people|humans}} {{live|lives|is|are|live}} in <x>|<x>'s {percent} of {{the world population|the world's population|the global population}}|what is <x>'s share of the {{world|global}} population|{{which|what}} {percent} of the world's {{people|population}} does <x> have"
        return Draft(say(rng, pick(rng, text), x=v.spoken), sql, f"share/world_population/{table}", 2)
    if roll < 0.4:
        v = world.country(rng)
        sql = f"SELECT 100.0 * area_km2 / (SELECT SUM(area_km2) FROM countries) FROM countries WHERE code = {v.mark}"
        text = f"what {percent} of {{the world's|the earth's|the global|all}} {{land|area|land area|surface}} {{is|belongs to|does}} <x>|what is <x>'s {percent} of the world's {{area|land area|land}}|what {percent} of the world's {{land|land area}} {{does <x> cover|is covered by <x>|does <x> have|is in <x>}}"
        return Draft(say(rng, pick(rng, text), x=v.spoken), sql, "share/world_area", 2)
    if roll < 0.5:
        city, country = world.city(rng), world.country(rng)
        sql = f"SELECT 100.0 * population / (SELECT population FROM countries WHERE code = {country.mark}) FROM cities WHERE name = {city.mark} AND country = {country.mark}"
        text = f"what {percent} of <y>'s {{population|people|inhabitants}} {{live|lives}} in <x>|what {percent} of the {{population|people}} {{of|in}} <y> {{live|lives|is|are}} in <x>"
        return Draft(say(rng, pick(rng, text), x=city.spoken, y=country.spoken), sql, "share/city_of_country", 3)
    table = rng.choices(["countries", "cities"], [3, 2])[0]
    filters = draw_filters(world, rng, table, rng.choices([1, 2], [3, 2])[0])
    inner = filters[-1]
    outer = filters[:-1]
    if inner.tables or " IN " in inner.sql.split("(")[0] or any(one.tables for one in outer):
        return None
    query = Query(f"100.0 * SUM({inner.sql}) / COUNT(*)", table).add(outer)
    things = phrase(rng, noun(rng, table), outer)
    text = rng.choice(
        [
            f"what {percent} of {{all|the|}} {things} {inner.verb}",
            f"{{what is|}} the {percent} of {things} {{that|which}} {inner.verb}",
            f"{percent} of {things} {inner.post}",
        ]
    )
    shape, parts = shape_of("share_of", table, filters)
    return Draft(say(rng, text), query.render(), shape, parts)


def ask_about_names(world: World, rng: random.Random) -> Draft | None:
    """Things about names: the longest, the commonest, those that places share."""
    table = rng.choice(["countries", "cities", "cities", "states"])
    roll = rng.random()
    if roll < 0.35:
        most = rng.random() < 0.7
        filters = draw_filters(world, rng, table, 1) if rng.random() < 0.5 and table != "states" else []
        query = Query("@name", table, order="LENGTH(@name) DESC" if most else "LENGTH(@name)", limit="1").add(filters)
        place = phrase(rng, noun(rng, table, False), filters)
        word = "longest" if most else "shortest"
        text = say(
            rng,
            f"{{which|what}} {place} has the {word} name|{{what is the|the|}} {place} with the {word} name|{word} {noun(rng, table, False)} name".split(
                "|longest"
            )[0],
        )
        text = say(
            rng,
            rng.choice(
                [
                    f"{{which|what}} {place} has the {word} name",
                    f"{{what is the|the||find the}} {place} with the {word} name",
                    f"{{what is|}} the {word} name of a {place}",
                ]
            ),
        )
        shape, parts = shape_of("name_length", table, filters, word)
        return Draft(text, query.render(), shape, parts)
    if roll < 0.5:
        text = "{what is|which is|} the most {common|frequent|popular} {city|town} name {in the world|}|which {city|town} name is {the|} most {common|frequent|used}|which city name {occurs|appears|is used} {the|} most {often|frequently|}|which name do most cities {share|have}"
        return Draft(
            say(rng, pick(rng, text)),
            "SELECT name FROM cities GROUP BY name ORDER BY COUNT(*) DESC LIMIT 1",
            "names/commonest",
            2,
        )
    if roll < 0.56:
        text = "{which|what|list|list the|show} {cities|towns} {have|that have|with|sharing|that share} the same name as {a|some|any} {us|} state|{cities|towns} named after a {us|} state"
        return Draft(
            say(rng, pick(rng, text)),
            "SELECT name FROM cities WHERE name IN (SELECT name FROM states)",
            "names/city_as_state",
            2,
        )
    if roll < 0.68:
        n = world.number(rng, 1, 8)
        text = "{which|what} city names {occur|appear|are used|exist} {more than|over} <n> times|city names {used|shared|borne} by {more than|over} <n> cities|{which|what} names are shared by {more than|over} <n> cities|list city names that {appear|occur} {more than|over} <n> times"
        return Draft(
            say(rng, pick(rng, text), n=n.spoken),
            f"SELECT name FROM cities GROUP BY name HAVING COUNT(*) > {n.mark}",
            "names/repeated",
            2,
        )
    if roll < 0.84:
        text = "{which|what|list|list the|show|show the} {cities|towns} {have|that have|with|sharing|that share} the same name as {a|their|some} country|{which|what} {cities|towns} {are named after|share {a|their} name with|are called like} a country"
        return Draft(
            say(rng, pick(rng, text)),
            "SELECT name FROM cities WHERE name IN (SELECT name FROM countries)",
            "names/city_as_country",
            2,
        )
    text = "{which|what|list|show|list the|show the} {countries|nations} {have|with|that have} a capital {with|of|that has} the same name {as the country|}|{which|what} {countries|nations} {have the same name as|share {a|their} name with} their capital|countries {named|called} {like|after} their capital|{which|what|list} countries whose capital has the same name {as the country|}"
    return Draft(
        say(rng, pick(rng, text)), "SELECT name FROM countries WHERE capital = name", "names/capital_as_country", 2
    )
