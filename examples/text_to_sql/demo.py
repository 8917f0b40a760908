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
from rich.live import Live
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from examples.text_to_sql import world
from examples.text_to_sql.answers import Answer
from examples.text_to_sql.database import Cell
from examples.text_to_sql.program import answer
from tenuto import Run, TenutoError, local
from tenuto.wire import Event, EventKind

QUESTIONS = (
    "Which African country has the most cities over a million people?",
    "What is the capital of Japan?",
    "How many countries use the Euro?",
    "List the five largest cities in Texas.",
    "Which continent has the highest average country population?",
)
SHOWN_ROWS = 8
_STATES = {
    EventKind.CALL_READY: "waiting",
    EventKind.CALL_STARTED: "running",
    EventKind.CALL_RETRYING: "retrying",
    EventKind.CALL_ENDED: "done",
    EventKind.CALL_FAILED: "failed",
    EventKind.CALL_SKIPPED: "skipped",
    EventKind.CALL_CANCELLED: "cancelled",
}


@dataclass(slots=True)
class _Call:
    """A call as the screen shows it, under its `parent`; times in seconds since the program was accepted."""

    name: str
    parent: str | None
    state: EventKind
    started_s: float
    ended_s: float | None = None
    text: str = ""


class Progress:
    """The program as a small tree of calls with states and times, drawn anew after each event.

    A call hangs under the last of those it waits for; one that joins many branches stands at the root.
    """

    def __init__(self, question: str, run: Run[Answer]) -> None:
        self._question = question
        self._run = run
        self._calls: dict[str, _Call] = {}
        self._began = time.monotonic()

    def see(self, event: Event) -> None:
        """Take one event of the program into the picture."""
        name = event.call
        if name is None:
            return
        if name not in self._calls:
            self._calls[name] = _Call(name, self._parent(name), EventKind.CALL_READY, event.at_s)
        call = self._calls[name]
        if event.kind is EventKind.CALL_TOKENS:
            call.text += event.text or ""
        elif event.kind in _STATES:
            call.state = event.kind
            if event.kind is EventKind.CALL_STARTED:
                call.started_s = event.at_s
                call.text = ""
            elif event.kind not in (EventKind.CALL_READY, EventKind.CALL_RETRYING):
                call.ended_s = event.at_s

    def _parent(self, name: str) -> str | None:
        after = next((call.after for call in self._run.timeline().calls if call.id == name), ())
        known = [other for other in self._calls if other in after]
        return known[-1] if known and len(after) <= 2 else None

    def __rich__(self) -> Tree:
        tree = Tree(Text(self._question, style="bold"), guide_style="dim")
        branches: dict[str | None, Tree] = {None: tree}
        for call in self._calls.values():
            branches[call.name] = branches[call.parent].add(self._row(call))
        return tree

    def _row(self, call: _Call) -> Table:
        now_s = time.monotonic() - self._began
        took_s = max((now_s if call.ended_s is None else call.ended_s) - call.started_s, 0.0)
        marks: dict[EventKind, Text] = {
            EventKind.CALL_ENDED: Text("✓", style="green"),
            EventKind.CALL_FAILED: Text("✗", style="red"),
        }
        mark = marks.get(call.state, Spinner("dots") if call.ended_s is None else Text("-"))
        row = Table.grid(padding=(0, 1))
        times = Text(f"{_STATES[call.state]:<9}{took_s * 1000:6.0f} ms", style="dim")
        row.add_row(mark, Text(f"{call.name:<12}"), times, Text(call.text[-64:], style="cyan", no_wrap=True))
        return row


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
            _show_live(run, question, console)
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


def _show_live(run: Run[Answer], question: str, console: Console) -> None:
    progress = Progress(question, run)
    with Live(progress, console=console, refresh_per_second=12) as live:
        for event in run.events():
            progress.see(event)
            live.update(progress)
    if not console.is_terminal:
        console.print()  # there Live ends without a new line


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
