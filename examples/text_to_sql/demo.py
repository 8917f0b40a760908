"""`python -m examples.text_to_sql`: asks questions and shows each program while it runs, then its SQL and rows.

Owns the terminal. The program itself is in `program.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from examples.terminal import hold, run_shown
from examples.text_to_sql import world
from examples.text_to_sql.answers import Answer
from examples.text_to_sql.database import Cell
from examples.text_to_sql.program import answer
from tenuto import local

QUESTIONS = (
    "Which African country has the most cities over a million people?",
    "What is the capital of Japan?",
    "How many countries use the Euro?",
    "List the five largest cities in Texas.",
    "Which continent has the highest average country population?",
)
SHOWN_ROWS = 8


@dataclass(frozen=True, slots=True)
class Report:
    """One question and all that became of it: what `--json` prints."""

    question: str
    sql: str | None
    columns: list[str]
    rows: list[list[Cell]]
    answer: str | None
    program: str | None
    trace: str | None
    seconds: float
    error: str | None


def ask(question: str, console: Console | None) -> Report:
    """Run one program; with a console, show it live."""
    outcome = run_shown(lambda: answer.submit(question), question, console)
    found = outcome.value or Answer("", [], [], "", 0, 0)
    return Report(
        question=question,
        sql=found.sql or None,
        columns=found.columns,
        rows=found.rows,
        answer=found.sentence or None,
        program=outcome.program,
        trace=outcome.trace,
        seconds=outcome.seconds,
        error=outcome.error or found.error,
    )


def _show(report: Report, console: Console) -> None:
    if report.sql:
        console.print(Syntax(report.sql, "sql", word_wrap=True, background_color="default"))
    if report.rows:
        table = Table(*report.columns, header_style="bold", box=None, padding=(0, 2, 0, 0))
        for row in report.rows[:SHOWN_ROWS]:
            table.add_row(*("NULL" if cell is None else str(cell) for cell in row))
        console.print(table)
        if len(report.rows) > SHOWN_ROWS:
            console.print(Text(f"… {len(report.rows) - SHOWN_ROWS} more rows", style="dim"))
    if not report.error:
        console.print(Text(str(report.answer), style="bold green"))


def demo(questions: Iterable[str] = (), *, as_json: bool = False, model: str = "bundled") -> int:
    """Start a private server, ask, stop it. The exit status: 0 if every question was answered."""

    def prepare(stack: ExitStack) -> None:
        world.linker()
        stack.enter_context(local(model=model))

    return hold("tenuto demo", tuple(questions) or QUESTIONS, prepare, ask, _show, as_json=as_json)
