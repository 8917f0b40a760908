"""JSON Schema (draft 2020-12): compiling, and what a schema surely says about the values it admits.

Owns the sure statements only: whatever a schema leaves open counts as possible, so a fault told from here is a
fault. Never fetches a schema: references lead into the same document or nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import jsonschema_rs

from dag.diagnostics import listing, pointer
from tenuto.wire import JsonPath, TextType, ValueType

# A JSON value has exactly one of these kinds. "integer" of JSON Schema includes 1.0.
NULL, BOOLEAN, INTEGER, FRACTION, TEXT, ARRAY, OBJECT = (1 << bit for bit in range(7))
ANY = (1 << 7) - 1

_TYPES = {
    "null": NULL,
    "boolean": BOOLEAN,
    "integer": INTEGER,
    "number": INTEGER | FRACTION,
    "string": TEXT,
    "array": ARRAY,
    "object": OBJECT,
}
_BACKTRACK_LIMIT = 100_000  # steps of one regex match: a hostile pattern costs milliseconds, then counts as no match
_PATTERN_BYTES = 1 << 20
_FUEL = 2_000  # schema nodes visited for one question; beyond it everything counts as possible


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_MOST_TEXTS = 4096
_json_texts: dict[int, tuple[dict[str, Any], str]] = {}  # by identity: writing one costs 10 us


class SchemaError(ValueError):
    """A JSON Schema that is none. `pointer` (RFC 6901) leads into the schema."""

    def __init__(self, where: str, message: str) -> None:
        self.pointer = where
        super().__init__(message)


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    """The compiled schema; equal schemas are compiled once. Raises SchemaError."""
    return _compile(schema_text(schema))


def schema_text(schema: dict[str, Any]) -> str:
    """The schema as compact JSON; it is never changed in place. Raises SchemaError if it holds what JSON cannot."""
    known = _json_texts.get(id(schema))
    if known is not None and known[0] is schema:
        return known[1]
    try:
        text = _ENCODER.encode(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError("", f"the schema is not JSON: {error}") from None
    if len(_json_texts) >= _MOST_TEXTS:
        _json_texts.clear()
    _json_texts[id(schema)] = (schema, text)
    return text


@lru_cache(maxsize=1024)
def _compile(text: str) -> jsonschema_rs.Draft202012Validator:
    try:
        return jsonschema_rs.Draft202012Validator(
            text,
            retriever=_refuse,
            pattern_options=jsonschema_rs.FancyRegexOptions(
                backtrack_limit=_BACKTRACK_LIMIT, size_limit=_PATTERN_BYTES
            ),
        )
    except jsonschema_rs.ValidationError as error:
        raise SchemaError(pointer(*error.instance_path), error.message) from None
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise SchemaError("", str(error)) from None


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema; use $defs and #/$defs/… references")


class Node(NamedTuple):
    """A schema inside its document, which `$ref`s lead into."""

    schema: Any
    root: Any


TEXT_SCHEMA: dict[str, Any] = {"type": "string"}


def of_type(type: ValueType) -> Node:
    """The schema of a variable's type; text is a JSON string."""
    schema = TEXT_SCHEMA if isinstance(type, TextType) else type.json_schema
    return Node(schema, schema)


class Absent(NamedTuple):
    """No value of the schema has a part there; `reason` completes "it …"."""

    reason: str


