"""What all conditions are made of: a filter from templates, comparisons with numbers and means, parts of names.

Never names a table; columns are those of the query's own table.
"""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random
from collections.abc import Callable

from examples.text_to_sql.train.speech import comparison, pick, say
from examples.text_to_sql.train.sql import Filter, Val
from examples.text_to_sql.train.world import World

Maker = Callable[[World, random.Random], Filter]


def worded(
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


def number_filter(kind: str, column: str, low: float, high: float, verb: str, post: str, adj: str = "") -> Maker:
    """A comparison of `column` with a number; `<c>` in the wordings is the comparison with its number."""

    def make(world: World, rng: random.Random) -> Filter:
        if rng.random() < 0.13:
            a = world.number(rng, low, high)
            b = world.number(rng, low, high)
            if int(a.literal) > int(b.literal):
                a, b = b, a
            spoken = say(
                rng,
                pick(
                    rng,
                    "between <v> and <w>|between <v> and <w>|from <v> to <w>|in the range <v> to <w>|between <v> to <w>|of <v> to <w>|in between <v> and <w>",
                ),
            )
            values: tuple[Val, ...] = (a, b)
            sql = f"{column} BETWEEN {a.mark} AND {b.mark}"
            kind_here = f"{kind}_between"
        else:
            a = world.number(rng, low, high)
            operator, spoken = comparison(rng)
            spoken = spoken.replace("<n>", "<v>")
            sql, values = f"{column} {operator} {a.mark}", (a,)
            kind_here = kind
        return worded(rng, kind_here, sql, verb.replace("<c>", spoken), post.replace("<c>", spoken), adj, values=values)

    return make


def average_filter(rng: random.Random, sql: str, noun: str, up: bool, thing: str) -> Filter:
    than = "{larger|bigger|higher|greater|more}" if up else "{smaller|lower|less}"
    side = "above" if up else "below"
    base = f"a {{{than} {noun} than|{noun} {side}}} {{the|}} average|{{an|}} {side} average {noun}|a {noun} {side} the {{average|mean}}|a {than} than average {noun}|a {than} {noun} than the average {thing}"
    words = pick(rng, base)
    extra = "|more populous than {the|} average" if noun == "population" and up else ""
    return worded(
        rng, f"average_{noun}", sql, f"have {words}", f"with {words}|whose {noun} is {side} {{the|}} average{extra}"
    )


def name_like(world: World, rng: random.Random) -> Filter:
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
    return worded(rng, f"name_{mode}", sql, verb, post, values=(v,))


PEOPLE = "{people|people|inhabitants|residents|persons|citizens}"
POPULATION_VERB = (
    f"have <c> {PEOPLE}|have {{a population|populations}} {{of|}} <c>|have a population {{that is|}} <c>|are home to <c> {PEOPLE}"
    f"|have <c> {PEOPLE} living in {{them|it}}|have <c> in population"
)
POPULATION_POST = (
    f"with <c> {PEOPLE}|with <c> {PEOPLE}|with {{a population|populations}} {{of|}} <c>|with a population <c>|whose population is <c>"
    f"|where <c> {PEOPLE} live|having <c> {PEOPLE}|having a population of <c>|with population <c>|population <c>|<c> {PEOPLE}"
    f"|of <c> {PEOPLE}|that have <c> {PEOPLE}|where the population is <c>|home to <c> {PEOPLE}"
)
SQKM = "{sqkm|square kilometers|square kilometres|km2|sq km|square km|km²}"
AREA_VERB = f"have an area {{of|}} <c> {{{SQKM}|}}|are <c> {SQKM}|cover <c> {SQKM}|have <c> {SQKM} {{of land|}}|are <c> {SQKM} in {{area|size}}"
AREA_POST = (
    f"with an area {{of|}} <c> {{{SQKM}|}}|<c> {SQKM}|whose area is <c> {{{SQKM}|}}|covering <c> {SQKM}|with areas <c>|with area <c>"
    f"|with <c> {SQKM} {{of land|}}|having an area <c> {{{SQKM}|}}|spanning <c> {SQKM}|of <c> {SQKM}|with a {{land|surface}} area of <c> {{{SQKM}|}}"
)
DENSITY_UNIT = "{people per sqkm|people per square kilometer|people per square km|people per km2|inhabitants per sqkm|}"
DENSITY_VERB = f"have a {{population|}} density {{of|}} <c> {DENSITY_UNIT}|have <c> people per {SQKM}"
DENSITY_POST = f"with a {{population|}} density {{of|}} <c> {DENSITY_UNIT}|with <c> people per {SQKM}|whose {{population|}} density is <c> {DENSITY_UNIT}|density <c>"
DENSITY = "@population / @area_km2"
