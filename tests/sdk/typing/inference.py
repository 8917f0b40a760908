# mypy: disable-error-code="empty-body"
"""What type checkers infer for users' code. Never run: `test_typing.py` checks it with mypy and pyright, strict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal, assert_type

from pydantic import BaseModel

import tenuto
from tenuto import AsyncRun, CallFailed, Client, Piece, Run, Stream, Var, first, gather, llm, local, tool, workflow
from tenuto.testing import ScriptedModel, override
from tenuto.wire import Graph, Timeline


class Sql(BaseModel):
    query: str
    confidence: float


class Row(BaseModel):
    name: str


@llm
def plain(text: str) -> str:
    """{{text}}"""
    ...


@llm(max_tokens=120, category="sql", temperature=0.7, retries=1)
def write_sql(question: str, schema: str, hint: str = "") -> Sql:
    """{{schema}} {{question}} {{hint}}"""
    ...


@llm(prompt="{{items}}", system="Count.", regex=None)
async def count(items: Sequence[str]) -> int: ...


@llm
def judge(answer: str) -> Literal["good", "bad"]:
    """{{answer}}"""
    raise NotImplementedError


@tool(effects="read", timeout=5.0, concurrency=4)
def run_sql(query: str) -> list[Row]:
    return [Row(name=query)]


@tool
async def fetch(url: str, *, tries: int = 3) -> str:
    return url * tries


def table(tries: Sequence[Sql], rows: Sequence[list[Row]]) -> str:
    return f"votes/{len(rows)}"


@tool(effects="write", effect_key=table)
def vote(tries: Sequence[Sql], rows: Sequence[list[Row]]) -> Row:
    return rows[0][0]


@tool
def names(rows: list[Row]) -> list[str]:
    return [row.name for row in rows]


async def declared() -> None:
    """Calls give Vars of their return types; arguments stay checked; Vars stand wherever their values may."""
    draft = write_sql("question", "schema")
    assert_type(draft, Var[Sql])
    assert_type(await draft, Sql)
    assert_type((await draft).query, str)
    assert_type(plain("x"), Var[str])
    assert_type(count(["a"]), Var[int])
    assert_type(await judge(plain("x")), Literal["good", "bad"])
    assert_type(run_sql(draft.query), Var[list[Row]])
    assert_type(fetch("url", tries=2), Var[str])
    assert_type(write_sql.options(seed=1, model="m")("q", plain("schema")), Var[Sql])
    assert_type(run_sql.options(timeout=1.0, effects="exclusive")("q"), Var[list[Row]])
    plain(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    write_sql("question")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    write_sql("question", scheme="s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    write_sql.options(sed=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    run_sql.options(seed=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    llm(max_token=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def fanned_out() -> None:
    """Comprehensions give lists of Vars; `Sequence` parameters take them as they are, `list` ones after `gather`."""
    tries = [write_sql.options(seed=i)("q", "s") for i in range(4)]
    assert_type(tries, list[Var[Sql]])
    rows = [run_sql(draft.query) for draft in tries]
    assert_type(rows, list[Var[list[Row]]])
    assert_type(vote(tries, rows), Var[Row])
    assert_type(names([Row(name="a")]), Var[list[str]])
    assert_type(gather(tries), Var[list[Sql]])
    assert_type(await gather(rows), list[list[Row]])
    assert_type(gather(plain("a"), count([])), Var[tuple[str, int]])
    text, number = await gather(plain("a"), count([]))
    assert_type(text, str)
    assert_type(number, int)
    assert_type(await first(rows, accept=lambda found: len(found) > 0), list[Row])
    row = vote(tries, rows)
    assert_type(names(gather([row, row])), Var[list[str]])


async def raw() -> None:
    """The bare function keeps its type."""
    assert_type(run_sql.raw("select 1"), list[Row])
    assert_type(await fetch.raw("x"), str)


@workflow
async def answer(question: str, tries: int = 2) -> str:
    drafts = [write_sql(question, "schema") for _ in range(tries)]
    return plain(drafts[0].query)


@workflow(objective="throughput", name="both")
def several(question: str) -> tuple[Sql, str]:
    return write_sql(question, "schema"), plain(question)


@workflow(deadline=20.0)
async def nested(question: str) -> list[str]:
    part = await answer(question)
    assert_type(part, str)
    texts = [plain(part), plain(question)]
    try:
        await texts[0]
    except CallFailed as error:
        assert_type(error.message, str)
    return gather(texts)


async def asynchronous() -> None:
    async with local() as client:
        assert_type(client, tenuto.AsyncClient)
        assert_type(await answer.arun("q"), str)
        assert_type(await several.arun("q"), tuple[Sql, str])
        run = await answer.asubmit("q", tries=3)
        assert_type(run, AsyncRun[str])
        assert_type(await run.result(), str)
        assert_type(await run.timeline(), Timeline)
        stream = answer.stream("q")
        assert_type(stream, Stream[str])
        async for piece in stream:
            assert_type(piece, Piece)
        assert_type(await stream.result(), str)
        pieces: AsyncIterator[Piece] = stream
        del pieces
        answer.run(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        answer.arun()  # type: ignore[call-arg,unused-coroutine]  # pyright: ignore[reportCallIssue, reportUnusedCoroutine]


def blocking() -> None:
    with local("none") as client, override(ScriptedModel({"plain": "x"})) as model:
        assert_type(client, Client)
        assert_type(model, ScriptedModel)
        assert_type(answer.run("q"), str)
        assert_type(nested.run("q"), list[str])
        run = several.submit("q")
        assert_type(run, Run[tuple[Sql, str]])
        assert_type(run.result(), tuple[Sql, str])
        assert_type(answer.options(deadline=3.0, client=client).run("q"), str)
        assert_type(answer.graph("q"), Graph)
