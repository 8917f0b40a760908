"""A running program on the terminal: a small tree of calls with states and times, shared by the examples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tenuto import Run
from tenuto.wire import Event, EventKind

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

    def __init__(self, question: str, run: Run[Any]) -> None:
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


def show_live(run: Run[Any], question: str, console: Console) -> None:
    """Draw the program until it has ended."""
    progress = Progress(question, run)
    with Live(progress, console=console, refresh_per_second=12) as live:
        for event in run.events():
            progress.see(event)
            live.update(progress)
    if not console.is_terminal:
        console.print()  # there Live ends without a new line
