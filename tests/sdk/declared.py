"""Calls and a workflow that the tests of declarations share, and ways to look into a graph."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from tenuto import (
    llm,
    tool,
    workflow,
)
from tenuto.wire import (
    Call,
    FunctionCall,
    Graph,
    LLMCall,
    TextPart,
)


class Sql(BaseModel):
    query: str
    score: float = 0.0


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


@llm(max_tokens=120, category="sql")
def write_sql(question: str, schema: str) -> Sql:
    """Schema: {{schema}}
    Question: {{question}}
    SQL:"""


@llm
def summarise(texts: Sequence[str]) -> str:
    """Texts:
    {{texts}}"""


@llm(prompt="{{data}}")
def describe(data: Any) -> str: ...


@tool(effects="read", timeout=5.0, retries=2, expected_s=0.1)
def run_sql(query: str, limit: int = 10) -> list[int]:
    """Run one SELECT."""
    return [limit]


@tool
async def vote(tries: Sequence[Sql], rows: Sequence[list[int]]) -> str:
    return tries[0].query


def calls_of(graph: Graph) -> dict[str, Call]:
    return {call.id: call for call in graph.calls}


def llm_call(graph: Graph, id: str) -> LLMCall:
    call = calls_of(graph)[id]
    assert isinstance(call, LLMCall)
    return call


def function_call(graph: Graph, id: str) -> FunctionCall:
    call = calls_of(graph)[id]
    assert isinstance(call, FunctionCall)
    return call


def prompt_of(graph: Graph, id: str) -> str:
    """The user message with variables as <name.path>."""
    return "".join(
        part.text if isinstance(part, TextPart) else "<" + ".".join(map(str, (part.variable, *part.path))) + ">"
        for part in llm_call(graph, id).messages[-1].parts
    )


@workflow
async def answer(question: str) -> str:
    tries = [write_sql.options(seed=i, temperature=0.5)(question, "t(a)") for i in range(3)]
    rows = [run_sql(draft.query) for draft in tries]
    return vote(tries, rows)
