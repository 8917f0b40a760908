"""Text to SQL as a program: link values, write k candidates, run each, repair those that fail, vote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from examples.text_to_sql.answers import Answer, Attempt, elect
from examples.text_to_sql.database import SqlError
from examples.text_to_sql.database import run_sql as run_select
from examples.text_to_sql.faults import TRUST, doubt
from examples.text_to_sql.geography import SCHEMA
from examples.text_to_sql.linking import Linked, LinkError, restore
from examples.text_to_sql.sql_grammar import SQL_GRAMMAR
from examples.text_to_sql.world import database, linker
from tenuto import Var, llm, tool, workflow

CANDIDATES, REPAIRS, READINGS, ROWS, TEMPERATURE = 7, 2, 3, 300, 1.2
SYSTEM = f"""Write one SQLite SELECT for the question. Places and numbers in it are placeholders such as country1 or
number1: use them as they stand, unquoted. After <repair>, mend the query behind <bad>. The schema:\n{SCHEMA}"""


@tool(effects="read", timeout=10.0)
def link_values(question: str) -> list[Linked]:
    best = linker().link(question)
    others = best.alternatives[: READINGS - 1]
    return [best] * (CANDIDATES - len(others)) + list(others)


@llm(system=SYSTEM, grammar=SQL_GRAMMAR, max_tokens=110, category="sql")
def write_sql(question: str) -> str:
    """<sql> {{question}}"""
    ...


@llm(system=SYSTEM, grammar=SQL_GRAMMAR, max_tokens=110, category="sql")
def repair_sql(question: str, sql: str, fault: str) -> str:
    """<repair> {{question}}<bad> {{sql}}<err> {{fault}}"""
    ...


@tool(effects="read", timeout=10.0)
def run_sql(written: str, linked: Linked) -> Attempt:
    try:
        sql = restore(written, linked.values)
    except LinkError as error:
        return Attempt(written, fault="placeholder", message=str(error))
    try:
        result = run_select(database(), sql, ROWS)
    except SqlError as error:
        return Attempt(written, sql, fault="error", message=str(error))
    rows = [list(row) for row in result.rows]
    return Attempt(written, sql, list(result.columns), rows, doubt(linked, written, result.rows))


@tool(effects="read")
def vote(attempts: Sequence[Attempt]) -> Answer:
    return elect(attempts)


async def candidate(linked: Var[Linked], number: int) -> Attempt:
    drawn = TEMPERATURE if number else 0.0  # the first is greedy, its siblings differ by their seeds
    best = await run_sql(write_sql.options(temperature=drawn, seed=number)(linked.text), linked)
    for turn in range(REPAIRS):
        if not best.fault:
            break
        again = repair_sql.options(temperature=TEMPERATURE * turn, seed=number)(linked.text, best.written, best.fault)
        mended = await run_sql(again, linked)
        best = mended if TRUST.get(mended.fault, 0.0) > TRUST.get(best.fault, 0.0) else best
    return best


@workflow(objective="latency")
async def answer(question: str) -> Answer:
    readings = link_values(question)
    attempts = await asyncio.gather(*(candidate(readings[i], i) for i in range(CANDIDATES)))
    return vote(attempts)
