"""`tenuto demo rag [QUESTION …] [--docs DIR]`: asks questions about a folder of documents and shows quotes with their
sources. Owns the terminal. The program itself is in `program.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from examples.rag import library
from examples.rag.answers import Answer
from examples.rag.program import answer
from examples.terminal import ANSWER_S, hold, run_shown
from tenuto import Objective, local

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
    timed = answer.options(objective=Objective(kind="deadline", deadline_s=ANSWER_S))
    outcome = run_shown(lambda: timed.submit(question), question, console)
    found = outcome.value or Answer("")
    return Report(
        question=question,
        answer=found.text or None,
        citations=[asdict(citation) for citation in found.citations],
        missing=found.missing,
        program=outcome.program,
        trace=outcome.trace,
        seconds=outcome.seconds,
        error=outcome.error,
    )


def _show(report: Report, console: Console) -> None:
    for number, citation in enumerate(report.citations, 1):
        console.print(Text(citation["quote"], style="bold green"), Text(f"[{number}]", style="cyan"))
    for search in report.missing:
        console.print(Text(f"{search}: not in the documents", style="yellow"))
    for number, citation in enumerate(report.citations, 1):
        console.print(Text(f"  [{number}] {citation['title']}, {citation['passage']}", style="dim"))


def demo(questions: Iterable[str] = (), *, docs: Path | None = None, as_json: bool = False, model: str = MODEL) -> int:
    """Index the documents, start a private server, ask, stop it. The exit status: 0 if every program ended well."""
    if docs is not None:
        os.environ["TENUTO_DOCS"] = str(docs)

    def prepare(stack: ExitStack) -> None:
        library.index()
        stack.enter_context(local(model=model, engine=ENGINE, semantic_cache={"mode": "exact"}))

    return hold("tenuto demo rag", tuple(questions) or QUESTIONS, prepare, ask, _show, as_json=as_json)
