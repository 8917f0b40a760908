"""Questions that group: 'which country has the most cities over …', 'how many countries per continent', 'more than n …'.

Every maker returns a `Draft` or None where the draw does not fit.
"""

# ruff: noqa: E501 -- templates of wordings read best one to a line
from __future__ import annotations

import random
from dataclasses import dataclass

from examples.text_to_sql.train.filters import draw_filters
from examples.text_to_sql.train.questions import ASK, Draft, noun, phrase, shape_of
from examples.text_to_sql.train.speech import comparison, pick, say, third_person
from examples.text_to_sql.train.sql import Filter, Query
from examples.text_to_sql.train.world import World
from examples.text_to_sql.words import word_list


@dataclass(frozen=True, slots=True)
class Grouping:
    """Rows of `table` put together by something: its key, its label, joined tables, and what it is called."""

    kind: str
    table: str
    key: str
    label: str
    tables: tuple[str, ...]
    singular: str
    plural: str
    outer: str = ""
    weight: float = 1.0


GROUPINGS = [
    Grouping("country", "cities", "countries.code", "countries.name", ("countries",), "country|country|nation", "countries|countries|nations", "countries", 3),
    Grouping("continent", "cities", "continents.code", "continents.name", ("continents", "countries"), "continent", "continents", "", 1.2),
    Grouping("state", "cities", "states.code", "states.name", ("states",), "state|state|us state|american state", "states|us states|american states", "", 2),
    Grouping("timezone", "cities", "@timezone", "@timezone", (), "time zone|timezone", "time zones|timezones", "", 1.4),
    Grouping("continent", "countries", "continents.code", "continents.name", ("continents",), "continent", "continents", "", 3),
    Grouping("currency", "countries", "@currency", "@currency", (), "currency", "currencies", "", 1.8),
]  # fmt: skip
_PLACED = frozenset(
    word_list(
        "country state continent city_continent either_country either_state either_continent same_continent not_country not_continent"
    )
)


def _draw_group(world: World, rng: random.Random) -> tuple[Grouping, list[Filter], list[Filter]]:
    """A grouping, conditions on its rows, and conditions on the groups (only countries have those)."""
    grouping = rng.choices(GROUPINGS, [one.weight for one in GROUPINGS])[0]
    rows = draw_filters(world, rng, grouping.table, rng.choices([0, 1, 2], [4, 5, 0.7])[0])
    clashing = {
        "country": _PLACED,
        "state": _PLACED,
        "continent": _PLACED | {"same_city_country"},
        "currency": {"currency", "currency_code", "not_currency", "not_currency_code"},
        "timezone": {"zone", "same_city_timezone"},
    }[grouping.kind]
    rows = [
        one
        for one in rows
        if one.kind not in clashing and not one.kind.startswith("country_") and one.kind != "capital_city"
    ]
    outer: list[Filter] = []
    if grouping.outer and rng.random() < 0.35:
        for one in draw_filters(world, rng, grouping.outer, 1):
            if one.kind in (
                "continent",
                "currency",
                "population",
                "area",
                "not_continent",
                "either_continent",
                "currency_code",
            ):
                outer = [
                    Filter(
                        f"group_{one.kind}",
                        one.sql.replace("@", "countries."),
                        one.verb,
                        one.post,
                        one.adj,
                        (),
                        one.values,
                    )
                ]
    return grouping, rows, outer


def _measure(rng: random.Random, table: str) -> tuple[str, str, str]:
    """An aggregate over a group: its kind, SQL, and how it is called ('' for a count)."""
    options = [("count", "COUNT(*)", "", 6.0)]
    if table == "countries":
        options += [
            ("sum_population", "SUM(@population)", "total population|combined population|total number of people", 1.2),
            (
                "avg_population",
                "AVG(@population)",
                "average population|mean population|average country population",
                1.2,
            ),
            ("sum_area", "SUM(@area_km2)", "total area|combined area|total land area", 1.0),
            ("avg_area", "AVG(@area_km2)", "average area|mean area|average country size|average land area", 0.8),
        ]
    else:
        options += [
            (
                "sum_population",
                "SUM(@population)",
                "total city population|total population|combined population|total urban population|combined city population",
                1.1,
            ),
            (
                "avg_population",
                "AVG(@population)",
                "average city population|average population|mean city population|average city size",
                1.3,
            ),
            (
                "max_population",
                "MAX(@population)",
                "largest city population|maximum city population|population of the largest city|highest city population",
                0.5,
            ),
            (
                "zones",
                "COUNT(DISTINCT @timezone)",
                "number of time zones|number of timezones|number of different time zones",
                0.7,
            ),
        ]
    chosen = rng.choices(options, [option[3] for option in options])[0]
    return chosen[0], chosen[1], chosen[2]


