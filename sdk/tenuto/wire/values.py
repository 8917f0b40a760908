"""Names, types and expressions of semantic variables.

A semantic variable is a named, typed, write-once value. Its type is text or JSON with a schema.
An expression says how a call's argument is made from literals and variables; values travel on
the edges, never text that would be parsed again.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, JsonValue, StringConstraints

from tenuto.wire.base import WireModel

Name: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$")
]
"""Name of a variable, call, workflow, tool or stage: a letter or `_`, then letters, digits, `_ . -`."""

JsonPath: TypeAlias = tuple[str | int, ...]
"""Steps into a JSON value: object keys and list indices."""


class TextType(WireModel):
    """Plain text: what a model generates when nothing more is asked of it."""

    kind: Literal["text"] = "text"


class JsonType(WireModel):
    """A JSON value that satisfies a JSON Schema (draft 2020-12)."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] = Field(default_factory=dict, description="`{}` admits every JSON value")


ValueType: TypeAlias = Annotated[TextType | JsonType, Field(discriminator="kind")]


class Constant(WireModel):
    """A constant."""

    kind: Literal["literal"] = "literal"
    value: JsonValue


class Reference(WireModel):
    """The value of a variable, or the part of it at `path`."""

    kind: Literal["ref"] = "ref"
    variable: Name
    path: JsonPath = ()


class ListExpr(WireModel):
    """A list, each item an expression of its own (fan-in)."""

    kind: Literal["list"] = "list"
    items: tuple["Expr", ...]


class DictExpr(WireModel):
    """An object, each value an expression of its own."""

    kind: Literal["dict"] = "dict"
    items: dict[str, "Expr"]


class TextExpr(WireModel):
    """A text made of constant pieces and of variables' values: text as it is, JSON in compact form."""

    kind: Literal["text"] = "text"
    parts: tuple[str | Reference, ...] = Field(min_length=1)


Expr: TypeAlias = Annotated[Constant | Reference | ListExpr | DictExpr | TextExpr, Field(discriminator="kind")]

ListExpr.model_rebuild()
DictExpr.model_rebuild()


def references(expr: Expr) -> Iterator[Reference]:
    """Every variable reference inside `expr`, in order of appearance."""
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        if isinstance(node, Reference):
            yield node
        elif isinstance(node, ListExpr):
            stack.extend(reversed(node.items))
        elif isinstance(node, DictExpr):
            stack.extend(reversed(list(node.items.values())))
        elif isinstance(node, TextExpr):
            stack.extend(part for part in reversed(node.parts) if isinstance(part, Reference))
