"""Where a call reads variables: every reference of a prompt or an argument, with its place.

Owns the walk over prompts and expressions. Decides nothing about what it finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tenuto.wire import Call, Constant, DictExpr, Expr, JsonPath, ListExpr, LLMCall, Reference, TextExpr, TextPart

Steps = tuple[str | int, ...]


class Read(NamedTuple):
    """One reference to a variable. `where`: steps from the call to the object that holds `variable` and `path`."""

    variable: str
    path: JsonPath
    where: Steps


def reads(call: Call) -> Iterator[Read]:
    """Every reference of the call to a variable, in order of appearance."""
    if isinstance(call, LLMCall):
        for number, message in enumerate(call.messages):
            for index, part in enumerate(message.parts):
                if not isinstance(part, TextPart):
                    yield Read(part.variable, part.path, ("messages", number, "parts", index))
    else:
        for name, expr in call.arguments.items():
            if not isinstance(expr, Constant):
                yield from _expression_reads(expr, ("arguments", name))


def _expression_reads(expr: Expr, where: Steps) -> Iterator[Read]:
    stack: list[tuple[Expr, Steps]] = [(expr, where)]
    while stack:
        node, steps = stack.pop()
        if isinstance(node, Reference):
            yield Read(node.variable, node.path, steps)
        elif not isinstance(node, Constant):
            stack.extend(_items(node, steps))


def _items(node: ListExpr | DictExpr | TextExpr, steps: Steps) -> list[tuple[Expr, Steps]]:
    if isinstance(node, TextExpr):
        parts = reversed([*enumerate(node.parts)])
        return [(part, (*steps, "parts", index)) for index, part in parts if isinstance(part, Reference)]
    items = enumerate(node.items) if isinstance(node, ListExpr) else node.items.items()
    return [(item, (*steps, "items", key)) for key, item in items][::-1]


def constants(expr: Expr, where: Steps) -> Iterator[tuple[Constant, Steps]]:
    """Every constant inside `expr` with its place, given the expression's own."""
    stack: list[tuple[Expr, Steps]] = [(expr, where)]
    while stack:
        node, steps = stack.pop()
        if isinstance(node, Constant):
            yield node, steps
        elif not isinstance(node, Reference):
            stack.extend(_items(node, steps))


def expression_depth(expr: Expr) -> int:
    """Lists and objects inside each other; 0 for a constant or a reference."""
    deepest = 0
    stack: list[tuple[Expr, int]] = [(expr, 0)]
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        if not isinstance(node, Constant | Reference | TextExpr):
            items = node.items if isinstance(node, ListExpr) else node.items.values()
            stack.extend((item, depth + 1) for item in items)
    return deepest