def _query(grouping: Grouping, rows: list[Filter], outer: list[Filter], select: str) -> Query:
    return Query(select, grouping.table, [*grouping.tables], group=grouping.key).add([*rows, *outer])


def _usable(grouping: Grouping, kind: str) -> bool:
    return not (kind == "zones" and grouping.kind not in ("country", "state", "continent")) and not (
        grouping.kind in ("timezone", "currency") and kind not in ("count", "sum_population", "avg_population")
    )


def _group_noun(rng: random.Random, grouping: Grouping, outer: list[Filter], plural: bool) -> str:
    return phrase(rng, pick(rng, grouping.plural if plural else grouping.singular), outer)


def ask_group_list(world: World, rng: random.Random) -> Draft | None:
    """A number for each group."""
    grouping, rows, outer = _draw_group(world, rng)
    kind, sql, words = _measure(rng, grouping.table)
    if not _usable(grouping, kind):
        return None
    query = _query(grouping, rows, outer, f"{grouping.label}, {sql}")
    things = phrase(rng, noun(rng, grouping.table), rows)
    one, many = _group_noun(rng, grouping, outer, False), _group_noun(rng, grouping, outer, True)
    per = say(
        rng,
        f"{{{{per|in each|for each|by|for every|in every|of each|for each}} {one}|{{broken down|grouped|split}} by {one}}}",
    )
    if kind == "count":
        uses = {"currency": "use", "timezone": "are in"}.get(grouping.kind, "are in")
        text = rng.choice(
            [
                f"how many {things} {{are there|are|}} {per}",
                f"how many {things} does {{each|every}} {one} have",
                f"{{what is the|show the|list the|give me the|}} {{number|count}} of {things} {per}",
                f"{{count|count the|count all}} {things} {per}",
                f"for {{each|every}} {one} {{how many|count the|list the number of|give the number of|show the number of}} {things} {{it has|there are|}}",
                f"{{list|show}} {{all|each|the|every}} {{{many}|{one}}} {{with|and}} {{the|its|their}} {{number|count}} of {things}",
                f"how many {things} {uses} {{each|every}} {one}",
                f"{things} {{count|}} per {one}",
                f"{{number of|}} {things} by {one}",
            ]
        )
    else:
        name = pick(rng, words)
        tail = f" of {things}" if (rows or rng.random() < 0.4) and "largest city" not in name else ""
        text = rng.choice(
            [
                f"{{what is the|show the|list the|give me the|show me the|}} {name}{tail} {per}",
                f"{name}{tail} {per}",
                f"for {{each|every}} {one} {{what is|show|give|list}} the {name}{tail}",
                f"{{list|show}} {{all|each|the|every}} {{{many}|{one}}} {{with|and}} {{the|its|their}} {name}{tail}",
            ]
        )
        if tail == "" and rows:
            return None
    if rng.random() < 0.06:
        number = "number" if kind == "count" else "value"
        text += say(
            rng,
            f" {{.|?|,}} {{show|give|list|give me|}} {{the|}} {one} {{name|}} and {{the|}} {{{number}|count}} {{please|}}",
        )
    if kind == "avg_population" and grouping.table == "countries" and not rows and rng.random() < 0.3:
        text = f"how many people {{live in|does}} the average country {per}".replace(
            "does the average country", "does the average country have"
        )
    shape, parts = shape_of("group_list", grouping.table, [*rows, *outer], grouping.kind, kind)
    if rng.random() < 0.2:
        down = rng.random() < 0.8
        query.order = f"{sql} DESC" if down else sql
        text += say(
            rng,
            " {sorted|ordered|ranked} {from {most|highest} to {least|fewest|lowest}|descending|in descending order|from high to low|by count descending|with the {most|highest} first}"
            if down
            else " {sorted|ordered} {ascending|in ascending order|from {least|fewest|lowest} to {most|highest}}",
        )
        shape += "/ordered"
    return Draft(say(rng, text), query.render(), shape, parts)


