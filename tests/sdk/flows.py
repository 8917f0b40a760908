"""Calls that the tests of running programs share."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from pydantic import BaseModel
from typing_extensions import TypedDict

from tenuto import (
    AsyncClient,
    llm,
    tool,
)
from tenuto.wire import ProgramView


class Sql(BaseModel):
    query: str


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Movie(TypedDict):
    title: str
    year: int


@dataclasses.dataclass
class Point:
    x: int
    y: int


@llm
def write_sql(question: str, schema: str) -> Sql:
    """{{schema}} {{question}}"""


@llm
def say(text: str) -> str:
    """{{text}}"""


@tool(effects="read")
def rows_of(query: str) -> list[int]:
    return [len(query)]


@tool(effects="read")
async def total(rows: Sequence[list[int]]) -> int:
    return sum(sum(row) for row in rows)


@tool(effects="read")
async def broken(reason: str) -> str:
    raise ValueError(f"broken: {reason}")


async def only_program(client: AsyncClient) -> ProgramView:
    page = await client.programs()
    (summary,) = page.data
    return await client.program(summary.id)
