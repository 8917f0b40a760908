"""Values of semantic variables: checked against their type, taken apart by path, put into arguments and prompts.

Owns the meaning of `Expr`, `JsonPath` and `VariablePart`. Never changes a value and never parses text: what a
variable holds is inserted once, as it is, so braces, dollars or tags inside a value mean nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from dag.diagnostics import pointer, shorten
from dag.schema import SchemaError, validator
from tenuto.wire import (
    Constant,
    Expr,
    JsonPath,
    ListExpr,
    Reference,
    TextExpr,
    TextPart,
    TextType,
    ValueType,
    VariablePart,
)

MAX_DEPTH = 200
"""Lists and objects inside each other that a value may have; parsers of JSON and checkers of schemas stop near it."""

_SHOWN_FAULTS = 5
_INDEX = re.compile(r"-?(0|[1-9][0-9]{0,9})\Z")


class PathError(ValueError):
    """A variable's value has no part at a path. `pointer` (RFC 6901, into the value) names the step that failed."""

    def __init__(self, variable: str, path: JsonPath, failed: int, reason: str) -> None:
        self.variable = variable
        self.path = path
        self.pointer = pointer(*path[: failed + 1])
        self.reason = reason
        super().__init__(f"variable {variable!r} has no part at {self.pointer}: {reason}")


class UnwrittenVariable(LookupError):
    """A value was asked for before its variable was written."""

    def __init__(self, variable: str) -> None:
        self.variable = variable
        super().__init__(f"variable {variable!r} has no value yet")


def check_value(type: ValueType, value: Any) -> str | None:
    """None if `value` is a JSON value of `type`; else a message that tells each fault and where it is.

    The place is an RFC 6901 pointer into the value. Raises SchemaError if the type's own schema is invalid
    (a graph that was accepted holds no such type).
    """
    faults = value_faults(type, value)
    if not faults:
        return None
    told = [f"at {where or '(the whole value)'}: {message}" for where, message in faults[:_SHOWN_FAULTS]]
    more = len(faults) - _SHOWN_FAULTS
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def value_faults(type: ValueType, value: Any) -> list[tuple[str, str]]:
    """Every fault of `value` against `type`, as (pointer into the value, message). Raises SchemaError."""
    if isinstance(type, TextType):
        if not isinstance(value, str):
            return [("", f"{_kind(value)} where text is expected")]
        return _surrogates(value)
    checker = validator(type.json_schema)
    foreign = json_faults(value)
    if foreign:
        return foreign
    if checker.is_valid(value):
        return []
    return [(pointer(*error.instance_path), shorten(error.message)) for error in checker.iter_errors(value)]


def resolve(expr: Expr, values: Mapping[str, Any]) -> Any:
    """The value of `expr`, given the variables' values. Parts of values are shared, not copied.

    Raises PathError if a path leads nowhere, UnwrittenVariable if a variable has no value.
    """
    if isinstance(expr, Constant):
        return expr.value
    if isinstance(expr, Reference):
        return project(expr.variable, expr.path, values)
    if isinstance(expr, ListExpr):
        return [resolve(item, values) for item in expr.items]
    if isinstance(expr, TextExpr):
        return "".join(
            part if isinstance(part, str) else as_text(project(part.variable, part.path, values)) for part in expr.parts
        )
    return {key: resolve(item, values) for key, item in expr.items.items()}


def render(parts: Iterable[TextPart | VariablePart], values: Mapping[str, Any]) -> str:
    """The text of one message: constants as they are, text values as they are, other JSON in compact form.

    Raises PathError or UnwrittenVariable as `resolve` does.
    """
    return "".join(
        part.text if isinstance(part, TextPart) else as_text(project(part.variable, part.path, values))
        for part in parts
    )