class _Fuel:
    """Bounds one question: recursive `$ref`s and nested alternatives would else cost exponential time."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _FUEL

    def spend(self) -> bool:
        self.left -= 1
        return self.left > 0


def possible_kinds(node: Node, fuel: _Fuel | None = None) -> int:
    """Bit set of kinds that values of the schema may have: never too small, perhaps too large."""
    fuel = fuel or _Fuel()
    kinds = ANY
    for schema in _conjuncts(node, fuel):
        if schema is False:
            return 0
        kinds &= _own_kinds(schema)
        for branches in _alternatives(schema):
            union = 0
            for branch in branches:
                union |= possible_kinds(Node(branch, node.root), fuel) if fuel.spend() else ANY
            kinds &= union
    return kinds


def part(node: Node, step: str | int, fuel: _Fuel | None = None) -> Node | Absent:
    """The schema that every part at `step` satisfies, or Absent if no value of the schema has such a part."""
    fuel = fuel or _Fuel()
    if not possible_kinds(node, fuel) & (OBJECT if isinstance(step, str) else ARRAY):
        what = "key" if isinstance(step, str) else "index"
        return Absent(f"is {describe_kinds(possible_kinds(node))}, which has no {what} {step!r}")
    found: list[Any] = []
    for schema in _conjuncts(node, fuel):
        own = _own_part(schema, step)
        if isinstance(own, Absent):
            return own
        if own is not True:
            found.append(own)
        for branches in _alternatives(schema):
            options: list[Any] = []
            absent: Absent | None = None
            for branch in branches:
                option = part(Node(branch, node.root), step, fuel) if fuel.spend() else Node(True, node.root)
                if isinstance(option, Absent):
                    absent = absent or option
                else:
                    options.append(option.schema)
            if not options and absent:
                return absent
            if True not in options:
                found.append({"anyOf": options})
    return Node(found[0] if len(found) == 1 else {"allOf": found} if found else True, node.root)


def required_keys(node: Node) -> tuple[str, ...]:
    """Keys that every object of the schema has."""
    keys: dict[str, None] = {}
    for schema in _conjuncts(node, _Fuel()):
        if isinstance(schema, dict) and isinstance(schema.get("required"), list):
            keys.update(dict.fromkeys(key for key in schema["required"] if isinstance(key, str)))
    return tuple(keys)


def known_keys(node: Node) -> tuple[str, ...]:
    """Keys that the schema names, in any of its alternatives: candidates for did-you-mean."""
    fuel = _Fuel()
    keys: dict[str, None] = {}
    stack = [node.schema]
    while stack and fuel.spend():
        for schema in _conjuncts(Node(stack.pop(), node.root), fuel):
            if isinstance(schema, dict):
                properties = schema.get("properties")
                keys.update(dict.fromkeys(properties if isinstance(properties, dict) else ()))
                for branches in _alternatives(schema):
                    stack.extend(branches)
    return tuple(keys)


def conflict(produced: Node, wanted: Node, depth: int = 8) -> str | None:
    """Why no value of `produced` can satisfy `wanted`, completing "it …"; None unless that is sure.

    One liberty: lists whose items can never fit count as a conflict although the empty list would pass.
    """
    kinds, admitted = possible_kinds(produced), possible_kinds(wanted)
    if not kinds or not admitted or depth == 0:
        return None
    if not kinds & admitted:
        return f"is {describe_kinds(kinds)} where {describe_kinds(admitted)} is expected"
    if kinds == OBJECT:
        return _object_conflict(produced, wanted, depth)
    if kinds == ARRAY:
        item, place = part(produced, 0), part(wanted, 0)
        if isinstance(item, Node) and isinstance(place, Node):
            inner = conflict(item, place, depth - 1)
            return f"has items, each of which {inner}" if inner else None
        return None
    if kinds == TEXT:
        values, allowed = _texts(produced), _texts(wanted)
        if values and allowed and not values & allowed:
            return f"is one of {listing(sorted(values))} where one of {listing(sorted(allowed))} is expected"
    return None


def _object_conflict(produced: Node, wanted: Node, depth: int) -> str | None:
    needed, given = required_keys(wanted), required_keys(produced)
    for key in needed:
        if isinstance(part(produced, key), Absent):
            return f"never has the key {key!r}, which is required"
    for key in dict.fromkeys((*needed, *given)):
        value, place = part(produced, key), part(wanted, key)
        if isinstance(place, Absent):
            return f"always has the key {key!r}, which is not allowed"
        if isinstance(value, Node):
            inner = conflict(value, place, depth - 1)
            if inner:
                return f"has at {pointer(key)} a value that {inner}"
    return None


class Memo:
    """Remembers answers about schema objects, for one validation: calls of one stage ask the same again and again.

    Keys are identities, so the asked nodes are kept alive with their answers.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int, str | int], tuple[Node, Node | Absent]] = {}
        self._conflicts: dict[tuple[int, int, int, int], tuple[Node, Node, str | None]] = {}

    def part(self, node: Node, step: str | int) -> Node | Absent:
        """`part`, remembered."""
        key = (id(node.schema), id(node.root), step)
        known = self._parts.get(key)
        if known is None:
            known = self._parts[key] = (node, part(node, step))
        return known[1]

    def follow(self, node: Node, path: JsonPath) -> Node | tuple[int, Absent]:
        """The schema at the end of `path`, or (index of the step that no value has, why)."""
        for index, step in enumerate(path):
            found = self.part(node, step)
            if isinstance(found, Absent):
                return index, found
            node = found
        return node

    def conflict(self, produced: Node, wanted: Node) -> str | None:
        """`conflict`, remembered."""
        key = (id(produced.schema), id(produced.root), id(wanted.schema), id(wanted.root))
        known = self._conflicts.get(key)
        if known is None:
            known = self._conflicts[key] = (produced, wanted, conflict(produced, wanted))
        return known[2]


