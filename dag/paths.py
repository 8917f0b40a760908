"""Critical paths: how long a program must take at least, and how far each call is from its end.

Pure functions of a graph and of expected (or measured) seconds per call. Never learns durations: those are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dag.graph import ProgramGraph
from tenuto.wire import Call

SecondsOf = Callable[[Call], float]


class CriticalPath(NamedTuple):
    """A longest way through the graph: ids from a source to a sink, and the sum of their seconds."""

    calls: tuple[str, ...]
    seconds: float


def expected_seconds(call: Call) -> float:
    """The call's own hint, or 0 where it has none."""
    return call.expected_s or 0.0


def critical_path(graph: ProgramGraph, seconds: SecondsOf = expected_seconds) -> CriticalPath:
    """A longest path over all calls, ended ones included; of equals the first. O(calls + edges).

    `seconds` must not be negative. With measured seconds this is the path that the program's time went by.
    """
    longest: dict[str, tuple[float, str | None]] = {}
    last: str | None = None
    for name, call in graph.topological():
        start, before = 0.0, None
        for predecessor in graph.predecessors(name):
            end = longest[predecessor][0]
            if before is None or end > start:
                start, before = end, predecessor
        longest[name] = (start + seconds(call), before)
        if last is None or longest[name][0] > longest[last][0]:
            last = name
    if last is None:
        return CriticalPath((), 0.0)
    total = longest[last][0]
    path: list[str] = []
    step: str | None = last
    while step is not None:
        path.append(step)
        step = longest[step][1]
    return CriticalPath(tuple(reversed(path)), total)


def remaining(graph: ProgramGraph, seconds: SecondsOf = expected_seconds) -> dict[str, float]:
    """For each unfinished call the seconds from its start to the program's end along the longest way, itself
    included: the remaining critical path that list scheduling orders by. O(unfinished calls + their edges)."""
    rest: dict[str, float] = {}
    calls = graph.unfinished_calls
    for name in reversed(tuple(calls)):
        after = 0.0
        for successor in graph.successors(name):
            after = max(after, rest.get(successor, 0.0))  # a skipped successor takes no time
        rest[name] = seconds(calls[name]) + after
    return rest


def slack(graph: ProgramGraph, seconds: SecondsOf = expected_seconds) -> dict[str, float]:
    """For each unfinished call the seconds that it may start late without the program ending later (critical
    path method: latest start minus earliest start). 0 on the critical path. O(unfinished calls + their edges)."""
    rest = remaining(graph, seconds)
    start: dict[str, float] = {}
    for name in graph.unfinished_calls:
        start[name] = max(
            (start[before] + seconds(graph.calls[before]) for before in graph.predecessors(name) if before in start),
            default=0.0,
        )
    total = max(rest.values(), default=0.0)
    return {name: total - start[name] - rest[name] for name in start}
