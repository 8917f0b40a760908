"""Questions about the most and the least: the one, the n, the n-th, and columns of these.

Every maker returns a `Draft` or None where the draw does not fit.
"""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random

from examples.text_to_sql.train.filters import draw_filters
from examples.text_to_sql.train.questions import Draft, Measure, details, measure_of, noun, phrase, shape_of
from examples.text_to_sql.train.speech import pick, say
from examples.text_to_sql.train.sql import Filter, Query
from examples.text_to_sql.train.world import World


def superlative(
    rng: random.Random, table: str, measure: Measure, most: bool, plural: bool, filters: list[Filter], count: str = ""
) -> str:
    """'largest city in …' or 'country in … with the most people'; `count` ('5', 'second') goes before the adjective."""
    words = pick(rng, measure.most if most else measure.least)
    head = noun(rng, table, plural)
    behind = ("with", "that", "furthest", "farthest", "closest", "nearest", "located", "most distant")
    for by in (" by ", " in terms", " in area", " in size"):
        if by in words:
            front, _, rest = words.partition(by)
            return f"{count} {front} {phrase(rng, head, filters, extra=(by + rest).strip())}".strip()
    if words.startswith(behind):
        return f"{count} {phrase(rng, head, filters, extra=words)}".strip()
    return f"{count} {words} {phrase(rng, head, filters)}".strip()


def order_by(measure: Measure, most: bool, query: Query) -> None:
    """Order `query` by the measure; an unknown (zero) area gives no density."""
    query.order = f"{measure.sql} DESC" if most else measure.sql
    if measure.kind == "density":
        query.where.append("@area_km2 > 0")


def _draw_extreme(world: World, rng: random.Random) -> tuple[str, Measure, bool, list[Filter]]:
    table = rng.choices(["countries", "cities", "continents"], [5, 5.5, 0.25])[0]
    measure, most = measure_of(rng, table), rng.random() < 0.72
    filters = [] if table == "continents" else draw_filters(world, rng, table, rng.choices([0, 1, 2], [1.2, 6, 1.6])[0])
    return table, measure, most, filters


def ask_extreme(world: World, rng: random.Random) -> Draft | None:
    """The one thing with the most or least of a measure."""
    table, measure, most, filters = _draw_extreme(world, rng)
    query = Query("@name", table, limit="1").add(filters)
    order_by(measure, most, query)
    words = superlative(rng, table, measure, most, False, filters)
    roll = rng.random()
    if roll < 0.55:
        text = say(
            rng,
            f"{{what is the|what is the|which is the|what's the|which is the|name the|tell me the|find the|show me the|give me the|show the|the||what was the|find me the|do you know the}} {words}",
        )
    else:
        one = noun(rng, table, False)
        place = phrase(rng, one, filters)
        if measure.kind == "population":
            tail = (
                "{has|holds} the {most people|largest population|highest population|biggest population|greatest population|most inhabitants|most residents}|is {the|} most {populous|populated}"
                if most
                else "has the {fewest people|smallest population|lowest population|least people|fewest inhabitants}|is {the|} least {populous|populated}"
            )
            if table == "cities":
                tail += "|is {the|} {largest|biggest}|is {the|} {largest|biggest}" if most else "|is {the|} smallest"
        elif measure.kind == "area":
            tail = (
                "is {the|} {largest|biggest} {by area||in area}|has the {largest|biggest|greatest|most} {area|land area|land}|covers the {largest|most} {area|land}|is the {largest|biggest}"
                if most
                else "is {the|} smallest {by area||in area}|has the {smallest|least} {area|land area|land}"
            )
        elif measure.kind == "density":
            tail = (
                "is {the|} most densely populated|has the highest {population|} density|has the most people per {sqkm|square kilometer}|is {the|} most {crowded|densely populated}"
                if most
                else "is {the|} least densely populated|has the lowest {population|} density|is {the|} most sparsely populated"
            )
        elif measure.kind == "equator":
            tail = (
                "{is|lies} {furthest|farthest} from the equator"
                if most
                else "{is|lies} {closest|nearest} to the equator"
            )
        else:
            direction = {
                ("latitude", True): "north",
                ("latitude", False): "south",
                ("longitude", True): "east",
                ("longitude", False): "west",
            }[measure.kind, most]
            tail = f"{{is|lies|is located}} {{the|}} {{furthest|farthest}} {{to the|}} {direction}|is {{the|}} {direction}ernmost|is {{the|}} most {direction}ern|has the {'highest' if most else 'lowest'} {measure.kind}"
        text = f"{rng.choice(['which', 'what', 'which'])} {place} {pick(rng, tail)}"
    shape, parts = shape_of("extreme", table, filters, f"{measure.kind}_{'most' if most else 'least'}")
    if rng.random() < 0.14 and measure.kind != "equator":
        shown = measure if rng.random() < 0.7 else None
        option = (measure.kind, measure.sql, measure.noun, ()) if shown else details(rng, table, filters, 1)[0]
        query.select += f", {option[1]}"
        query.tables += option[3]
        tails = [
            f"and {{its|the}} {pick(rng, option[2])}",
            f"and what is {{its|the}} {pick(rng, option[2])}",
            f"with its {pick(rng, option[2])}",
            f"together with {{its|the}} {pick(rng, option[2])}",
        ]
        if option[0] == "population":
            tails += [
                "and how many {people|inhabitants} {it has|live there|does it have|are there}",
                "and how many people {it has|live there}",
            ]
        if option[0] == "area":
            tails += ["and how {big|large} is it", "and how {big|large} it is"]
        text += " " + say(rng, rng.choice(tails))
        shape += f"/{option[0]}_shown"
    return Draft(text, query.render(), shape, parts - 1)


