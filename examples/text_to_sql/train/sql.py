"""The SQL side of the question grammar: values, filters and a query that renders to one canonical spelling.

Columns of the query's own table are written `@column`; they are qualified only where tables are joined. Values are
written as marks (`Val.mark`) until the linker has named their placeholders.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

JOINS = {
    ("cities", "countries"): "cities.country = countries.code",
    ("cities", "states"): "cities.state = states.code",
    ("countries", "continents"): "countries.continent = continents.code",
}
"""How tables are joined, in the order in which joins are written."""


@dataclass(frozen=True, slots=True)
class Val:
    """A value of a question: its kind of placeholder, its SQL literal by default, and how the question words it."""

    kind: str
    literal: str
    spoken: str

    @property
    def mark(self) -> str:
        """What stands for the value in SQL until its placeholder is known."""
        return f"⟨{self.kind}:{self.literal}⟩"


MARK = re.compile(r"⟨(\w+):([^⟩]*)⟩")


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on things: its kind (for the shape), SQL, joined tables, values, and its wordings.

    `verb` follows 'which countries …', `post` follows the noun, `adj` precedes it (or is empty).
    """

    kind: str
    sql: str
    verb: str
    post: str
    adj: str = ""
    tables: tuple[str, ...] = ()
    values: tuple[Val, ...] = ()


def _place_first(condition: str) -> tuple[bool, str]:
    """The order of conditions: where things lie comes first, the rest by spelling, so a question has one answer."""
    column = condition.split()[0].rpartition(".")[2].removeprefix("@")
    return column not in ("continent", "country", "state"), condition


@dataclass(slots=True)
class Query:
    """One SELECT in parts."""

    select: str
    table: str
    tables: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    group: str = ""
    having: str = ""
    order: str = ""
    limit: str = ""

    def add(self, filters: list[Filter]) -> Query:
        """Take over the filters' conditions and joins."""
        for one in filters:
            self.where.append(one.sql)
            self.tables += one.tables
        return self

    def render(self) -> str:
        """The query in its canonical spelling."""
        joined = [
            pair for pair in JOINS if pair[1] in self.tables or (pair[1], "continents") == ("countries", *self.tables)
        ]
        if "continents" in self.tables and self.table == "cities" and ("cities", "countries") not in joined:
            joined.insert(0, ("cities", "countries"))
        parts = [f"SELECT {self.select}", f"FROM {self.table}"]
        parts += [f"JOIN {right} ON {JOINS[left, right]}" for left, right in joined if right != self.table]
        if self.where:
            parts.append("WHERE " + " AND ".join(sorted(dict.fromkeys(self.where), key=_place_first)))
        if self.group:
            parts.append(f"GROUP BY {self.group}")
        if self.having:
            parts.append(f"HAVING {self.having}")
        if self.order:
            parts.append(f"ORDER BY {self.order}")
        if self.limit:
            parts.append(f"LIMIT {self.limit}")
        prefix = f"{self.table}." if len(parts) > 2 and any(part.startswith("JOIN") for part in parts) else ""
        return " ".join(parts).replace("@", prefix)
