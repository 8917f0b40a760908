"""How the causes of a second are shown: one order, one colour, one glyph and one sentence each, in every drawing."""

from __future__ import annotations

from typing import Final, NamedTuple


class Look(NamedTuple):
    """`glyph` is one terminal cell, `style` a rich style, `colour` for SVG; `meaning` completes "the call ..."."""

    glyph: str
    style: str
    colour: str
    meaning: str


LOOKS: Final[dict[str, Look]] = {
    "client": Look("╌", "dim", "#b8b8b8", "waits for the client to declare it"),
    "queue": Look("░", "yellow", "#e6b422", "waits for an engine, a worker or its turn"),
    "prefill": Look("▒", "cyan", "#4aa3c7", "reads its prompt"),
    "recompute": Look("▓", "red", "#d1495b", "reads again what the engine had read before"),
    "decode": Look("█", "green", "#3c8d5a", "writes"),
    "tool": Look("█", "blue", "#4062bb", "runs a function"),
    "pause": Look("·", "dim", "#d9d9d9", "waits before its next attempt"),
    "cache": Look("◆", "magenta", "#9b5094", "is answered from the cache"),
}

UNEXPLAINED: Final = Look("?", "dim red", "#ffffff", "nothing accounts for it")


def seconds(value: float) -> str:
    """A duration in the unit that reads best."""
    if value < 0.0995:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"