def ask_top(world: World, rng: random.Random) -> Draft | None:
    """The n things with the most or least of a measure."""
    table, measure, most, filters = _draw_extreme(world, rng)
    count = world.number(rng, 2, 25)
    query = Query("@name", table, limit=count.mark).add(filters)
    order_by(measure, most, query)
    if rng.random() < 0.3:
        words = pick(rng, measure.noun)
        by = f"by {words}"
        head = say(
            rng,
            "{top|the top|bottom|the bottom}".replace("|bottom|the bottom", "")
            if most
            else "{bottom|the bottom|lowest}",
        )
        text = f"{rng.choice(['', '', 'list', 'show me', 'give me', 'what are'])} {head} {count.spoken} {phrase(rng, noun(rng, table), filters, extra=by)}"
        if measure.kind in ("equator", "latitude", "longitude"):
            return None
    else:
        top = "top " if most and rng.random() < 0.15 else ""
        words = superlative(rng, table, measure, most, True, filters, count=top + count.spoken)
        text = say(
            rng,
            f"{{what are the|which are the|list the|show me the|give me the|name the|the|find the|show the|tell me the|which|}} {words}",
        )
    shape, parts = shape_of("top", table, filters, f"{measure.kind}_{'most' if most else 'least'}")
    if rng.random() < 0.18:
        option = details(rng, table, filters, 1)[0]
        query.select += f", {option[1]}"
        query.tables += option[3]
        text += say(rng, f" {{with|and|along with|together with|and also show}} {{their|its}} {pick(rng, option[2])}")
        shape = f"{shape}/{option[0]}"
    return Draft(text, query.render(), shape, parts)


def ask_rank(world: World, rng: random.Random) -> Draft | None:
    """The second, third, … thing by a measure."""
    table, measure, most, filters = _draw_extreme(world, rng)
    rank = world.rank(rng)
    query = Query("@name", table, limit=f"1 OFFSET {rank.mark}").add(filters)
    order_by(measure, most, query)
    words = superlative(rng, table, measure, most, False, filters, count=rank.spoken)
    text = say(rng, f"{{what is the|which is the|what's the|name the|tell me the|find the|show me the|the|}} {words}")
    if measure.kind == "population" and rng.random() < 0.25:
        size = (
            "{has|holds} the <r> {largest|highest|biggest} population|is the <r> {most populous|largest by population}"
            if most
            else "has the <r> {smallest|lowest} population"
        )
        text = f"which {phrase(rng, noun(rng, table, False), filters)} {say(rng, pick(rng, size), r=rank.spoken)}"
    shape, parts = shape_of("rank", table, filters, f"{measure.kind}_{'most' if most else 'least'}")
    return Draft(text, query.render(), shape, parts)


def ask_of_extreme(world: World, rng: random.Random) -> Draft | None:
    """A column of the extreme thing: 'the capital of the largest country in …'."""
    table, measure, most, filters = _draw_extreme(world, rng)
    if table == "continents":
        return None
    filters = filters[:1]
    option = details(rng, table, filters, 1)[0]
    if option[0] == "density":
        return None
    query = Query(option[1], table, limit="1").add(filters)
    query.tables += option[3]
    order_by(measure, most, query)
    words = superlative(rng, table, measure, most, False, filters)
    asked = pick(rng, option[2].replace("capitals|", "").replace("populations|", ""))
    options = [f"{{what is the|what's the|tell me the|find the|give me the|show the|}} {asked} of the {words}"]
    options += {
        "country": [f"{{which|what}} country {{is|has|contains}} the {words} {{in|}}", f"in {{which|what}} country is the {words}", f"{{which|what}} country is the {words} {{located|}} in"],
        "currency": [f"{{what|which}} {{currency|money}} does the {words} use", f"what currency is used in the {words}"],
        "continent": [f"{{which|what}} continent is the {words} {{in|on|located in}}", f"on {{which|what}} continent is the {words}"],
        "timezone": [f"{{what|which}} {{time zone|timezone}} is the {words} in", f"in {{what|which}} {{time zone|timezone}} is the {words}"],
        "state": [f"{{what|which}} state is the {words} in"],
        "population": [f"how many {{people|inhabitants}} {{live in|does|are there in}} the {words} {{have|}}".replace("{have|}", ""), f"how {{populous|big}} is the {words}"],
        "area": [f"how {{big|large}} is the {words}"],
    }.get(option[0], [])  # fmt: skip
    shape, parts = shape_of("of_extreme", table, filters, option[0], f"{measure.kind}_{'most' if most else 'least'}")
    return Draft(say(rng, rng.choice(options)), query.render(), shape, parts)
