"""The arguments of a function call against the parameters of its tool, before anything runs.

Owns what is surely wrong: names the tool lacks, arguments it needs, constants and variables that can never fit.
Never rejects what might fit once the values are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jsonschema_rs

from dag.diagnostics import listing
from dag.reads import Steps
from dag.schema import (
    ARRAY,
    OBJECT,
    Absent,
    Node,
    SchemaError,
    conflict,
    describe_kinds,
    follow,
    known_keys,
    of_type,
    part,
    possible_kinds,
    required_keys,
    standalone,
    validator,
)
from tenuto.wire import Constant, Expr, FunctionCall, ListExpr, Reference, ToolSpec, ValueType

TypeOf = Callable[[str], ValueType | None]


class ArgumentFault(NamedTuple):
    """A fault at `where`, steps from the call; `known`: names to take did-you-mean from, for `name`."""

    code: str
    where: Steps
    message: str
    fix: str
    name: str = ""
    known: tuple[str, ...] = ()


def argument_faults(call: FunctionCall, tool: ToolSpec, type_of: TypeOf) -> Iterator[ArgumentFault]:
    """Every sure fault of the call against its tool.

    A tool whose parameters list `properties` without a word on further ones takes no others: they are its
    signature. A reference to a variable that `type_of` does not know is skipped (it has a fault of its own).
    """
    parameters = Node(tool.parameters, tool.parameters)
    names = known_keys(parameters)
    for name in required_keys(parameters):
        if name not in call.arguments:
            message = f"call {call.id!r} lacks the argument {name!r} that tool {tool.name!r} requires"
            yield ArgumentFault("missing_argument", ("arguments",), message, f"give the argument {name!r}")
    for name, expr in call.arguments.items():
        parameter = part(parameters, name)
        if isinstance(parameter, Absent) or not _takes(tool, name):
            message = f"tool {tool.name!r} has no parameter {name!r}"
            fix = f"its parameters are {listing(names)}" if names else "it takes no arguments"
            yield ArgumentFault("unknown_argument", ("arguments", name), message, fix, name, names)
        else:
            for where, message in _expression_faults(expr, parameter, ("arguments", name), type_of):
                told = f"argument {name!r} of tool {tool.name!r}: {message}"
                yield ArgumentFault("type_mismatch", where, told, "pass a value that the tool's parameters admit")
    if tool.returns:
        mismatch = conflict(Node(tool.returns, tool.returns), of_type(call.type))
        if mismatch:
            message = f"call {call.id!r} can never have its declared type: what tool {tool.name!r} returns {mismatch}"
            yield ArgumentFault("type_mismatch", ("type",), message, "declare the type that the tool returns")


def _takes(tool: ToolSpec, name: str) -> bool:
    schema = tool.parameters
    open_ended = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref")
    if "properties" not in schema or any(keyword in schema for keyword in open_ended):
        return True
    return name in schema["properties"]


def _expression_faults(expr: Expr, wanted: Node, where: Steps, type_of: TypeOf) -> Iterator[tuple[Steps, str]]:
    if isinstance(expr, Constant):
        yield from _constant_faults(expr, wanted, where)
    elif isinstance(expr, Reference):
        yield from _reference_faults(expr, wanted, where, type_of)
    elif isinstance(expr, ListExpr):
        admitted = possible_kinds(wanted)
        if admitted and not admitted & ARRAY:
            yield where, f"a list where {describe_kinds(admitted)} is expected"
            return
        for index, item in enumerate(expr.items):
            place = part(wanted, index)
            if isinstance(place, Absent):
                yield (*where, "items", index), f"item {index} is too many: the parameter {place.reason}"
                return
            yield from _expression_faults(item, place, (*where, "items", index), type_of)
    else:
        admitted = possible_kinds(wanted)
        if admitted and not admitted & OBJECT:
            yield where, f"an object where {describe_kinds(admitted)} is expected"
            return
        for key in required_keys(wanted):
            if key not in expr.items:
                yield where, f"lacks the key {key!r}, which is required"
        for key, item in expr.items.items():
            place = part(wanted, key)
            if isinstance(place, Absent):
                yield (*where, "items", key), f"the key {key!r} is not allowed"
            else:
                yield from _expression_faults(item, place, (*where, "items", key), type_of)


def _constant_faults(expr: Constant, wanted: Node, where: Steps) -> Iterator[tuple[Steps, str]]:
    try:
        checker = validator(standalone(wanted))
        errors = [] if checker.is_valid(expr.value) else list(checker.iter_errors(expr.value))
    except (SchemaError, jsonschema_rs.ValidationError, ValueError):
        return  # a reference we do not carry along, or no JSON at all: the worker's own check will tell
    for error in errors:
        yield (*where, "value", *error.instance_path), error.message


def _reference_faults(expr: Reference, wanted: Node, where: Steps, type_of: TypeOf) -> Iterator[tuple[Steps, str]]:
    declared = type_of(expr.variable)
    if declared is None:
        return
    produced = follow(of_type(declared), expr.path)
    if not isinstance(produced, Node):
        return  # a path that leads nowhere is told by the check of paths
    mismatch = conflict(produced, wanted)
    if mismatch:
        name = expr.variable + "".join(f"[{step!r}]" for step in expr.path)
        yield (*where, "variable"), f"variable {name} {mismatch}"
