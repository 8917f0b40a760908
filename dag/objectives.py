"""Objective deduction: what each call is judged by, derived from who reads the program's results.

Owns the rule; pure. Computed anew from the graph as it stands, so a stricter reader that comes later upgrades
every ancestor that has not ended. Never decides an order: that is scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dag.graph import ProgramGraph
from dag.paths import SecondsOf, expected_seconds
from tenuto.wire import Call, Objective

_STRICTNESS = {"deadline": 0, "latency": 1, "throughput": 2}


@dataclass(frozen=True, slots=True)
class CallObjective:
    """What one call is judged by. `deadline_s`: latest end, in seconds after the program was accepted, that
    leaves its readers their expected seconds; below zero when the deadline cannot be met any more."""

    kind: Literal["latency", "throughput", "deadline"]
    deadline_s: float | None = None

    @property
    def strictness(self) -> tuple[int, float]:
        """Sort key: a deadline before latency before throughput, earlier deadlines first."""
        return _STRICTNESS[self.kind], 0.0 if self.deadline_s is None else self.deadline_s


def strictest(first: CallObjective, second: CallObjective | None) -> CallObjective:
    """The stricter of two objectives."""
    return first if second is None or first.strictness <= second.strictness else second


def objectives(graph: ProgramGraph, seconds: SecondsOf = expected_seconds) -> dict[str, CallObjective]:
    """The effective objective of each unfinished call. O(unfinished calls + their edges).

    Walks back from the readers (Parrot, OSDI'24, section 5.2: objectives of end variables are handed to their
    producers): a call has the strictest of its own objective, the program's if the client reads it, and those
    of its successors. A deadline grows earlier by a successor's expected seconds on each step (critical path
    method: latest finish). Siblings that feed one consumer get the same from it; the members of a *declared*
    task group at one depth share the strictest among them, since only their joint end matters.
    """
    found: dict[str, CallObjective] = {}
    for level in _levels_from_the_sinks(graph):
        shared: dict[str, CallObjective] = {}
        for call in level:
            objective = found[call.id] = _judged(graph, call, found, seconds)
            if call.group is not None:
                shared[call.group] = strictest(objective, shared.get(call.group))
        for call in level:
            if call.group is not None:
                found[call.id] = shared[call.group]
    return {name: found[name] for name in graph.unfinished_calls}


def _judged(graph: ProgramGraph, call: Call, found: dict[str, CallObjective], seconds: SecondsOf) -> CallObjective:
    best: CallObjective | None = None
    for reader in (call.objective, graph.objective if graph.read_by_client(call.id) else None):
        if reader is not None:
            best = strictest(_of(reader), best)
    for name in graph.successors(call.id):
        theirs = found.get(name)
        if theirs is None:
            continue  # skipped: it will not read
        if theirs.deadline_s is not None:
            theirs = CallObjective("deadline", theirs.deadline_s - seconds(graph.calls[name]))
        best = strictest(theirs, best)
    # Every reader was skipped; the program still ends with this call.
    return best or _of(graph.objective)


def _of(objective: Objective) -> CallObjective:
    return CallObjective(objective.kind, objective.deadline_s)


def _levels_from_the_sinks(graph: ProgramGraph) -> list[list[Call]]:
    """Unfinished calls by depth, deepest first: a call's successors are always in an earlier level."""
    levels: dict[int, list[Call]] = {}
    for name, call in graph.unfinished_calls.items():
        levels.setdefault(graph.depth(name), []).append(call)
    return [levels[depth] for depth in sorted(levels, reverse=True)]
