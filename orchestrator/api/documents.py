"""Places inside a request's body: what is there, and which fields its type has there. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pydantic import JsonValue, TypeAdapter


def has(node: JsonValue, step: str | int) -> bool:
    """Whether a value has a part at `step`."""
    if isinstance(node, dict):
        return str(step) in node
    return isinstance(node, list) and isinstance(step, int) and step < len(node)


def child(node: JsonValue, step: str | int) -> JsonValue:
    """The part at `step`, None where there is none."""
    if isinstance(node, dict):
        return node.get(str(step))
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None


def fields_at(adapter: TypeAdapter[Any], document: JsonValue, path: Iterable[str | int]) -> tuple[str, ...]:
    """Fields that the adapter's type has at `path` of a document; none where that cannot be told."""
    root = _schema(adapter)
    schema = _meant(root, root, document)
    for step in path:
        document = child(document, step)
        schema = _meant(_below(schema, step), root, document)
    return tuple(schema.get("properties", ()))


@lru_cache(maxsize=64)
def _schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    return adapter.json_schema()


def _meant(schema: dict[str, Any], root: dict[str, Any], value: JsonValue) -> dict[str, Any]:
    """The alternative of a schema that a value is meant to satisfy, `{}` if it could be several."""
    while True:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        elif "discriminator" in schema:
            choice = schema["discriminator"]
            tag = child(value, choice["propertyName"])
            known = isinstance(tag, str) and tag in choice["mapping"]
            schema = {"$ref": choice["mapping"][tag]} if known else {}
        elif "anyOf" in schema:
            kind = "object" if isinstance(value, dict) else "array"
            options = [_meant(option, root, value) for option in schema["anyOf"]]
            fit = [option for option in options if option.get("type") == kind]
            schema = fit[0] if len(fit) == 1 else {}
        else:
            return schema


def _below(schema: dict[str, Any], step: str | int) -> dict[str, Any]:
    """The schema of the part at `step`."""
    patterns = schema.get("patternProperties", {}).values()
    for found in (schema.get("properties", {}).get(step), *patterns, schema.get("additionalProperties")):
        if isinstance(step, str) and isinstance(found, dict):
            return found
    items = schema.get("items")
    return items if isinstance(step, int) and isinstance(items, dict) else {}
