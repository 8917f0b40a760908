"""How long what prompts read of variables is: measured once, since what is written never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dag.values import PathError, as_text, project
from tenuto.wire import JsonPath

if TYPE_CHECKING:
    from orchestrator.runtime.program import Program


class Lengths:
    """Characters of variables and of their parts, by program. A program's entries are at most its graph's parts."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[str, JsonPath], int]] = {}

    def of(self, program: Program, variable: str, path: JsonPath = ()) -> int:
        """As it stands in a prompt; 0 if it is not written, or has no such part."""
        if variable not in program.values:
            return 0
        known = self._known.setdefault(program.id, {})
        length = known.get((variable, path))
        if length is None:
            try:
                length = len(as_text(project(variable, path, program.values)))
            except PathError:
                length = 0
            known[variable, path] = length
        return length

    def program_ended(self, program: str) -> None:
        self._known.pop(program, None)