def describe_kinds(kinds: int) -> str:
    """`text or null`, for messages."""
    if kinds == ANY:
        return "any value"
    names = {NULL: "null", BOOLEAN: "a boolean", TEXT: "text", ARRAY: "a list", OBJECT: "an object"}
    said = [name for kind, name in names.items() if kinds & kind]
    if kinds & FRACTION:
        said.insert(0, "a number")
    elif kinds & INTEGER:
        said.insert(0, "an integer")
    return " or ".join(said) or "nothing"


def standalone(node: Node) -> dict[str, Any]:
    """A document of its own for a schema inside another: its `$defs` come along."""
    schema: dict[str, Any] = {"allOf": [node.schema]}
    if isinstance(node.root, dict):
        schema.update({key: node.root[key] for key in ("$defs", "definitions") if key in node.root})
    return schema


def _conjuncts(node: Node, fuel: _Fuel) -> Iterator[Any]:
    """The schemas that must all hold: the schema itself, what its `$ref` leads to, its `allOf`."""
    stack = [node.schema]
    while stack and fuel.spend():
        schema = stack.pop()
        yield schema
        if isinstance(schema, dict):
            if isinstance(schema.get("$ref"), str):
                stack.append(_dereference(schema["$ref"], node.root))
            if isinstance(schema.get("allOf"), list):
                stack.extend(reversed(schema["allOf"]))


def _dereference(reference: str, root: Any) -> Any:
    """What a `#/…` reference leads to; True (anything) for other kinds of reference."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return True
    found = root
    for step in reference[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return True
    return found


def _alternatives(schema: Any) -> Iterator[list[Any]]:
    if isinstance(schema, dict):
        for keyword in ("anyOf", "oneOf"):
            if isinstance(schema.get(keyword), list):
                yield schema[keyword]


def _own_kinds(schema: Any) -> int:
    if not isinstance(schema, dict):
        return 0 if schema is False else ANY
    kinds = ANY
    declared = schema.get("type")
    if isinstance(declared, str):
        kinds = _TYPES.get(declared, ANY)
    elif isinstance(declared, list):
        kinds = 0
        for name in declared:
            kinds |= _TYPES.get(name, ANY) if isinstance(name, str) else ANY
    if "const" in schema:
        kinds &= kind_of(schema["const"])
    if isinstance(schema.get("enum"), list):
        union = 0
        for value in schema["enum"]:
            union |= kind_of(value)
        kinds &= union
    return kinds


def _own_part(schema: Any, step: str | int) -> Any:
    """The sub-schema of one conjunct at `step`, True where it says nothing, Absent where it admits none."""
    if not isinstance(schema, dict):
        return True
    if isinstance(step, str):
        properties = schema.get("properties")
        if isinstance(properties, dict) and step in properties:
            return properties[step]
        rest = schema.get("additionalProperties", True)
        if "patternProperties" in schema:
            return True
        return Absent("has no such key") if rest is False else rest
    prefix = schema.get("prefixItems")
    prefix = prefix if isinstance(prefix, list) else []
    if step < 0:
        return True if prefix else schema.get("items", True)
    longest = schema.get("maxItems")
    rest = schema.get("items", True)
    if isinstance(longest, int) and step >= longest:
        return Absent(f"is a list of at most {longest}")
    if step < len(prefix):
        return prefix[step]
    return Absent(f"is a list of at most {len(prefix)}") if rest is False else rest


def _texts(node: Node) -> frozenset[str] | None:
    """The texts that the schema's `enum` or `const` lists; None if it lists none."""
    for schema in _conjuncts(node, _Fuel()):
        if isinstance(schema, dict):
            values = [schema["const"]] if "const" in schema else schema.get("enum")
            if isinstance(values, list):
                return frozenset(value for value in values if isinstance(value, str))
    return None


def kind_of(value: Any) -> int:
    """The kind of a JSON value, as one bit."""
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, int):
        return INTEGER
    if isinstance(value, float):
        return INTEGER if value.is_integer() else FRACTION
    if isinstance(value, str):
        return TEXT
    return ARRAY if isinstance(value, list | tuple) else OBJECT
