"""Questions about documents as a program: plan the searches, run them side by side, quote from the best passages."""

from __future__ import annotations

from examples.rag import answers
from examples.rag.answers import Answer, Search, Shown
from examples.rag.index import Hit
from examples.rag.library import index
from examples.rag.prompts import NONE
from tenuto import CacheControl, gather, llm, tool, workflow

PLANNING = "Write what must be looked up to answer the question, one short search a line, three at most."
QUOTING = f"Write the numbered sentence that answers the search, word for word. If none does, write: {NONE}"


@llm(system=PLANNING, max_tokens=48, temperature=0.0, cache=CacheControl(mode="exact"))
def plan(question: str, normal: str) -> str:
    """{{question}}<normal><plan> {{normal}}"""
    ...


@tool(effects="read", timeout=30.0)
async def keyword_search(search: Search) -> list[Hit]:
    return index().keyword(search.said)


@tool(effects="read", timeout=30.0)
async def vector_search(search: Search) -> list[Hit]:
    return index().vector(search.said)


@llm(system=QUOTING, max_tokens=200, temperature=0.0)
def quote(search: str, passage: str, normal: str) -> str:
    """Search: {{search}}\n{{passage}}<normal><quote> {{normal}}"""
    ...


def depends_on(shown: Shown) -> CacheControl:
    """A repeated search is answered from the cache until the document changes."""
    return CacheControl(mode="exact", tags={"document": f"{shown.doc[-150:]} {shown.version}"})


@workflow(objective="latency")
async def answer(question: str) -> Answer:
    read = answers.read(question, index().titles, index().vocabulary)
    asked = answers.planned(read, await plan(question, read.normal), index().titles)
    hits = await gather([gather([keyword_search(one), vector_search(one)]) for one in asked])
    found = [answers.rerank(one, index(), lists) for one, lists in zip(asked, hits, strict=True)]
    quotes = await gather(
        [
            gather(
                [quote.options(grammar=p.grammar, cache=depends_on(p))(one.text, p.text, p.normal) for p in passages]
            )
            for one, passages in zip(asked, found, strict=True)
        ]
    )
    return answers.cite(asked, found, quotes)
