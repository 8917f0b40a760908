"""Where the seconds of a program's life went, along the chain of calls that its end waited for.

Pure functions of what was measured. Walks backwards from the end: from a call to what it waited for last, so that
every moment is counted once, and what nothing accounts for is said.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.journal import Span

EPSILON_S = 1e-9
"""Times closer than this are equal: they are differences of large floats."""


class Measured(NamedTuple):
    """One call: the calls that it waited for, and its spans in order of time."""

    after: Sequence[str]
    spans: Sequence[Span]


class PathStep(NamedTuple):
    """Seconds of the path: of one call, with one cause. `cause` is None where nothing accounts for them."""

    call: str | None
    cause: str | None
    start_s: float
    end_s: float


def path(calls: Mapping[str, Measured], end_s: float, client_s: float = 0.0) -> tuple[PathStep, ...]:
    """The measured critical path from 0 to `end_s`, earliest first. Its seconds sum to `end_s`.

    `client_s`: until then the program waited for its client to declare more calls, or to say that there are none.

    A call waited for the predecessor that ended last. One that was declared late (its first span is the client's)
    waited for its client, and the client for whichever call of the program ended last before: no edge of the graph
    says so. Time that is in no span is nobody's. O(calls log calls + spans).
    """
    by_end = sorted((call.spans[-1][2], name) for name, call in calls.items() if call.spans)
    steps: list[PathStep] = []
    now_s = end_s
    last_s, name = by_end[-1] if by_end else (0.0, None)
    if client_s > last_s + EPSILON_S:
        if client_s < end_s - EPSILON_S:
            steps.append(PathStep(None, None, client_s, end_s))
        steps.append(PathStep(None, "client", last_s, min(client_s, end_s)))
        now_s = last_s
    while name is not None and now_s > EPSILON_S:
        call = calls[name]
        for cause, start_s, stop_s in reversed(call.spans):
            if start_s >= now_s - EPSILON_S:
                continue  # a predecessor that was still at work when its successor began: only what came before counts
            if stop_s < now_s - EPSILON_S:
                steps.append(PathStep(None, None, stop_s, now_s))
                now_s = stop_s
            steps.append(PathStep(name, cause, start_s, now_s))
            now_s = start_s
        name = _last_ended(by_end, now_s) if call.spans[0][0] == "client" else _last(calls, call.after, now_s)
    if now_s > EPSILON_S:
        steps.append(PathStep(None, None, 0.0, now_s))
    steps.reverse()
    return tuple(steps)


def _last(calls: Mapping[str, Measured], names: Sequence[str], before_s: float) -> str | None:
    """Of the calls that began before a time the one that ended last: the one that was waited for."""
    best, best_s = None, -1.0
    for name in names:
        spans = calls[name].spans
        if spans and spans[0][1] < before_s - EPSILON_S and spans[-1][2] > best_s:
            best, best_s = name, spans[-1][2]
    return best


def _last_ended(by_end: Sequence[tuple[float, str]], at_s: float) -> str | None:
    """The last call that had ended at a time."""
    found = bisect_right(by_end, (at_s + EPSILON_S, "\U0010ffff"))
    return by_end[found - 1][1] if found else None


def causes(steps: Sequence[PathStep]) -> dict[str, float]:
    """Seconds by cause, largest first; what nothing accounts for is left out."""
    seconds: dict[str, float] = {}
    for step in steps:
        if step.cause is not None:
            seconds[step.cause] = seconds.get(step.cause, 0.0) + step.end_s - step.start_s
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def calls_of(steps: Sequence[PathStep]) -> tuple[str, ...]:
    """The calls of the path, in order, each once."""
    return tuple(dict.fromkeys(step.call for step in steps if step.call is not None))
