"""How faults of a graph are told: `Diagnostic`, `InvalidGraph`, RFC 6901 pointers, did-you-mean.

Owns no rule of its own: what is a fault is decided in `dag.validate`, `dag.tool_arguments` and `dag.values`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One located fault of a graph.

    `code` is a name that the docs explain. `pointer` is an RFC 6901 pointer into
    `{"inputs": …, "calls": …, "outputs": …}` as it was handed in. `fix` says what to do; never empty.
    """

    code: str
    pointer: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.pointer or '(root)'}: {self.message} [{self.code}] {self.fix}"


class InvalidGraph(ValueError):
    """A graph or its extension was refused as a whole; `diagnostics` holds every fault that was found."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        count = len(self.diagnostics)
        super().__init__(f"{count} fault{'' if count == 1 else 's'}:\n" + "\n".join(map(str, self.diagnostics)))


def pointer(*steps: str | int) -> str:
    """RFC 6901 pointer of `steps` (object keys and list indices); no steps: the whole document, `""`."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def shorten(message: str, limit: int = 300) -> str:
    """At most `limit` characters: what clients sent is named in messages, not sent back whole."""
    return message if len(message) <= limit else message[: limit - 1] + "…"


def listing(names: Iterable[str], limit: int = 8) -> str:
    """`'a', 'b', …`: at most `limit` names for a message."""
    known = list(names)
    shown = ", ".join(repr(name) for name in known[:limit])
    return shown + (f" and {len(known) - limit} more" if len(known) > limit else "")


class Suggester:
    """Finds the known name that an unknown one was meant to be.

    `difflib` costs microseconds a comparison, so one suggester makes at most `budget` of them: a hostile
    graph of a hundred unknown names among a hundred thousand known ones must not hold the event loop.
    """

    def __init__(self, budget: int = 20_000) -> None:
        self._budget = budget

    def closest(self, name: str, known: Iterable[str]) -> str | None:
        """The known name most like `name`, or None when nothing is near or the budget is spent."""
        candidates: list[str] = []
        for candidate in known:
            if self._budget <= 0:
                break
            self._budget -= 1
            if abs(len(candidate) - len(name)) <= max(3, len(name) // 3):
                candidates.append(candidate)
        matches = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
        return matches[0] if matches else None
