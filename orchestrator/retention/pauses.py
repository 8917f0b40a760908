"""What a program waits for between two LLM calls, as far as its graph tells.

Pure functions of the graph: which later call goes on with a chain, how much of it that call finds useful, and what must
end before. Never asks how long anything takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from dag.graph import CallState, ProgramGraph
from tenuto.wire import JsonPath, LLMCall, Message, TextPart

_LOOK = 64
"""Calls looked at for one chain: bounds the cost of a decision in a program of any size."""

Length = Callable[[str, JsonPath], int]
"""Characters of what a variable holds at a path; 0 if it is not written."""


@dataclass(frozen=True, slots=True)
class Upcoming:
    """The call that will go on with a chain (None: one that an open program may add), and what it waits for.

    `share`: of the chain, by characters, that it will find useful. `waits`: unfinished calls that must end before it,
    each after those that it needs itself; `after[i]`: the places in `waits` of those that wait i needs.
    """

    call: str | None
    share: float
    waits: tuple[str, ...]
    after: tuple[tuple[int, ...], ...]


def upcoming(graph: ProgramGraph, ended: LLMCall, open: bool, length: Length, output_chars: int) -> Upcoming | None:
    """What will go on with the chain of a call that has ended; None if nothing can.

    Of the LLM calls that descend from it the one whose prompt has most in common with its own counts, of equals the
    nearest. Without any, an open program's next call may still come: then what it waits for are the function calls
    declared after the ended one. `output_chars`: length of the ended call's output.
    """
    best: tuple[float, str] | None = None
    functions: list[str] = []
    for name in _descendants(graph, ended.id):
        call = graph.calls[name]
        if not isinstance(call, LLMCall):
            functions.append(name)
        elif call.model == ended.model and (share := shared_share(ended, call, length, output_chars)) > 0:
            if best is None or share > best[0]:
                best = (share, name)
            if share == 1.0:
                break
    if best is not None:
        waits = _ancestors(graph, best[1])
        return Upcoming(best[1], best[0], waits, _edges(graph, waits))
    if not open:
        return None
    waits = tuple(functions)
    return Upcoming(None, 1.0, waits, _edges(graph, waits))


def line(graph: ProgramGraph, call: str, until: str = "") -> Iterator[str]:
    """The LLM calls that a call descends from, nearest first, as far as anybody should look; not by way of `until`."""
    seen = {call, until}
    queue = deque([call])
    while queue and len(seen) < 4 * _LOOK:
        for name in graph.predecessors(queue.popleft()):
            if name not in seen:
                seen.add(name)
                queue.append(name)
                if isinstance(graph.calls[name], LLMCall):
                    yield name


def shared_share(first: LLMCall, second: LLMCall, length: Length, output_chars: int) -> float:
    """Share of the first call's prompt and output, by characters, with which the second call's prompt begins."""
    ours, theirs = _steps(first.messages), _steps(second.messages)
    total = output_chars
    alike = 0
    same = True
    for index, step in enumerate(ours):
        size = len(step) if isinstance(step, str) else length(step[1], step[2]) if step[0] else 0
        total += size
        if not same:
            continue
        other = theirs[index] if index < len(theirs) else None
        if step == other:
            alike += size
        else:
            same = False
            if isinstance(step, str) and isinstance(other, str):
                if index == len(ours) - 1 and other.startswith(step):
                    alike, same = alike + size, True
                else:
                    alike += _alike(step, other)
    if same and _follows(first, theirs, len(ours)):
        alike += output_chars
    return min(1.0, alike / total) if total else 0.0


_Step = str | tuple[str, str, JsonPath]
"""A constant text, or ("var", variable, path), or ("", role, ()) where a message begins."""


@lru_cache(maxsize=1024)
def _steps(messages: tuple[Message, ...]) -> tuple[_Step, ...]:
    steps: list[_Step] = []
    for message in messages:
        steps.append(("", message.role, ()))
        for part in message.parts:
            steps.append(part.text if isinstance(part, TextPart) else ("var", part.variable, part.path))
    return tuple(steps)


def _follows(first: LLMCall, theirs: tuple[_Step, ...], at: int) -> bool:
    """True if the second prompt goes on with the first call's output, as the assistant's next message or in a row."""
    following = [step for step in theirs[at : at + 2] if step != ("", "assistant", ())]
    return bool(following) and following[0] == ("var", first.variable, ())


def _alike(one: str, other: str) -> int:
    """Length of the common prefix, by bisection."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _descendants(graph: ProgramGraph, call: str) -> list[str]:
    """Unfinished calls that need the call, nearest first."""
    seen = {call}
    found: list[str] = []
    queue = deque([call])
    while queue and len(found) < _LOOK:
        for name in graph.successors(queue.popleft())[: _LOOK - len(found)]:
            if name not in seen and graph.state(name) in (CallState.WAITING, CallState.READY):
                seen.add(name)
                found.append(name)
                queue.append(name)
    return found


def _ancestors(graph: ProgramGraph, call: str) -> tuple[str, ...]:
    """Unfinished calls that the call needs, each after those it needs itself."""
    unfinished = graph.unfinished_calls
    ordered: list[str] = []
    seen: set[str] = {call}
    stack = [(name, False) for name in reversed(graph.predecessors(call))]
    while stack and len(seen) < _LOOK:
        name, expanded = stack.pop()
        if expanded:
            ordered.append(name)
        elif name not in seen and name in unfinished:
            seen.add(name)
            stack.append((name, True))
            stack.extend((before, False) for before in reversed(graph.predecessors(name)))
    return tuple(ordered)


def _edges(graph: ProgramGraph, waits: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    place = {name: index for index, name in enumerate(waits)}
    edges = [tuple(place[before] for before in graph.predecessors(name) if before in place) for name in waits]
    # a walk that was cut short may have left a call behind one that needs it
    return tuple(tuple(before for before in of if before < index) for index, of in enumerate(edges))
