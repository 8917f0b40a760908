"""Foreseeing calls: which `read` call a program will make next, from what earlier programs of its workflow did.

Pure. Owns the patterns: after a call of one tool, a call of another whose arguments are constants or parts of what the
first one got and gave. Never runs anything. (Mined patterns as in PASTE, arXiv 2603.18897.)
"""

from __future__ import annotations

import ast
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import JsonValue

_MOST_WORKFLOWS = 256
_MOST_PATTERNS = 64  # of one workflow and stage
_RECENT = 4  # ended calls of a program that a next one may follow
_LEAST_SEEN = 3
_LEAST_SHARE = 0.5
_DEPTH = 4


class Origin(NamedTuple):
    """Where an argument came from: a `constant`, or the part at `path` of the arguments or the result before it."""

    source: str
    path: tuple[str | int, ...]
    constant: str = ""


class Foreseen(NamedTuple):
    """A call that may come."""

    tool: str
    arguments: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Ended:
    """A call of a program that has ended."""

    stage: str
    arguments: Mapping[str, JsonValue]
    result: JsonValue


@dataclass(slots=True)
class _Stage:
    """What followed the calls of one stage."""

    ended: int = 0
    patterns: OrderedDict[tuple[str, frozenset[tuple[str, Origin]]], int] = field(default_factory=OrderedDict)


class History:
    """Patterns by workflow and stage, learned from every program.

    Invariant: bounded; what was seen longest ago is forgotten first.
    """

    def __init__(self) -> None:
        self._workflows: OrderedDict[str, dict[str, _Stage]] = OrderedDict()

    def ended(self, workflow: str, call: Ended) -> list[Foreseen]:
        """A call ended: the calls that at least half of such ends were followed by, with their arguments filled in."""
        stage = self._stage(workflow, call.stage)
        stage.ended += 1
        found: list[Foreseen] = []
        for (tool, origins), seen in stage.patterns.items():
            if seen >= _LEAST_SEEN and seen / stage.ended >= _LEAST_SHARE:
                arguments = _filled(origins, call)
                if arguments is not None:
                    found.append(Foreseen(tool, arguments))
        return found

    def made(self, workflow: str, tool: str, arguments: Mapping[str, JsonValue], before: deque[Ended]) -> None:
        """A call was made: learn how its arguments follow from each of the calls that ended before it."""
        for call in before:
            origins = _origins(arguments, call)
            if origins is None:
                continue
            stage = self._stage(workflow, call.stage)
            key = (tool, origins)
            stage.patterns[key] = stage.patterns.get(key, 0) + 1
            stage.patterns.move_to_end(key)
            if len(stage.patterns) > _MOST_PATTERNS:
                stage.patterns.popitem(last=False)

    def _stage(self, workflow: str, name: str) -> _Stage:
        stages = self._workflows.get(workflow)
        if stages is None:
            stages = self._workflows[workflow] = {}
            if len(self._workflows) > _MOST_WORKFLOWS:
                self._workflows.popitem(last=False)
        else:
            self._workflows.move_to_end(workflow)
        found = stages.get(name)
        if found is None:
            found = stages[name] = _Stage()
        return found


def recent() -> deque[Ended]:
    """The ended calls of a program that a next one may follow."""
    return deque(maxlen=_RECENT)


def _origins(arguments: Mapping[str, JsonValue], call: Ended) -> frozenset[tuple[str, Origin]] | None:
    """How the arguments follow from a call: at least one is a part of it, the others are short constants."""
    found: list[tuple[str, Origin]] = []
    follows = False
    for name, value in arguments.items():
        path = _find(call.result, value)
        source = "result"
        if path is None:
            path, source = _find(dict(call.arguments), value), "arguments"
        if path is not None:
            follows = True
            found.append((name, Origin(source, path)))
        elif isinstance(value, str | int | float | bool) or value is None:
            if isinstance(value, str) and len(value) > 200:
                return None
            found.append((name, Origin("constant", (), repr(value))))
        else:
            return None
    return frozenset(found) if follows else None


def _find(tree: JsonValue, value: JsonValue) -> tuple[str | int, ...] | None:
    """The first place of a value in a tree, breadth first; trivial values are found nowhere."""
    if value in (None, True, False, "", 0, 1) or isinstance(value, list | dict):
        return None
    level: list[tuple[tuple[str | int, ...], JsonValue]] = [((), tree)]
    for _ in range(_DEPTH):
        below: list[tuple[tuple[str | int, ...], JsonValue]] = []
        for path, item in level:
            if type(item) is type(value) and item == value:
                return path
            if isinstance(item, dict):
                below += [((*path, key), part) for key, part in list(item.items())[:32]]
            elif isinstance(item, list):
                below += [((*path, index), part) for index, part in enumerate(item[:32])]
        level = below
    return None


def _filled(origins: frozenset[tuple[str, Origin]], call: Ended) -> dict[str, JsonValue] | None:
    """The arguments of a foreseen call; None if what ended lacks a part."""
    arguments: dict[str, JsonValue] = {}
    for name, origin in origins:
        if origin.source == "constant":
            arguments[name] = ast.literal_eval(origin.constant)
            continue
        value: Any = call.result if origin.source == "result" else dict(call.arguments)
        for step in origin.path:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        arguments[name] = value
    return arguments
