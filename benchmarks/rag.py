"""The documents program: right answers with right citations, and what the program saves over loops written by hand.

`python -m benchmarks.rag --json FILE [--quick] [--seed N] [--questions FILE]`

Questions are a file of JSON lines, `{"question", "facts": [[relation, subject], ...]}`; those without facts have no
answer in the documents. Default: the hand-worded test questions, which nothing was tuned on: of these no question is
told that went wrong, of another file's all are (`wrong` in `detail`).

- right_with_citation: answerable questions, each of whose facts is quoted from a sentence that states it.
- false_on_unanswerable: the others that got a quote at all.
- recall_at_5: facts that are stated by a sentence of the five passages which a search of theirs showed the model.
- latency_vs_sequential, latency_vs_hand_parallel: median seconds of the same questions, alternately, with the same
  model on the same server (prefix caching on), `USERS` at a time: a loop that makes one call after the other, and a
  chain that gathers what can run side by side by hand; ÷ the program's. Both make each LLM call as a request of its
  own and run the tools in their own process. All give the same answers; those that differ are counted in `detail`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.common import ROOT, Figure, conditions, finish, parser
from examples.rag import answers, library
from examples.rag.answers import Answer, Search, Shown
from examples.rag.corpus import Fact, World, render
from examples.rag.demo import ENGINE, MODEL
from examples.rag.program import answer, plan, quote
from tenuto import AsyncClient, Var, local, workflow

GOALS = {
    "hand_questions": (">=", 200),
    "right_with_citation": (">=", 0.75),
    "false_on_unanswerable": ("<=", 0.10),
    "recall_at_5": (">=", 0.95),
    "latency_vs_sequential": (">=", 1.6),
    "latency_vs_hand_parallel": (">=", 1.2),
}
QUESTIONS = ROOT / "examples" / "rag" / "data" / "hand_test.jsonl"
USERS = 4


@dataclass(frozen=True, slots=True)
class Asked:
    question: str
    facts: tuple[Fact, ...]


def load_questions(path: Path) -> list[Asked]:
    """The questions of a file. Raises `ValueError` naming the line that is none."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            one = json.loads(line)
            found.append(Asked(one["question"], tuple(Fact(*fact) for fact in one["facts"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    return found


class Gold:
    """Which sentences of which documents state a fact."""

    def __init__(self) -> None:
        world = World()
        capital = {fact.subject: value for _, fact, value in world.facts() if fact.relation == "capital"}
        self._stating: dict[Fact, set[tuple[str, str]]] = {}
        for page in render(world):
            for sentence in (s for paragraph in page.paragraphs for s in paragraph):
                for fact in sentence.facts:
                    self._stating.setdefault(fact, set()).add((f"{page.name}.md", sentence.text))
                    if fact.relation == "capital":  # it says as well of what its value is the capital
                        inverse = Fact("capital_of", capital[fact.subject])
                        self._stating.setdefault(inverse, set()).add((f"{page.name}.md", sentence.text))

    def states(self, fact: Fact, doc: str, sentence: str) -> bool:
        return (doc, sentence) in self._stating.get(fact, ())

    def known(self, fact: Fact) -> bool:
        """True if any document states it."""
        return fact in self._stating


@workflow
def plan_alone(question: str, normal: str) -> Var[str]:
    return plan(question, normal)


@workflow
def quote_alone(search: str, passage: str, normal: str, grammar: str) -> Var[str]:
    return quote.options(grammar=grammar)(search, passage, normal)


def searches_of(question: str, written: str) -> list[Search]:
    """The searches of a plan that a model wrote."""
    index = library.index()
    return answers.planned(answers.read(question, index.titles, index.vocabulary), written, index.titles)


def shown_for(search: Search) -> list[Shown]:
    """The tools of the program, called as plain functions."""
    index = library.index()
    return answers.rerank(search, index, [index.keyword(search.said), index.vector(search.said)])


async def planned_alone(question: str) -> list[Search]:
    index = library.index()
    read = answers.read(question, index.titles, index.vocabulary)
    return answers.planned(read, await plan_alone.arun(question, read.normal), index.titles)


async def sequential(question: str) -> Answer:
    """One call after the other."""
    searches = await planned_alone(question)
    shown = [shown_for(search) for search in searches]
    quotes = []
    for search, passages in zip(searches, shown, strict=True):
        quotes.append([await quote_alone.arun(search.text, p.text, p.normal, p.grammar) for p in passages])
    return answers.cite(searches, shown, quotes)


async def by_hand(question: str) -> Answer:
    """What can run side by side is gathered."""
    searches = await planned_alone(question)
    shown = await asyncio.gather(*(asyncio.to_thread(shown_for, search) for search in searches))
    quotes = await asyncio.gather(
        *(
            asyncio.gather(*(quote_alone.arun(search.text, p.text, p.normal, p.grammar) for p in passages))
            for search, passages in zip(searches, shown, strict=True)
        )
    )
    return answers.cite(searches, shown, quotes)


async def as_program(question: str) -> Answer:
    return await answer.arun(question)


async def timed(ask: Callable[[str], Awaitable[Answer]], questions: Sequence[str]) -> tuple[list[float], list[Answer]]:
    """Seconds and answers of the questions, `USERS` at a time."""
    gate = asyncio.Semaphore(USERS)

    async def one(question: str) -> tuple[float, Answer]:
        async with gate:
            began = perf_counter()
            found = await ask(question)
            return perf_counter() - began, found

    done = await asyncio.gather(*(one(question) for question in questions))
    return [seconds for seconds, _ in done], [found for _, found in done]


async def quality(client: AsyncClient, asked: Sequence[Asked], gold: Gold) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of the answers, and what went wrong."""
    right = false = facts = recalled = 0
    wrong: list[dict[str, Any]] = []
    answerable = [one for one in asked if one.facts]
    for one in asked:
        run = await answer.options(client=client).asubmit(one.question)
        found = await run.result()
        cited = [(citation.doc, citation.quote) for citation in found.citations]
        if not one.facts:
            false += bool(cited)
            if cited:
                wrong.append({"question": one.question, "said": found.text})
            continue
        good = all(any(gold.states(fact, *sentence) for sentence in cited) for fact in one.facts)
        right += good
        view = await run.view()
        (planning,) = [call for call in view.call_views if call.stage == "plan"]
        written = str((await client.variable(run.id, planning.output)).value)
        sentences = {
            (p.doc, s) for search in searches_of(one.question, written) for p in shown_for(search) for s in p.sentences
        }
        facts += len(one.facts)
        recalled += sum(any(gold.states(fact, *sentence) for sentence in sentences) for fact in one.facts)
        if not good:
            wrong.append({"question": one.question, "said": found.text, "facts": [str(f) for f in one.facts]})
    figures = {
        "hand_questions": len(asked),
        "right_with_citation": right / len(answerable),
        "false_on_unanswerable": false / max(1, len(asked) - len(answerable)),
        "recall_at_5": recalled / facts,
    }
    return figures, {"answerable": len(answerable), "wrong": wrong}


async def latency(asked: Sequence[Asked], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians of the three ways, which take turns."""
    ways = {"program": as_program, "sequential": sequential, "by_hand": by_hand}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    questions = [one.question for one in asked]
    for turn in range(rounds + 1):
        for name, ask in ways.items():
            took, found = await timed(ask, questions)
            if turn:  # the first one warms up
                seconds[name] += took
            texts[name] = [one.text for one in found]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    differ = sum(len({texts[name][n] for name in ways}) > 1 for n in range(len(questions)))
    figures = {
        "latency_vs_sequential": median["sequential"] / median["program"],
        "latency_vs_hand_parallel": median["by_hand"] / median["program"],
    }
    return figures, {"median_s": median, "answers_that_differ": differ, "users": USERS}


async def measure(url: str, asked: Sequence[Asked], gold: Gold, quick: bool) -> tuple[dict[str, float], dict[str, Any]]:
    some = asked[::5] if quick else asked
    async with AsyncClient(url) as client:
        figures, detail = await quality(client, some, gold)
        more, times = await latency(asked[: 12 if quick else 30], 2 if quick else 6)
    return figures | more, detail | times


def main() -> None:
    arguments = parser("rag", __doc__ or "")
    arguments.add_argument("--questions", type=Path, default=QUESTIONS)
    args = arguments.parse_args()
    at_start = conditions(args.seed, args.quick, [args.questions])
    asked, gold = load_questions(args.questions), Gold()
    for one in asked:
        for fact in one.facts:
            if not gold.known(fact):
                raise SystemExit(f"{args.questions}: no document states {fact}: {one.question}")
    library.index()
    with (
        tempfile.TemporaryDirectory() as folder,
        local(model=MODEL, engine=ENGINE, journal=Path(folder) / "journal.db") as client,
    ):
        figures, detail = asyncio.run(measure(client.url, asked, gold, args.quick))
    if args.questions == QUESTIONS:
        del detail["wrong"]
    finish("rag", [Figure(n, v, *GOALS[n]) for n, v in figures.items()], args=args, at_start=at_start, detail=detail)


if __name__ == "__main__":
    main()
