"""The smallest value that a JSON Schema admits. Pure."""

from __future__ import annotations

import math
from typing import Any


def minimal_value(schema: dict[str, Any] | bool) -> Any:
    """A value as small as the schema allows: first enum or union member, required properties only, lower bounds.

    Understands what annotations produce. Raises `ValueError` for `pattern`, `not` and a schema that admits nothing.
    """
    root = schema if isinstance(schema, dict) else {}
    return _value(schema, root, ())


def _value(schema: dict[str, Any] | bool, root: dict[str, Any], path: tuple[str, ...]) -> Any:
    if schema is False:
        raise ValueError("the schema admits no value")
    if schema is True or not schema:
        return None
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if "$ref" in schema:
        reference = schema["$ref"]
        if reference in path:
            raise ValueError(f"{reference} contains itself without end")
        return _value(_follow(root, reference), root, (*path, reference))
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _first_possible(schema[union], root, path)
    if "allOf" in schema:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged |= _follow(root, part["$ref"]) if "$ref" in part else part
        return _value(merged, root, path)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _value({**schema, "type": "null" if "null" in kind else kind[0]}, root, path)
    return _of_kind(kind, schema, root, path)


def _first_possible(members: list[Any], root: dict[str, Any], path: tuple[str, ...]) -> Any:
    """Null if it is a member, else the first that does not contain itself without end."""
    ordered = sorted(members, key=lambda member: not (isinstance(member, dict) and member.get("type") == "null"))
    for member in ordered[:-1]:
        try:
            return _value(member, root, path)
        except ValueError:
            continue
    return _value(ordered[-1], root, path)


def _of_kind(kind: Any, schema: dict[str, Any], root: dict[str, Any], path: tuple[str, ...]) -> Any:
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        return {name: _value(properties.get(name, {}), root, path) for name in schema.get("required", ())}
    if kind == "array":
        prefix = schema.get("prefixItems", [])
        count = schema.get("minItems", 0)
        items = [*prefix[:count], *[schema.get("items", {})] * max(0, count - len(prefix))]
        return [_value(item, root, path) for item in items]
    if kind == "string":
        if "pattern" in schema or "format" in schema:
            raise ValueError(f"cannot make a string of {schema.get('pattern') or schema['format']!r}: script an answer")
        return "x" * schema.get("minLength", 0)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind == "boolean":
        return False
    return None


def _number(schema: dict[str, Any], *, whole: bool) -> float | int:
    """The number nearest to 0 that is in the bounds and a multiple of the step."""
    step = schema.get("multipleOf", 1 if whole else None)
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    nearest = min(max(0, low), high)
    if step is None:
        candidates = [nearest, nearest + 1e-6, nearest - 1e-6]
    else:
        candidates = [(math.floor(nearest / step) + offset) * step for offset in (0, 1, -1, 2)]
    possible = [
        number
        for number in candidates
        if low <= number <= high and number not in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum"))
    ]
    if not possible:
        raise ValueError("no number is in the schema's bounds")
    found = min(possible, key=abs)
    return int(found) if whole else float(found)


def _follow(root: dict[str, Any], reference: str) -> dict[str, Any]:
    node: Any = root
    for step in reference.removeprefix("#/").split("/"):
        node = node[step.replace("~1", "/").replace("~0", "~")]
    assert isinstance(node, dict)
    return node
