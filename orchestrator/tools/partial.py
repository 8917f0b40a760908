"""Partial execution: a `read` tool that asks for it begins on a part of a text argument while a model writes the rest.

Owns what was begun early. A begun run is given to the very call that it was begun for, if that turned out as it began;
else it is cancelled and leaves no trace. (Conveyor, arXiv 2406.00059.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from tenuto.pieces import Pieces


@dataclass(slots=True, eq=False)
class PartialRun:
    """A tool that runs on `pieces` in the place of its argument `name`; `arguments` are the others."""

    tool: str
    name: str
    arguments: dict[str, JsonValue]
    pieces: Pieces
    task: asyncio.Task[JsonValue]
    began_s: float
    told: str = ""

    def feed(self, text: str) -> None:
        """The argument as far as it is written; raises ValueError if it no longer begins as it did."""
        if not text.startswith(self.told):
            raise ValueError("the text was changed")
        if len(text) > len(self.told):
            self.pieces.push(text[len(self.told) :])
            self.told = text


class PartialRuns:
    """Runs begun early, by program and call. Invariant: each is taken once, or dropped."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], PartialRun] = {}
        self.begun = 0
        self.used = 0

    def begin(
        self,
        program: str,
        call: str,
        tool: str,
        name: str,
        arguments: dict[str, JsonValue],
        run: Callable[[Pieces], Coroutine[Any, Any, JsonValue]],
        now_s: float,
    ) -> PartialRun:
        """Start the tool on what is there of its argument `name`: nothing yet."""
        self.drop(program, call)
        pieces = Pieces()
        task = asyncio.create_task(run(pieces), name=f"partial {tool}")
        task.add_done_callback(_looked_at)
        self.begun += 1
        begun = self._runs[program, call] = PartialRun(tool, name, arguments, pieces, task, now_s)
        return begun

    def take(self, program: str, call: str, tool: str, arguments: dict[str, JsonValue]) -> PartialRun | None:
        """The run that was begun for this call, fed to its end; None if there is none, or the call is another one."""
        begun = self._runs.pop((program, call), None)
        if begun is None:
            return None
        text = arguments.get(begun.name)
        others = {name: value for name, value in arguments.items() if name != begun.name}
        try:
            if begun.tool != tool or others != begun.arguments or not isinstance(text, str):
                raise ValueError("another call")
            if begun.task.done() and (begun.task.cancelled() or begun.task.exception() is not None):
                raise ValueError("it failed before it had everything: the call is made anew")
            begun.feed(text)
        except ValueError:
            begun.task.cancel()
            return None
        begun.pieces.close()
        self.used += 1
        return begun

    def drop(self, program: str, call: str) -> None:
        """The call will not come."""
        begun = self._runs.pop((program, call), None)
        if begun is not None:
            begun.task.cancel()

    def holds(self, program: str, call: str) -> bool:
        return (program, call) in self._runs

    def program_ended(self, program: str) -> None:
        for of, call in [key for key in self._runs if key[0] == program]:
            self.drop(of, call)

    def close(self) -> None:
        for program, call in [*self._runs]:
            self.drop(program, call)


def _looked_at(task: asyncio.Task[JsonValue]) -> None:
    if not task.cancelled():
        task.exception()  # whoever takes the run raises it; if nobody does, nobody is missed