def _extreme_words(rng: random.Random, grouping: Grouping, kind: str, words: str, most: bool, things: str) -> str:
    """'has the most cities …' for a group in the singular."""
    if kind == "count":
        if grouping.kind == "currency":
            return pick(
                rng,
                f"is used {{by|in}} the {{most|largest number of|greatest number of}} {things}|is the most {{common|widely used|popular}} {{among|in|for}} {things}|has the most {things}"
                if most
                else f"is used {{by|in}} the {{fewest|least|smallest number of}} {things}",
            )
        if grouping.kind == "timezone":
            return pick(
                rng,
                f"has the {{most|highest number of|largest number of}} {things}|contains the most {things}|is used by the most {things}|covers the most {things}"
                if most
                else f"has the {{fewest|least|lowest number of}} {things}",
            )
        return pick(
            rng,
            f"has the {{most|most|most|largest number of|highest number of|greatest number of}} {things}|contains the {{most|largest number of}} {things}|is home to the most {things}"
            if most
            else f"has the {{fewest|least|smallest number of|lowest number of|fewest}} {things}|contains the fewest {things}",
        )
    name = pick(rng, words)
    if kind == "zones":
        return pick(
            rng,
            "{has|spans|covers|uses} the most {different|} {time zones|timezones}|has the {largest|highest} number of {time zones|timezones}"
            if most
            else "{has|spans} the fewest {time zones|timezones}",
        )
    return say(
        rng, f"has the {{highest|largest|biggest|greatest}} {name}" if most else f"has the {{lowest|smallest}} {name}"
    )


def ask_group_extreme(world: World, rng: random.Random) -> Draft | None:
    """The group (or the n groups) with the most or least of something."""
    grouping, rows, outer = _draw_group(world, rng)
    kind, sql, words = _measure(rng, grouping.table)
    if not _usable(grouping, kind):
        return None
    most = rng.random() < 0.78
    query = _query(grouping, rows, outer, grouping.label)
    query.order, query.limit = (f"{sql} DESC" if most else sql), "1"
    things = phrase(rng, noun(rng, grouping.table), rows)
    if kind != "count" and rows and "largest" not in words:
        tail = f" of {things}"
    elif rows and kind != "count":
        return None
    else:
        tail = ""
    predicate = _extreme_words(rng, grouping, kind, words, most, things)
    if tail and kind != "count":
        predicate += tail
        if kind == "zones":
            return None
    roll = rng.random()
    extra: tuple[str, ...] = ()
    if roll < 0.07 and kind == "count" and predicate.startswith("has the"):
        rank = world.rank(rng)
        query.limit = f"1 OFFSET {rank.mark}"
        predicate = predicate.replace("has the ", f"has the {rank.spoken} ", 1)
        text = f"which {_group_noun(rng, grouping, outer, False)} {predicate}"
        extra = ("rank",)
    elif roll < 0.62:
        text = f"{rng.choice(['which', 'what', 'which'])} {_group_noun(rng, grouping, outer, False)} {predicate}"
    elif roll < 0.76:
        relation = predicate.replace("has ", "with ", 1) if predicate.startswith("has ") else f"that {predicate}"
        text = say(
            rng,
            f"{{what is the|which is the|the|find the|name the|show the|tell me the|}} {_group_noun(rng, grouping, outer, False)} {relation}",
        )
    else:
        count = world.number(rng, 2, 20)
        query.limit = count.mark
        plural_predicate = (
            predicate.replace("has ", "have ", 1)
            .replace("contains", "contain", 1)
            .replace("is used", "are used", 1)
            .replace("is home", "are home", 1)
        )
        relation = (
            plural_predicate.replace("have ", "with ", 1)
            if plural_predicate.startswith("have ")
            else f"that {plural_predicate}"
        )
        text = say(
            rng,
            f"{{what are the|which are the|list the|show the|give me the|the|}} {{top|}} {count.spoken} {_group_noun(rng, grouping, outer, True)} {relation}",
        )
        if rng.random() < 0.4:
            text = f"which {count.spoken} {_group_noun(rng, grouping, outer, True)} {plural_predicate}"
        elif rng.random() < 0.3 and most:
            by = f"number of {things}" if kind == "count" else pick(rng, words) + tail
            text = f"top {count.spoken} {_group_noun(rng, grouping, outer, True)} by {by}"
        extra = ("top",)
    if rng.random() < 0.16 and extra != ("rank",):
        query.select += f", {sql}"
        text += say(
            rng,
            rng.choice(
                [
                    " and how many {does it have|are there|is that|are those|has it got|are they}",
                    " and {the count|the number|their number|how many}",
                    " and how many {are there|does it have}",
                ]
            )
            if kind == "count"
            else " and {what is it|how much is it|the value}",
        )
        extra = (*extra, "shown")
    shape, parts = shape_of(
        "group_extreme", grouping.table, [*rows, *outer], grouping.kind, f"{kind}_{'most' if most else 'least'}", *extra
    )
    return Draft(text, query.render(), shape, parts - 1)


