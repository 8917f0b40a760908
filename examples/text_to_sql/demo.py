"""`python -m examples.text_to_sql`: asks questions and shows each program while it runs, then its SQL and rows.

Owns the terminal. The program itself is in `program.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from examples.progress import show_live
from examples.text_to_sql import world
from examples.text_to_sql.answers import Answer
from examples.text_to_sql.database import Cell
from examples.text_to_sql.program import answer
from tenuto import Run, TenutoError, local

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
    began = time.monotonic()
    run: Run[Answer] | None = None
    found = Answer("", [], [], "", 0, 0)
    try:
        run = answer.submit(question)
        if console is not None:
            show_live(run, question, console)
        found = run.result(timeout_s=60.0)
        error = found.error
    except (TenutoError, TimeoutError) as fault:
        error = f"{type(fault).__name__}: {fault}"
    return Report(
        question=question,
        sql=found.sql or None,
        columns=found.columns,
        rows=found.rows,
        answer=found.sentence or None,
        program=run.id if run else None,
        trace=run.trace_id if run else None,
        seconds=round(time.monotonic() - began, 3),
        error=error,
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
    if report.error:
        console.print(Text(f"error: {report.error}", style="red"))
    else:
        console.print(Text(str(report.answer), style="bold green"))
    console.print(Text(f"trace {report.trace}\nprogram {report.program}, {report.seconds} s\n", style="dim"))


def demo(questions: Iterable[str] = (), *, as_json: bool = False, model: str = "bundled") -> int:
    """Start a private server, ask, stop it. The exit status: 0 if every question was answered."""
    console = None if as_json else Console()
    failed = 0
    with ExitStack() as stack:
        try:
            with console.status("building the database and starting the server") if console else nullcontext():
                world.linker()
                stack.enter_context(local(model=model))
        except TenutoError as fault:
            print(f"tenuto demo: {fault}", file=sys.stderr)
            return 1
        for question in tuple(questions) or QUESTIONS:
            report = ask(question, console)
            failed += report.error is not None
            if console is None:
                print(json.dumps(asdict(report), ensure_ascii=False), flush=True)
            else:
                _show(report, console)
    return 1 if failed else 0
