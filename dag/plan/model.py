"""What a planner's text says, before any tool is looked up: calls, references, thoughts, the join, diagnostics.

Owns shapes only. Offsets count characters of the planner's whole text from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tenuto.wire import JsonPath

Severity: TypeAlias = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Span:
    """The characters from `start` up to, not including, `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PlanRef:
    """`$1`, `${1}`, `$1.price[0]`: the result of an earlier call, or the part of it at `path`.

    `quoted`: it was the whole of a quoted string, so it stands for text where the tool takes text alone.
    """

    id: int
    path: JsonPath = ()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class PlanText:
    """A quoted string with references inside it."""

    parts: tuple[str | PlanRef, ...]


PlanValue: TypeAlias = "bool | int | float | str | PlanRef | PlanText | list[PlanValue] | dict[str, PlanValue] | None"
"""An argument as it was written."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a call; `name` is None for a positional one."""

    name: str | None
    value: PlanValue
    span: Span


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """`1. search("x")`. `repaired`: its closing brackets were missing, and were put where the next line began."""

    id: int
    tool: str
    arguments: tuple[Argument, ...]
    span: Span
    thought: str | None = None
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class PlannedJoin:
    """`join()`: the plan is complete. `waits_for` names the calls whose ends it needs; None: all of them."""

    waits_for: tuple[int, ...] | None
    span: Span
    thought: str | None = None


@dataclass(frozen=True, slots=True)
class PlanDiagnostic:
    """One located fault or remark. An `error` says that something was not done; `fix` tells the planner what to write.

    `call` is the id of the call that it is about, if it is about one. `line` and `column` count from 1. `about` is all
    of the text that it speaks for (the whole call), `span` the place in it.
    """

    code: str
    severity: Severity
    span: Span
    line: int
    column: int
    message: str
    fix: str
    about: Span
    call: int | None = None

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message} [{self.code}] {self.fix}"


@dataclass(frozen=True, slots=True)
class OpenText:
    """A call that is being written, inside a text argument of its own: what is there of it.

    `arguments` are those before it, complete; `name` is that of the open one, None if it is positional. `text` has its
    escapes resolved, and ends before the first reference in it.
    """

    id: int
    tool: str
    arguments: tuple[Argument, ...]
    name: str | None
    text: str


PlanEvent: TypeAlias = PlannedCall | PlannedJoin | PlanDiagnostic


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """Bounds of one plan; what goes beyond is told by a diagnostic, never dropped without a word."""

    calls: int = 2_000
    call_chars: int = 200_000
    line_chars: int = 20_000
    depth: int = 64


def references_of(value: PlanValue) -> list[PlanRef]:
    """Every reference inside an argument, in order of appearance."""
    found: list[PlanRef] = []
    stack: list[PlanValue] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, PlanRef):
            found.append(item)
        elif isinstance(item, PlanText):
            found.extend(part for part in item.parts if isinstance(part, PlanRef))
        elif isinstance(item, list):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(list(item.values())))
    return found
