"""Execution accuracy: is the result of predicted SQL the gold result?

The rule, strict where meaning is at stake and lenient where it is not:
- both queries run on the same database; predicted SQL that fails or is not one SELECT is wrong;
- equal numbers of rows and of columns are needed: a missing or an extra column is wrong;
- rows are compared in order where the question asks for an order, as a multiset otherwise;
- numbers are equal within a relative 1e-6 (7 and 7.0 are equal), text and NULL must be equal exactly;
- columns may come in another order only where their types tell them apart: (name, count) equals (count, name), but
  (latitude, longitude) does not equal (longitude, latitude).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from examples.text_to_sql.database import Cell, Row, SqlError, run_sql

TOLERANCE = 1e-6
_ROW_LIMIT = 50_000
_SECONDS, _GOLD_SECONDS = 10.0, 120.0


def execution_match(database: Path, gold: str, predicted: str, order_matters: bool) -> bool:
    """Does `predicted` give the result of `gold`? Raises `SqlError` where the gold query itself fails."""
    wanted = run_sql(database, gold, _ROW_LIMIT, _GOLD_SECONDS)
    try:
        got = run_sql(database, predicted, _ROW_LIMIT, _SECONDS)
    except SqlError:
        return False
    return same_result(wanted.rows, got.rows, order_matters)


def same_result(gold: Sequence[Row], predicted: Sequence[Row], order_matters: bool) -> bool:
    """Are the two results equal by the rule above?"""
    if len(gold) != len(predicted):
        return False
    if not gold:
        return True
    if len(gold[0]) != len(predicted[0]):
        return False
    return any(
        _same_rows(gold, [tuple(row[index] for index in order) for row in predicted], order_matters)
        for order in _column_orders(_types(gold), _types(predicted))
    )


def _column_orders(gold: list[str], predicted: list[str]) -> list[tuple[int, ...]]:
    """Orders of the predicted columns with gold's types that keep the order among columns of one type."""
    if gold == predicted or len(gold) > 6:
        return [tuple(range(len(gold)))]
    orders = itertools.permutations(range(len(gold)))
    return [
        order
        for order in orders
        if [predicted[index] for index in order] == gold
        and all(a < b for a, b in itertools.combinations(order, 2) if predicted[a] == predicted[b])
    ]


def _types(rows: Sequence[Row]) -> list[str]:
    return ["text" if any(isinstance(row[index], str) for row in rows) else "number" for index in range(len(rows[0]))]


def _same_rows(gold: Sequence[Row], predicted: Sequence[Row], order_matters: bool) -> bool:
    if not order_matters:
        gold, predicted = sorted(gold, key=_sort_key), sorted(predicted, key=_sort_key)
    return all(
        _same_cell(a, b) for left, right in zip(gold, predicted, strict=True) for a, b in zip(left, right, strict=True)
    )


def _sort_key(row: Row) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Texts first, so that numbers that differ by rounding do not change the order of rows with different texts."""
    texts = tuple("" if cell is None else str(cell) for cell in row if not isinstance(cell, (int, float)))
    return texts, tuple(float(f"{cell:.6g}") for cell in row if isinstance(cell, (int, float)))


def _same_cell(a: Cell, b: Cell) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-9)
    return a == b