def as_text(value: Any) -> str:
    """How a value stands in a prompt: text as it is, other JSON compactly and in its own key order."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def project(variable: str, path: JsonPath, values: Mapping[str, Any]) -> Any:
    """The part of a variable's value at `path`; negative indices count from a list's end."""
    try:
        value = values[variable]
    except KeyError:
        raise UnwrittenVariable(variable) from None
    for depth, step in enumerate(path):
        if isinstance(step, str):
            if not isinstance(value, dict):
                raise PathError(variable, path, depth, f"{_kind(value)} has no key {step!r}")
            if step not in value:
                raise PathError(variable, path, depth, f"no key {step!r} (it has {_keys(value)})")
            value = value[step]
        else:
            if not isinstance(value, list):
                raise PathError(variable, path, depth, f"{_kind(value)} has no index {step}")
            if not -len(value) <= step < len(value):
                raise PathError(variable, path, depth, f"index {step} of a list of {len(value)}")
            value = value[step]
    return value


def at_pointer(variable: str, pointer: str, value: Any) -> Any:
    """The part of a variable's value at an RFC 6901 pointer; indices may count from a list's end. Raises PathError."""
    path: JsonPath = ()
    part = value
    for token in pointer.split("/")[1:]:
        step = token.replace("~1", "/").replace("~0", "~")
        path = (*path, int(step) if isinstance(part, list) and _INDEX.match(step) else step)
        part = project(variable, path, {variable: value})
    return part


def json_faults(value: Any) -> list[tuple[str, str]]:
    """What makes a Python value unfit for JSON, as (pointer into it, message); [] if nothing does."""
    return [] if _is_json(value) else _find_not_json(value)


def _is_json(value: Any) -> bool:
    """Level by level, without the places: the common answer is yes, and it must cost little."""
    if value is None or type(value) in (int, bool):
        return True
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                if not _encodes(item):
                    return False
            elif isinstance(item, dict):
                if not all(isinstance(key, str) and _encodes(key) for key in item):
                    return False
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float):
                if not math.isfinite(item):
                    return False
            elif not isinstance(item, int | None):
                return False
        if not below:
            return True
        level = below
    return False


def _find_not_json(value: Any) -> list[tuple[str, str]]:
    """What makes a Python value unfit for JSON: NaN, foreign objects, lone surrogates, keys that are no text, depth."""
    faults: list[tuple[str, str]] = []
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while stack and len(faults) < _SHOWN_FAULTS:
        steps, item = stack.pop()
        if len(steps) > MAX_DEPTH:
            return [*faults, ("", f"nested more than {MAX_DEPTH} deep")]
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    faults.append((pointer(*steps), f"key {key!r} is no text"))
                elif not _encodes(key):
                    faults.append((pointer(*steps), f"key {key!r} holds a lone surrogate, which UTF-8 cannot"))
            stack.extend(((*steps, str(key)), part) for key, part in reversed(item.items()))
        elif isinstance(item, list):
            stack.extend(((*steps, index), part) for index, part in reversed(list(enumerate(item))))
        elif isinstance(item, str):
            faults.extend((pointer(*steps), message) for _, message in _surrogates(item))
        elif isinstance(item, float):
            if not math.isfinite(item):
                faults.append((pointer(*steps), f"{item} is no JSON number"))
        elif not isinstance(item, int | None):
            faults.append((pointer(*steps), f"a {type(item).__name__} is no JSON value"))
    return faults


def _encodes(text: str) -> bool:
    return text.isascii() or not _surrogates(text)


def _surrogates(text: str) -> list[tuple[str, str]]:
    try:
        text.encode()
        return []
    except UnicodeEncodeError as error:
        return [("", f"character {error.start} is a lone surrogate, which UTF-8 cannot hold")]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list | tuple) else "an object" if isinstance(value, dict) else str(type(value))


def _keys(value: dict[str, Any]) -> str:
    shown = ", ".join(repr(key) for key in list(value)[:8])
    return (shown + (" …" if len(value) > 8 else "")) or "no keys"


__all__ = [
    "PathError",
    "SchemaError",
    "UnwrittenVariable",
    "as_text",
    "check_value",
    "json_faults",
    "project",
    "render",
    "resolve",
    "value_faults",
]
