"""How the causes of a second are shown: one order, one colour, one glyph and one sentence each, in every drawing."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from tenuto.wire import Timeline, TimelineCall


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
    "tool": Look("▚", "blue", "#4062bb", "runs a function"),
    "pause": Look("·", "dim", "#dcc7b0", "waits before its next attempt"),
    "cache": Look("◆", "magenta", "#9b5094", "is answered from the cache"),
}

UNEXPLAINED: Final = Look("?", "dim red", "#ffffff", "nothing accounts for it")


def seconds(value: float) -> str:
    """A duration in the unit that reads best."""
    if value < 0.0995:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def in_order(timeline: Timeline) -> list[TimelineCall]:
    """The calls in the order in which they began; those that never did come last."""
    return sorted(timeline.calls, key=lambda call: call.spans[0].start_s if call.spans else timeline.seconds)


def took_s(call: TimelineCall) -> float:
    """Seconds from the call's first cause to its last."""
    return call.spans[-1].end_s - call.spans[0].start_s if call.spans else 0.0


def ticks(total_s: float, most: int) -> list[float]:
    """At most `most` (>= 2) round times from 0 to `total_s`: steps of 1, 2 or 5 times a power of ten."""
    if total_s <= 0:
        return [0.0]
    least = total_s / (most - 1)
    power = 10.0 ** math.floor(math.log10(least))
    step_s = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
    return [number * step_s for number in range(int(total_s / step_s * (1 + 1e-9)) + 1)]


def tick_name(at_s: float, total_s: float) -> str:
    """A round time without needless digits."""
    return f"{at_s * 1000:g} ms" if total_s < 0.5 else f"{at_s:g} s"
