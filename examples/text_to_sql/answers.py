"""What the program's tools say: candidates, the vote among them, and the answer as a sentence.

Pure functions over plain dataclasses. Never touches the database or a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from examples.text_to_sql.database import Cell, vote_key
from examples.text_to_sql.faults import TRUST

FIRST_BONUS = 0.5
"""The greedy first candidate has half a vote more, doubtful or not: its siblings are drawn at a high temperature to
differ, and err more often. Chosen on held-out questions of the generator and on hand-worded ones that lost words."""
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Attempt:
    """One candidate. `written` has placeholders, `sql` has values; `fault` is "" or one of `faults.FAULTS`."""

    written: str
    sql: str = ""
    columns: list[str] = field(default_factory=list[str])
    rows: list[list[Cell]] = field(default_factory=list[list[Cell]])
    fault: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The program's result. `votes` of `candidates` candidates gave these rows; `error` is set where none could run."""

    sql: str
    columns: list[str]
    rows: list[list[Cell]]
    sentence: str
    votes: int
    candidates: int
    error: str | None = None


def elect(attempts: Sequence[Attempt]) -> Answer:
    """The result that most candidates share; candidates that failed to run have no vote."""
    keys = [vote_key([tuple(row) for row in one.rows], "ORDER BY" in one.sql) for one in attempts]
    weights: defaultdict[str, float] = defaultdict(float)
    for index, (one, key) in enumerate(zip(attempts, keys, strict=True)):
        if one.fault in TRUST:
            weights[key] += TRUST[one.fault] + (0.0 if index else FIRST_BONUS)
    if not weights:
        first = attempts[0]
        error = f"no candidate could be run; the first: {first.message or first.fault}"
        return Answer(first.sql or first.written, [], [], "I could not answer that.", 0, len(attempts), error)
    best = max(weights, key=weights.__getitem__)
    ran = [one for one, key in zip(attempts, keys, strict=True) if key == best and one.fault in TRUST]
    return Answer(ran[0].sql, ran[0].columns, ran[0].rows, sentence(ran[0].rows), len(ran), len(attempts))


def sentence(rows: Sequence[Sequence[Cell]]) -> str:
    """Rows as a short sentence."""
    if not rows or all(cell is None for row in rows for cell in row):
        return "There is none."
    if len(rows) == 1:
        return ", ".join(_say(cell) for cell in rows[0]) + "."
    named = "; ".join(", ".join(_say(cell) for cell in row) for row in rows[:SHOWN])
    more = f", and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return f"{len(rows):,} results: {named}{more}."


def _say(cell: Cell) -> str:
    if cell is None:
        return "unknown"
    if isinstance(cell, float) and not cell.is_integer():
        return f"{cell:,.2f}"
    return f"{cell:,.0f}" if isinstance(cell, (int, float)) else cell
