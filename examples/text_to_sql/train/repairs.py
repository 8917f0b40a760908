"""Examples for the repair task: SQL that fails on real questions, the kind of failure, and the SQL that is right.

Failures are the model's own (sampled from an early checkpoint) and edits of right SQL, both run on the database: only
what really fails there, in a way the program can see, is kept.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

from examples.text_to_sql.database import SqlError, run_sql
from examples.text_to_sql.faults import doubt
from examples.text_to_sql.linking import LinkError, restore
from examples.text_to_sql.train.dataset import Example
from examples.text_to_sql.words import word_list

_SECONDS = 0.3
_PLACEHOLDER = re.compile(r"[a-z]+[1-9]")
_COLUMNS = word_list(
    "name code population capital continent area_km2 currency_code currency phone_code tld country state "
    "latitude longitude timezone"
)


def fault_of(database: Path, example: Example, sql: str) -> str:
    """How placeholder SQL fails on the example's question; '' where the program sees nothing wrong with it."""
    try:
        restored = restore(sql, example.linked.values)
    except LinkError:
        return "placeholder"
    try:
        result = run_sql(database, restored, 50, _SECONDS)
    except SqlError:
        return "error"
    return doubt(example.linked, sql, result.rows)


def repair_text(example: Example, bad: str, fault: str) -> str:
    """The user's message of the repair task, after its task token."""
    return f"{example.linked.text}<bad> {bad}<err> {fault}"


def repairs(database: Path, examples: list[Example], mistakes: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """Pairs of repair text and right SQL: one mistake (where there is one) and one edit for each example."""
    found = []
    for index, example in enumerate(examples):
        wrong = [mistakes[index]] if index < len(mistakes) and mistakes[index] != example.sql else []
        wrong.append(spoil(rng, example.sql, rng.choice(examples).sql))
        for sql in wrong:
            fault = fault_of(database, example, sql) if sql != example.sql else ""
            if not fault or (fault not in ("placeholder", "error") and fault_of(database, example, example.sql)):
                continue
            found.append((repair_text(example, sql, fault), example.sql))
    return found


def thin(rng: random.Random, text: str, share: float) -> str:
    """`text` (a linked question) without a share of its words; placeholders stay."""
    return " ".join(word for word in text.split() if _PLACEHOLDER.fullmatch(word) or rng.random() >= share)


def spoil(rng: random.Random, sql: str, other: str) -> str:
    """`sql` with one or two slips such as a model makes."""
    for _ in range(rng.choice([1, 1, 2])):
        sql = rng.choice(
            [
                _drop_condition,
                _swap_placeholder,
                _swap_column,
                _swap_selected,
                _unqualify,
                _flip,
                _drop_clause,
                _other_table,
            ]
        )(rng, sql)
    return other if rng.random() < 0.08 else sql


def _drop_condition(rng: random.Random, sql: str) -> str:
    found = re.search(r" WHERE (.*?)(?= GROUP BY| ORDER BY| LIMIT|$)", sql)
    if not found or "(" in found[1]:
        return sql
    conditions = found[1].split(" AND ")
    conditions.pop(rng.randrange(len(conditions)))
    return sql[: found.start()] + (" WHERE " + " AND ".join(conditions) if conditions else "") + sql[found.end() :]


def _swap_placeholder(rng: random.Random, sql: str) -> str:
    found = list(re.finditer(r"\b([a-z]+)([1-4])\b", sql))
    if not found:
        return sql
    one = rng.choice(found)
    other = rng.choice(
        [
            rng.choice(found)[0],
            f"{one[1]}{rng.choice('123')}",
            rng.choice(["country1", "city1", "number2", "state1", "continent1"]),
        ]
    )
    return sql[: one.start()] + other + sql[one.end() :]


def _swap_column(rng: random.Random, sql: str) -> str:
    found = list(re.finditer(rf"\b({'|'.join(_COLUMNS)})\b", sql))
    if not found:
        return sql
    one = rng.choice(found)
    return sql[: one.start()] + rng.choice(_COLUMNS) + sql[one.end() :]


def _swap_selected(rng: random.Random, sql: str) -> str:
    """Ask for something else: another column, or a number in place of names and the other way round."""
    found = re.match(r"SELECT (.+?) FROM", sql)
    if not found:
        return sql
    other = rng.choice(["name", "COUNT(*)", "name", "population", rng.choice(_COLUMNS), "SUM(population)"])
    return f"SELECT {other} FROM{sql[found.end() :]}"


def _unqualify(rng: random.Random, sql: str) -> str:
    found = list(re.finditer(r"\b(cities|countries|states|continents)\.", sql))
    if not found:
        return sql
    one = rng.choice(found)
    return sql[: one.start()] + rng.choice(["", "cities.", "countries.", "states."]) + sql[one.end() :]


def _flip(rng: random.Random, sql: str) -> str:
    found = list(re.finditer(r" (<|>|=|<>|<=|>=) ", sql))
    if not found:
        return sql
    one = rng.choice(found)
    return sql[: one.start()] + f" {rng.choice(['<', '>', '=', '<>', '<='])} " + sql[one.end() :]


def _drop_clause(rng: random.Random, sql: str) -> str:
    pattern = rng.choice(
        [
            r" LIMIT \w+( OFFSET \w+)?$",
            r" ORDER BY .*?( LIMIT|$)",
            r" HAVING .*?( ORDER| LIMIT|$)",
            r" JOIN \w+ ON \S+ = \S+",
            r" GROUP BY \S+",
        ]
    )
    return re.sub(
        pattern,
        lambda found: (found[1] or "") if found.lastindex and "OFFSET" not in (found[1] or "") else "",
        sql,
        count=1,
    )


def _other_table(rng: random.Random, sql: str) -> str:
    return re.sub(
        r"FROM (cities|countries|states|continents)\b",
        lambda _: "FROM " + rng.choice(["cities", "countries", "states", "continents"]),
        sql,
        count=1,
    )
