"""`python -m examples.text_to_sql`: asks questions and shows each program while it runs, then its SQL and rows.

Owns the terminal. The program itself is in `program.py`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from examples.text_to_sql import world
from examples.text_to_sql.answers import Answer
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
    EventKind.CALL_READY: "waiting for its turn",
    EventKind.CALL_STARTED: "running",
    EventKind.CALL_RETRYING: "trying again",
    EventKind.CALL_ENDED: "done",
    EventKind.CALL_FAILED: "failed",
    EventKind.CALL_SKIPPED: "skipped",
    EventKind.CALL_CANCELLED: "cancelled",
}


@dataclass(slots=True)
class _Call:
    """A call as the screen shows it; times in seconds since the program was accepted."""

    name: str
    state: EventKind
    started_s: float
    ended_s: float | None = None
    text: str = ""


class Progress:
    """The program as a small tree of calls with states and times, drawn anew after each event."""

    def __init__(self, question: str) -> None:
        self._question = question
        self._calls: dict[str, _Call] = {}
        self._began = time.monotonic()

    def see(self, event: Event) -> None:
        """Take one event of the program into the picture."""
        name = event.call
        if name is None:
            return
        call = self._calls.setdefault(name, _Call(name, EventKind.CALL_READY, event.at_s))
        if event.kind is EventKind.CALL_TOKENS:
            call.text += event.text or ""
        elif event.kind in _STATES:
            call.state = event.kind
            if event.kind is EventKind.CALL_STARTED:
                call.started_s = event.at_s
                call.text = ""
            elif event.kind not in (EventKind.CALL_READY, EventKind.CALL_RETRYING):
                call.ended_s = event.at_s

    def __rich__(self) -> Tree:
        tree = Tree(Text(self._question, style="bold"), guide_style="dim")
        now_s = time.monotonic() - self._began
        for call in self._calls.values():
            row = Table.grid(padding=(0, 1))
            took = (now_s if call.ended_s is None else call.ended_s) - call.started_s
            mark = {
                EventKind.CALL_ENDED: Text("✓", style="green"),
                EventKind.CALL_FAILED: Text("✗", style="red"),
            }.get(call.state, Spinner("dots") if call.ended_s is None else Text("-"))
            state = Text(f"{_STATES[call.state]:<8} {max(took, 0.0) * 1000:7.0f} ms", style="dim")
            row.add_row(mark, Text(f"{call.name:<14}"), state, Text(call.text[-72:], style="cyan", no_wrap=True))
            tree.add(row)
        return tree


def ask(question: str, console: Console | None) -> dict[str, object]:
    """Run one program; with a console, show it live. The object that `--json` prints."""
    began = time.monotonic()
    run: Run[Answer] | None = None
    found: Answer | None = None
    error: str | None = None
    try:
        run = answer.submit(question)
        if console is not None:
            _show_live(run, question, console)
        found = run.result(timeout_s=60.0)
        error = found.error
    except (TenutoError, TimeoutError) as fault:
        error = f"{type(fault).__name__}: {fault}"
    return {
        "question": question,
        "sql": found.sql if found else None,
        "columns": found.columns if found else [],
        "rows": found.rows if found else [],
        "answer": found.sentence if found else None,
        "program": run.id if run else None,
        "trace": run.trace_id if run else None,
        "seconds": round(time.monotonic() - began, 3),
        "error": error,
    }


def _show_live(run: Run[Answer], question: str, console: Console) -> None:
    progress = Progress(question)
    with Live(progress, console=console, refresh_per_second=12, transient=False) as live:
        for event in run.events():
            progress.see(event)
            live.update(progress)


def _show(result: dict[str, object], console: Console) -> None:
    if result["sql"]:
        console.print(Syntax(str(result["sql"]), "sql", word_wrap=True, background_color="default"))
    rows, columns = result["rows"], result["columns"]
    assert isinstance(rows, list) and isinstance(columns, list)
    if rows:
        table = Table(*(str(column) for column in columns), header_style="bold", box=None, padding=(0, 2, 0, 0))
        for row in rows[:SHOWN_ROWS]:
            table.add_row(*("NULL" if cell is None else str(cell) for cell in row))
        more = [Text(f"… {len(rows) - SHOWN_ROWS} more rows", style="dim")] if len(rows) > SHOWN_ROWS else []
        console.print(Group(table, *more))
    if result["error"]:
        console.print(Text(f"error: {result['error']}", style="red"))
    else:
        console.print(Text(str(result["answer"]), style="bold green"))
    console.print(Text(f"trace {result['trace']}   program {result['program']}   {result['seconds']} s\n", style="dim"))


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
            result = ask(question, console)
            failed += result["error"] is not None
            if console is None:
                print(json.dumps(result, ensure_ascii=False), flush=True)
            else:
                _show(result, console)
    return 1 if failed else 0
