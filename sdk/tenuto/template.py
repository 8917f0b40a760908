"""Prompt templates: text with `{{name}}` placeholders, checked against a signature before anything runs.

Owns the template's grammar: `{{name}}` is a hole, `{{{{` is a literal `{{`, all else is text. Never fills holes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tenuto.errors import DefinitionError

_OPENING = re.compile(r"\{\{\{\{|\{\{\s*([^\W\d]\w*)\s*\}\}|\{\{")


@dataclass(frozen=True, slots=True)
class Hole:
    """A placeholder: the name of the parameter that fills it."""

    name: str


def parse(template: str, where: str) -> tuple[str | Hole, ...]:
    """Texts and holes in order; neighbouring texts are one. Raises `DefinitionError` with line and column."""
    parts: list[str | Hole] = []
    text: list[str] = []
    end = 0
    for match in _OPENING.finditer(template):
        text.append(template[end : match.start()])
        end = match.end()
        if match[0] == "{{{{":
            text.append("{{")
        elif match[1] is None:
            line = template.count("\n", 0, match.start()) + 1
            column = match.start() - (template.rfind("\n", 0, match.start()) + 1) + 1
            shown = template[match.start() : match.start() + 24].splitlines()[0]
            raise DefinitionError(
                f"{where}, line {line}, column {column}: {shown!r} is no placeholder. "
                "A placeholder is {{name}}; write a literal '{{' as '{{{{'"
            )
        else:
            if joined := "".join(text):
                parts.append(joined)
            text = []
            parts.append(Hole(match[1]))
    if tail := "".join(text) + template[end:]:
        parts.append(tail)
    return tuple(parts)


def check(parts: Iterable[str | Hole], parameters: Collection[str], where: str) -> None:
    """Holes and parameters must be the same set. Raises `DefinitionError` that names the ones that differ."""
    parts = tuple(parts)
    holes = {part.name: None for part in parts if isinstance(part, Hole)}
    unknown = [name for name in holes if name not in parameters]
    if unknown:
        listed = ", ".join(f"{{{{{name}}}}}" for name in unknown)
        known = ", ".join(parameters) or "none"
        raise DefinitionError(f"{where}: {listed} is not among the function's parameters ({known})")
    unused = [name for name in parameters if name not in holes]
    if unused:
        text = "".join(part for part in parts if isinstance(part, str))
        single = [name for name in unused if re.search(rf"\{{\s*{re.escape(name)}\s*\}}", text)]
        hint = f": write {{{{{single[0]}}}}} with two braces" if single else ": place it, or drop the parameter"
        raise DefinitionError(f"{where}: parameter {', '.join(unused)} is never used in the prompt{hint}")