def ask_group_having(world: World, rng: random.Random) -> Draft | None:
    """The groups with more than n rows, or whose total or mean passes a number."""
    grouping, rows, outer = _draw_group(world, rng)
    kind, sql, words = _measure(rng, grouping.table)
    if not _usable(grouping, kind) or (rows and kind not in ("count",)):
        return None
    low, high = {"count": (2, 100), "zones": (1, 8)}.get(kind, (50_000, 500_000_000))
    if kind.endswith("area"):
        low, high = 10_000, 20_000_000
    number = world.number(rng, low, high)
    operator, spoken = comparison(rng)
    if rng.random() < 0.15 and kind in ("count", "zones"):
        operator, spoken = "=", say(rng, "{exactly|exactly|just|only} <n>")
    spoken = spoken.replace("<n>", number.spoken)
    query = _query(grouping, rows, outer, grouping.label)
    query.having = f"{sql} {operator} {number.mark}"
    things = phrase(rng, noun(rng, grouping.table), rows)
    if kind == "count":
        verb = {
            "currency": f"are used {{by|in}} {spoken} {things}",
            "timezone": f"{{have|contain|include|cover}} {spoken} {things}",
        }.get(grouping.kind, f"have {spoken} {things}")
        post = {"currency": f"used {{by|in}} {spoken} {things}"}.get(
            grouping.kind, f"{{with|having|that have|containing}} {spoken} {things}"
        )
    elif kind == "zones":
        verb, post = (
            f"{{have|span|use|cover}} {spoken} {{time zones|timezones|different time zones}}",
            f"{{with|spanning|having}} {spoken} {{time zones|timezones}}",
        )
    else:
        name = pick(rng, words)
        verb, post = f"have {{a|an|}} {name} {{of|}} {spoken}", f"{{with|having}} {{a|an|}} {name} {{of|}} {spoken}"
    verb, post = say(rng, verb), say(rng, post)
    count = rng.random() < 0.18
    many = _group_noun(rng, grouping, outer, True)
    if count:
        if "@" in grouping.label or outer:
            return None
        inner = query.render().replace(f"SELECT {grouping.label}", f"SELECT {grouping.key}", 1)
        text = (
            f"how many {many} {verb}"
            if rng.random() < 0.6
            else f"{rng.choice(['how many', 'number of', 'count the'])} {many} {post}"
        )
        rendered = f"SELECT COUNT(*) FROM ({inner})"
    else:
        text = rng.choice(
            [
                f"{rng.choice(['which', 'what', 'which'])} {many} {verb}",
                f"{pick(rng, ASK)} {rng.choice(['', 'the', 'all', 'all the'])} {many} {post}",
                f"{many} {post}",
            ]
        )
        if rng.random() < 0.12:
            text = f"which {_group_noun(rng, grouping, outer, False)} {third_person(verb)}"
        if kind == "avg_population" and grouping.table == "countries" and rng.random() < 0.5:
            text = f"{rng.choice(['on which', 'in which', 'on what'])} {many} does the average country have {spoken} {rng.choice(['people', 'inhabitants', 'people'])}"
        shown = rng.random()
        if shown < 0.16:
            query.select += f", {sql}"
            value = (
                pick(rng, f"number of {noun(rng, grouping.table)}|number|count|how many")
                if kind == "count"
                else pick(rng, words or "number of time zones")
            )
            text += say(
                rng,
                rng.choice(
                    [
                        f" {{with|and|along with|together with|and show}} {{the|their}} {value}",
                        f" {{.|,}} {{show|give|list|}} {{the|}} name and {{the|}} {value}",
                        f" {{.|?}} name and {value}",
                    ]
                ),
            )
            if rng.random() < 0.35:
                query.order = f"{sql} DESC"
                text += say(
                    rng,
                    rng.choice(
                        [
                            ", most {common|frequent} first",
                            ", {highest|most|largest} first",
                            " {in descending order|sorted descending|from most to fewest|sorted by that number from high to low}",
                        ]
                    ),
                )
        rendered = query.render()
    shape, parts = shape_of(
        "group_having_count" if count else "group_having", grouping.table, [*rows, *outer], grouping.kind, kind
    )
    return Draft(text, rendered, shape, parts - 1)


