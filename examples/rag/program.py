"""Questions about documents as a program: plan the searches, run them side by side, quote from the best passages."""

from __future__ import annotations

from collections.abc import Sequence

from examples.rag import answers
from examples.rag.answers import Answer, Question, Search, Shown
from examples.rag.index import Hit
from examples.rag.library import index
from examples.rag.prompts import NONE
from tenuto import CacheControl, Var, gather, llm, tool, workflow

PLANNING = "Write what must be looked up to answer the question, one short search a line, three at most."
QUOTING = f"Write the numbered sentence that answers the search, word for word. If none does, write: {NONE}"


@tool(effects="read", timeout=60.0)
def read_question(question: str) -> Question:
    return answers.read(question, index().titles, index().vocabulary)


@llm(system=PLANNING, max_tokens=48, temperature=0.0)
def plan(question: str, normal: str) -> str:
    """{{question}}<normal><plan> {{normal}}"""
    ...


@tool(effects="read")
def searches(question: Question, written: str) -> list[Search]:
    return answers.planned(question, written, index().titles)


@tool(effects="read")
def keyword_search(search: Search) -> list[Hit]:
    return index().keyword(search.said)


@tool(effects="read")
def vector_search(search: Search) -> list[Hit]:
    return index().vector(search.said)


@tool(effects="read")
def rerank(search: Search, by_keyword: Sequence[Hit], by_vector: Sequence[Hit]) -> list[Shown]:
    found = index().fuse(search.names, [by_keyword, by_vector])
    return [answers.show(search, index().passages[hit.passage]) for hit in found]


@llm(system=QUOTING, max_tokens=200, temperature=0.0)
def quote(search: str, passage: str, normal: str) -> str:
    """Search: {{search}}\n{{passage}}<normal><quote> {{normal}}"""
    ...


@tool(effects="read")
def cite(asked: Sequence[Search], shown: Sequence[Sequence[Shown]], quotes: Sequence[Sequence[str]]) -> Answer:
    return answers.cite(asked, shown, quotes)


def depends_on(shown: Shown) -> CacheControl:
    """A repeated search is answered from the cache until the document changes."""
    return CacheControl(mode="exact", tags={"document": f"{shown.doc[-150:]} {shown.version}"})


@workflow(objective="latency")
async def answer(question: str) -> Answer:
    read = read_question(question)
    asked = await searches(read, plan(question, read.normal))
    found = await gather([rerank(one, keyword_search(one), vector_search(one)) for one in asked])
    quotes: list[list[Var[str]]] = [
        [quote.options(grammar=p.grammar, cache=depends_on(p))(one.text, p.text, p.normal) for p in passages]
        for one, passages in zip(asked, found, strict=True)
    ]
    return cite(asked, found, quotes)
