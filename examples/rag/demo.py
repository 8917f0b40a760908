"""`tenuto demo rag [QUESTION …] [--docs DIR]`: asks questions about a folder of documents and shows quotes with their
sources. Owns the terminal. The program itself is in `program.py`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from examples.progress import show_live
from examples.rag import library
from examples.rag.answers import Answer
from examples.rag.documents import DocumentError
from examples.rag.program import answer
from tenuto import Run, TenutoError, local

MODEL = "bundled:geo-docs"
ENGINE = {"draft_tokens": 32}
"""Behind a sentence's number its grammar leaves no choice: the rest of a quote takes a step or two, not one a token."""
QUESTIONS = (
    "What is the capital of Mongolia?",
    "Which countries border Bolivia, and how many people live there?",
    "What money do people pay with in Vietnam?",
    "Which has more inhabitants, Lyon or Nice?",
    "Who is the mayor of Lyon?",
)


@dataclass(frozen=True, slots=True)
class Report:
    """One question and what became of it: what `--json` prints."""

    question: str
    answer: str | None
    citations: list[dict[str, str]]
    missing: list[str]
    program: str | None
    trace: str | None
    seconds: float
    error: str | None


def ask(question: str, console: Console | None) -> Report:
    """Run one program; with a console, show it live."""
    began = time.monotonic()
    run: Run[Answer] | None = None
    found, error = Answer(""), None
    try:
        run = answer.submit(question)
        if console is not None:
            show_live(run, question, console)
        found = run.result(timeout_s=60.0)
    except (TenutoError, TimeoutError) as fault:
        error = f"{type(fault).__name__}: {fault}"
    return Report(
        question=question,
        answer=found.text or None,
        citations=[asdict(citation) for citation in found.citations],
        missing=found.missing,
        program=run.id if run else None,
        trace=run.trace_id if run else None,
        seconds=round(time.monotonic() - began, 3),
        error=error,
    )


def _show(report: Report, console: Console) -> None:
    if report.error:
        console.print(Text(f"error: {report.error}", style="red"))
    for number, citation in enumerate(report.citations, 1):
        console.print(Text(citation["quote"], style="bold green"), Text(f"[{number}]", style="cyan"))
    for search in report.missing:
        console.print(Text(f"{search}: not in the documents", style="yellow"))
    for number, citation in enumerate(report.citations, 1):
        console.print(Text(f"  [{number}] {citation['title']}, {citation['passage']}", style="dim"))
    console.print(Text(f"trace {report.trace}\nprogram {report.program}, {report.seconds} s\n", style="dim"))


def demo(questions: Iterable[str] = (), *, docs: Path | None = None, as_json: bool = False, model: str = MODEL) -> int:
    """Index the documents, start a private server, ask, stop it. The exit status: 0 if every program ended well."""
    console = None if as_json else Console()
    if docs is not None:
        os.environ["TENUTO_DOCS"] = str(docs)
    failed = 0
    with ExitStack() as stack:
        try:
            with console.status("reading the documents and starting the server") if console else nullcontext():
                library.index()
                stack.enter_context(local(model=model, engine=ENGINE))
        except (TenutoError, DocumentError) as fault:
            print(f"tenuto demo rag: {fault}", file=sys.stderr)
            return 1
        for question in tuple(questions) or QUESTIONS:
            report = ask(question, console)
            failed += report.error is not None
            if console is None:
                print(json.dumps(asdict(report), ensure_ascii=False), flush=True)
            else:
                _show(report, console)
    return 1 if failed else 0
