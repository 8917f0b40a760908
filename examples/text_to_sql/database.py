"""Runs SQL safely on the geography database: one SELECT, read-only, bounded in time and rows.

Owns the checks, the errors and how results are compared for voting. Never writes, and never knows where SQL came from.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlglot
from sqlglot import expressions
from sqlglot.errors import SqlglotError

Cell = str | int | float | None
Row = tuple[Cell, ...]
ROW_LIMIT = 1000
SECONDS = 2.0
_STEPS_PER_CHECK = 10_000  # virtual machine steps of SQLite between two looks at the clock: well under a millisecond
_SIGNIFICANT_DIGITS = 9
_ALLOWED = {
    sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE,
}  # fmt: skip
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "randomblob", "zeroblob"}


class SqlError(Exception):
    """Something is wrong with the SQL itself; the message says what."""


class NotOneSelect(SqlError):
    """The text is not exactly one SELECT statement."""


class QueryFailed(SqlError):
    """SQLite refused or failed the query (unknown column, ambiguous name, …)."""


class QueryTooSlow(SqlError):
    """The query ran past its time limit and was stopped."""


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a query; `truncated` where there were more than the row limit."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    truncated: bool = False


def check_select(sql: str) -> str:
    """`sql` without a closing semicolon if it is exactly one SELECT; raises `NotOneSelect` otherwise."""
    text = sql.strip().removesuffix(";").strip()
    if not text:
        raise NotOneSelect("there is no SQL")
    try:
        statements = [one for one in sqlglot.parse(text, dialect="sqlite") if one is not None]
    except (SqlglotError, RecursionError) as error:
        raise NotOneSelect(f"this is not SQL that can be read: {str(error).splitlines()[0]}") from None
    if len(statements) != 1:
        raise NotOneSelect(f"exactly one statement is allowed, not {len(statements)}")
    if not isinstance(statements[0], expressions.Query):
        raise NotOneSelect(f"only SELECT is allowed, not {type(statements[0]).__name__.upper()}")
    return text


def run_sql(
    path: Path,
    sql: str,
    row_limit: int = ROW_LIMIT,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Run one SELECT on the database at `path` and return at most `row_limit` rows.

    Raises `NotOneSelect`, `QueryFailed`, or `QueryTooSlow` after `seconds`. The connection is read-only and may only
    read; nothing that the SQL says can change the file or reach another.
    """
    text = check_select(sql)
    end = clock() + seconds
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: int(clock() > end), _STEPS_PER_CHECK)
        cursor = connection.execute(text)
        rows = cursor.fetchmany(row_limit + 1)
        columns = tuple(column[0] for column in cursor.description or ())
    except sqlite3.Error as error:
        if "interrupted" in str(error):
            raise QueryTooSlow(f"the query took more than {seconds:g} s and was stopped") from None
        raise QueryFailed(str(error)) from None
    finally:
        connection.close()
    return Result(columns, tuple(tuple(row) for row in rows[:row_limit]), len(rows) > row_limit)


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def is_empty(rows: Sequence[Row]) -> bool:
    """Does the result say nothing: no rows, or nothing but NULL?"""
    return all(cell is None for row in rows for cell in row)


def vote_key(rows: Sequence[Row], ordered: bool) -> str:
    """A key that two results share if they are the same answer: rows as a set with repeats unless `ordered`."""
    keys = [repr(tuple(_canonical(cell) for cell in row)) for row in rows]
    return "\n".join(keys if ordered else sorted(keys))


def _canonical(cell: Cell) -> Cell:
    """A number in one form (7.0 and 7 are the same, and so are sums in another order); text and NULL as they are."""
    if isinstance(cell, (int, float)) and math.isfinite(cell):
        return float(f"{cell:.{_SIGNIFICANT_DIGITS}g}")
    return cell
