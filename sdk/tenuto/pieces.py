"""A text argument that a tool reads while it is still being written (Conveyor, arXiv 2406.00059).

Owns the text and its readers. A tool that gets a `Pieces` is called like any other: a complete text is one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Pieces:
    """The pieces of a text, in order: `async for piece in pieces`, or `await pieces.text()` for all of it.

    What came since a reader looked last comes as one piece. Invariant: nothing is added after `close`.
    """

    def __init__(self, text: str | None = None) -> None:
        self._pieces: list[str] = [] if text is None else [text]
        self._closed = text is not None
        self._changed: asyncio.Event | None = None

    def push(self, piece: str) -> None:
        """The text goes on. Raises `RuntimeError` once it is closed."""
        if self._closed:
            raise RuntimeError("the text is complete: nothing can follow")
        self._pieces.append(piece)
        self._wake()

    def close(self) -> None:
        """The text is complete."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        at = 0
        while True:
            if at < len(self._pieces):
                unread, at = "".join(self._pieces[at:]), len(self._pieces)
                yield unread
                continue
            if self._closed:
                return
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    async def text(self) -> str:
        """All of the text, once it is complete."""
        return "".join([piece async for piece in self])

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A JSON string; a Pieces as it is."""
        written = core_schema.plain_serializer_function_ser_schema(lambda pieces: "".join(pieces._pieces))
        return core_schema.union_schema(
            [
                core_schema.is_instance_schema(cls, serialization=written),
                core_schema.no_info_after_validator_function(cls, core_schema.str_schema(), serialization=written),
            ],
            mode="left_to_right",
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"type": "string"}
