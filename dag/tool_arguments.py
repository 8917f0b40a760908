"""The arguments of a function call against the parameters of its tool, before anything runs.

Owns what is surely wrong: names the tool lacks, arguments it needs, constants and variables that can never fit.
Never rejects what might fit once the values are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from jsonschema_rs import Draft202012Validator

from dag.diagnostics import listing
from dag.reads import Steps
from dag.schema import (
    ARRAY,
    OBJECT,
    TEXT,
    Absent,
    Memo,
    Node,
    describe_kinds,
    known_keys,
    possible_kinds,
    required_keys,
    standalone,
    validator,
)
from tenuto.wire import Constant, DictExpr, Expr, FunctionCall, ListExpr, Reference, TextExpr, ToolSpec


class ArgumentFault(NamedTuple):
    """A fault at `where`, steps from the call; `known`: names to take did-you-mean from, for `name`."""

    code: str
    where: Steps
    message: str
    fix: str
    name: str = ""
    known: tuple[str, ...] = ()


class ToolCheck:
    """Checks calls of one tool.

    A tool whose parameters list `properties` without a word on further ones takes no others: they are its
    signature. `node_of` tells the schema of a variable, None if there is no such variable (which has a fault of
    its own, so nothing is said of it here).
    """

    def __init__(self, tool: ToolSpec, node_of: Callable[[str], Node | None], memo: Memo) -> None:
        self._tool, self._node_of, self._memo = tool, node_of, memo
        self._parameters = Node(tool.parameters, tool.parameters)
        self._validators: dict[int, Draft202012Validator] = {}  # by the schema's identity: the tool keeps it alive
        self._returns = Node(tool.returns, tool.returns)
        self._required = required_keys(self._parameters)
        self._names = known_keys(self._parameters)
        open_ended = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref")
        self._closed = "properties" in tool.parameters and not any(word in tool.parameters for word in open_ended)

    def faults(self, call: FunctionCall, type: Node) -> Iterator[ArgumentFault]:
        """Every sure fault of the call, whose declared type is `type`, against its tool."""
        tool = self._tool.name
        for name in self._required:
            if name not in call.arguments:
                message = f"call {call.id!r} lacks the argument {name!r} that tool {tool!r} requires"
                yield ArgumentFault("missing_argument", ("arguments",), message, f"give the argument {name!r}")
        for name, expr in call.arguments.items():
            parameter = self._memo.part(self._parameters, name)
            if isinstance(parameter, Absent) or (self._closed and name not in self._names):
                message = f"tool {tool!r} has no parameter {name!r}"
                fix = f"its parameters are {listing(self._names)}" if self._names else "it takes no arguments"
                yield ArgumentFault("unknown_argument", ("arguments", name), message, fix, name, self._names)
                continue
            for where, message in self._expression(expr, parameter, ("arguments", name)):
                told = f"argument {name!r} of tool {tool!r}: {message}"
                yield ArgumentFault("type_mismatch", where, told, "pass a value that the tool's parameters admit")
        mismatch = self._memo.conflict(self._returns, type)
        if mismatch:
            message = f"call {call.id!r} can never have its declared type: what tool {tool!r} returns {mismatch}"
            yield ArgumentFault("type_mismatch", ("type",), message, "declare the type that the tool returns")

    def _expression(self, expr: Expr, wanted: Node, where: Steps) -> Iterator[tuple[Steps, str]]:
        if isinstance(expr, Constant):
            return self._constant(expr, wanted, where)
        if isinstance(expr, Reference):
            return self._reference(expr, wanted, where)
        if isinstance(expr, TextExpr):
            return self._text(wanted, where)
        return self._list(expr, wanted, where) if isinstance(expr, ListExpr) else self._dict(expr, wanted, where)

    def _text(self, wanted: Node, where: Steps) -> Iterator[tuple[Steps, str]]:
        admitted = possible_kinds(wanted)
        if not admitted & TEXT:
            yield where, f"a text where {describe_kinds(admitted)} is expected"

    def _list(self, expr: ListExpr, wanted: Node, where: Steps) -> Iterator[tuple[Steps, str]]:
        admitted = possible_kinds(wanted)
        if admitted and not admitted & ARRAY:
            yield where, f"a list where {describe_kinds(admitted)} is expected"
            return
        for index, item in enumerate(expr.items):
            place = self._memo.part(wanted, index)
            if isinstance(place, Absent):
                yield (*where, "items", index), f"item {index} is too many: the parameter {place.reason}"
                return
            yield from self._expression(item, place, (*where, "items", index))

    def _dict(self, expr: DictExpr, wanted: Node, where: Steps) -> Iterator[tuple[Steps, str]]:
        admitted = possible_kinds(wanted)
        if admitted and not admitted & OBJECT:
            yield where, f"an object where {describe_kinds(admitted)} is expected"
            return
        for key in required_keys(wanted):
            if key not in expr.items:
                yield where, f"lacks the key {key!r}, which is required"
        for key, item in expr.items.items():
            place = self._memo.part(wanted, key)
            if isinstance(place, Absent):
                yield (*where, "items", key), f"the key {key!r} is not allowed"
            else:
                yield from self._expression(item, place, (*where, "items", key))

    def _constant(self, expr: Constant, wanted: Node, where: Steps) -> Iterator[tuple[Steps, str]]:
        try:
            checker = self._validator(wanted)
            errors = [] if checker.is_valid(expr.value) else list(checker.iter_errors(expr.value))
        except ValueError:
            return  # a reference that we do not carry along, or no JSON at all: the worker's own check will tell
        for error in errors:
            yield (*where, "value", *error.instance_path), error.message

    def _validator(self, wanted: Node) -> Draft202012Validator:
        """The compiled schema of a place; places are asked for call after call."""
        known = self._validators.get(id(wanted.schema))
        if known is None:
            known = self._validators[id(wanted.schema)] = validator(standalone(wanted))
        return known

    def _reference(self, expr: Reference, wanted: Node, where: Steps) -> Iterator[tuple[Steps, str]]:
        declared = self._node_of(expr.variable)
        if declared is None:
            return
        produced = self._memo.follow(declared, expr.path)
        if not isinstance(produced, Node):
            return  # a path that leads nowhere is told by the check of paths
        mismatch = self._memo.conflict(produced, wanted)
        if mismatch:
            name = expr.variable + "".join(f"[{step!r}]" for step in expr.path)
            yield (*where, "variable"), f"variable {name} {mismatch}"