def ask_group_place(world: World, rng: random.Random) -> Draft | None:
    """The greatest thing of each group: 'the largest city in each country'."""
    grouping = rng.choice([one for one in GROUPINGS if one.kind in ("country", "continent", "state")])
    most = rng.random() < 0.85
    columns = [("population", "largest|biggest|most populous", "smallest|least populous")]
    if grouping.table == "countries":
        columns = [
            ("population", "most populous|most populated", "least populous"),
            ("area_km2", "largest|biggest|largest by area", "smallest"),
        ]
    column, up, down = rng.choice(columns)
    outer: list[Filter] = []
    if grouping.outer and rng.random() < 0.5:
        outer = [
            one
            for one in draw_filters(world, rng, "countries", 1)
            if one.kind in ("continent", "either_continent", "currency")
        ]
        outer = [
            Filter(f"group_{one.kind}", one.sql.replace("@", "countries."), one.verb, one.post, one.adj, (), one.values)
            for one in outer
        ]
    shown = rng.random() < 0.25
    query = _query(grouping, [], outer, f"{grouping.label}, @name")
    extreme = f"{'MAX' if most else 'MIN'}(@{column})"
    if shown:
        query.select += f", {extreme}"
    else:
        query.having = f"{extreme} IS NOT NULL"
    one = _group_noun(rng, grouping, outer, False)
    thing = noun(rng, grouping.table, False)
    text = (
        say(
            rng,
            f"{{what is the|show the|list the|find the|give me the|the|}} {pick(rng, up if most else down)} {thing} {{in|of|for|per|by}} {{each|every}} {one}",
        )
        .replace("per each", "per")
        .replace("by each", "by")
        .replace("per every", "per")
        .replace("by every", "by")
    )
    if rng.random() < 0.25:
        text = say(
            rng, f"for {{each|every}} {one} {{what is|list|show|find}} the {pick(rng, up if most else down)} {thing}"
        )
    if shown:
        measure = "population" if column == "population" else "area"
        text += say(
            rng,
            f" {{and its {measure}|with its {measure}|. show the {pick(rng, grouping.singular)} , the {thing} and the {measure}|and {{the|}} {measure}}}",
        )
    elif rng.random() < 0.5:
        name = pick(rng, grouping.singular)
        text += say(
            rng, f" {{.|?|,}} {{show|give|list|}} {{the|}} {name} {{name|}} and {{the|}} {thing} {{name|}} {{please|}}"
        )
    shape, parts = shape_of(
        "group_place", grouping.table, outer, grouping.kind, f"{column}_{'most' if most else 'least'}"
    )
    return Draft(text, query.render(), shape, parts - 2)
