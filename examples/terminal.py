"""What the demos share: run one program with its progress shown, and hold a session of questions in the terminal.

Owns the terminal and the exit status. Never knows what is asked, or how an answer looks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console
from rich.text import Text

from examples.progress import show_live
from tenuto import Run, TenutoError

ANSWER_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one program. `value` is None where `error` tells what went wrong."""

    value: T | None
    program: str | None
    trace: str | None
    seconds: float
    error: str | None


class Report(Protocol):
    """A dataclass that `--json` prints; `error` tells what went wrong."""

    @property
    def program(self) -> str | None: ...
    @property
    def trace(self) -> str | None: ...
    @property
    def seconds(self) -> float: ...
    @property
    def error(self) -> str | None: ...


R = TypeVar("R", bound=Report)


def run_shown(submit: Callable[[], Run[T]], question: str, console: Console | None) -> Outcome[T]:
    """Run one program; with a console, show it live."""
    began = time.monotonic()
    run: Run[T] | None = None
    value, error = None, None
    try:
        run = submit()
        if console is not None:
            show_live(run, question, console)
        value = run.result(timeout_s=ANSWER_S)
    except (TenutoError, TimeoutError) as fault:
        error = f"{type(fault).__name__}: {fault}"
    seconds = round(time.monotonic() - began, 3)
    return Outcome(value, run.id if run else None, run.trace_id if run else None, seconds, error)


def hold(
    name: str,
    questions: Iterable[str],
    prepare: Callable[[ExitStack], object],
    ask: Callable[[str, Console | None], R],
    show: Callable[[R, Console], None],
    *,
    as_json: bool,
) -> int:
    """Prepare, ask every question and show its report. The exit status: 0 if none went wrong.

    `prepare` enters what is to be left at the end; a `TenutoError` or `ValueError` of it is told and ends the session.
    """
    console = None if as_json else Console()
    failed = 0
    with ExitStack() as stack:
        try:
            with console.status("reading and starting the server") if console else nullcontext():
                prepare(stack)
        except (TenutoError, ValueError) as fault:
            print(f"{name}: {fault}", file=sys.stderr)
            return 1
        for question in questions:
            report = ask(question, console)
            failed += report.error is not None
            if console is None:
                fields: Any = report
                print(json.dumps(asdict(fields), ensure_ascii=False), flush=True)
                continue
            if report.error:
                console.print(Text(f"error: {report.error}", style="red"))
            show(report, console)
            about = f"trace {report.trace}\nprogram {report.program}, {report.seconds} s\n"
            console.print(Text(about, style="dim"))
    return 1 if failed else 0
