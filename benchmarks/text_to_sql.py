"""Execution accuracy of the text-to-SQL program, run as a user runs it: on a private server with the bundled model.

`python -m benchmarks.text_to_sql --json FILE [--quick] [--seed N] [--hand FILE] [--model DIR]`

Three sets, none of them trained on: questions drawn from the generator's held-out texts, questions of SQL shapes that
the generator never trains, and questions worded by hand. The program's single shot is its own first candidate: the
greedy one on the likeliest linking, without siblings, repair or vote. The rule of comparison stands in
`examples.text_to_sql.evaluate`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.common import ROOT, Figure, conditions, finish, parser, percentile
from examples.text_to_sql import program, world
from examples.text_to_sql.answers import Answer, elect
from examples.text_to_sql.evaluate import execution_match
from examples.text_to_sql.train.dataset import Generator, Split
from tenuto import TenutoError, Workflow, local, workflow

HAND = ROOT / "examples" / "text_to_sql" / "data" / "hand_test.jsonl"
BUNDLED = ROOT / "orchestrator" / "bundled" / "geo-sql"
AT_ONCE = 12


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its gold SQL; `kind` is its level or its shape."""

    text: str
    gold: str
    order_matters: bool
    kind: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a workflow answered to a question, and whether that is right."""

    question: Question
    sql: str
    right: bool
    seconds: float
    error: str | None


@workflow
async def single_shot(question: str) -> Answer:
    """The program's own first candidate, alone."""
    linked = program.link_values(question)[0]
    return elect([await program.run_sql(program.write_sql.options(temperature=0.0)(linked.text), linked)])


def read_hand(path: Path) -> list[Question]:
    """Questions from a JSON-lines file with `question`, `sql`, `order_matters`, `level`."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [Question(row["question"], row["sql"], row["order_matters"], row["level"]) for row in rows]


def draw(generator: Generator, split: Split, count: int, seed: int) -> list[Question]:
    """`count` questions of a held-out split."""
    drawn = generator.generate(split, count, seed)
    return [Question(one.question, one.gold, " ORDER BY " in one.gold, one.shape) for one in drawn]


async def ask_all(flow: Workflow[[str], Answer], questions: Sequence[Question]) -> list[Outcome]:
    """Run the workflow on every question, `AT_ONCE` at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def ask(question: Question) -> Outcome:
        async with places:
            began = perf_counter()
            try:
                answer = await flow.arun(question.text)
            except TenutoError as fault:
                return Outcome(question, "", False, perf_counter() - began, f"{type(fault).__name__}: {fault}")
            seconds = perf_counter() - began
        sql = answer.sql
        right = answer.error is None and await asyncio.to_thread(
            execution_match, world.database(), question.gold, sql, question.order_matters
        )
        return Outcome(question, sql, right, seconds, answer.error)

    return list(await asyncio.gather(*map(ask, questions)))


def accuracy(outcomes: Sequence[Outcome]) -> float:
    """Share of right answers."""
    return sum(one.right for one in outcomes) / len(outcomes)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Accuracy by kind, seconds, and the questions that were answered wrong."""
    kinds = sorted({one.question.kind for one in outcomes})
    by_kind = {kind: accuracy([one for one in outcomes if one.question.kind == kind]) for kind in kinds}
    seconds = [one.seconds for one in outcomes]
    return {
        "questions": len(outcomes),
        "right": sum(one.right for one in outcomes),
        "by_kind": by_kind if len(by_kind) <= 12 else {},
        "seconds_p50": percentile(seconds, 0.5),
        "seconds_p95": percentile(seconds, 0.95),
        "errors": sum(one.error is not None for one in outcomes),
    }


async def measure(args: argparse.Namespace) -> tuple[list[Figure], dict[str, Any]]:
    """All figures, one set after the other."""
    size = 60 if args.quick else 500
    generator = Generator(world.database())
    hand = read_hand(args.hand)
    hand_asked = hand[:: max(1, len(hand) // 60)] if args.quick else hand
    model = str(args.model) if args.model else "bundled"
    async with local(model=model):
        await program.answer.arun("How many countries are there?")  # the engine has loaded when this is answered
        generated = await ask_all(program.answer, draw(generator, "generated", size, args.seed))
        unseen = await ask_all(program.answer, draw(generator, "unseen_shapes", size, args.seed))
        by_hand = await ask_all(program.answer, hand_asked)
        single = await ask_all(single_shot, hand_asked)
    figures = [
        Figure("exec_acc_generated", accuracy(generated), ">=", 0.95),
        Figure("exec_acc_unseen_shapes", accuracy(unseen), ">=", 0.75),
        Figure("exec_acc_hand", accuracy(by_hand), ">=", 0.75),
        Figure("exec_acc_hand_single_shot", accuracy(single)),
        Figure("hand_questions", len(hand_asked), ">=", 200),
        Figure("program_minus_single_shot_hand", accuracy(by_hand) - accuracy(single), ">=", 0.03),
        Figure("model_bytes", sum(f.stat().st_size for f in (args.model or BUNDLED).iterdir()), "<=", 12e6),
    ]
    sets = {"generated": generated, "unseen_shapes": unseen, "hand": by_hand, "hand_single_shot": single}
    return figures, {name: summary(outcomes) for name, outcomes in sets.items()}


def main() -> None:
    own = parser("text_to_sql", "Execution accuracy of the text-to-SQL program with the bundled model.")
    own.add_argument("--hand", type=Path, default=HAND, help="hand-worded questions (JSON lines)")
    own.add_argument("--model", type=Path, help="a model directory; the bundled model without it")
    args = own.parse_args()
    at_start = conditions(args.seed, args.quick, [args.hand])
    figures, detail = asyncio.run(measure(args))
    finish("text_to_sql", figures, args=args, at_start=at_start, detail=detail)


if __name__ == "__main__":
    main()
