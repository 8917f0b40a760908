"""A prompt: its templates, and the messages they become when arguments fill them.

Owns how values stand in a prompt. Constants of a call become variables of the program, one per content, so that
siblings share their prefixes; the template's own text stays apart from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tenuto.builder import Builder
from tenuto.errors import InvalidArgument
from tenuto.template import Hole, check, parse
from tenuto.typed import Typed
from tenuto.var import Handle, children, entries, holds_vars
from tenuto.wire import Message, Reference, TextPart, TextType, VariablePart

Part = TextPart | VariablePart

_ANY = Typed(Any, "prompt")


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Prompt:
    """An optional system message and a user message. Raises `DefinitionError` unless holes and parameters agree."""

    def __init__(self, user: str, system: str | None, parameters: tuple[str, ...], name: str) -> None:
        self._user = parse(user, f"{name}: prompt")
        self._system = parse(system, f"{name}: system") if system else ()
        check((*self._system, *self._user), parameters, f"{name}: prompt")

    def messages(
        self, builder: Builder, types: Mapping[str, Typed], arguments: Mapping[str, Any]
    ) -> tuple[Message, ...]:
        """The messages of one call. Raises `InvalidArgument` for a value that cannot stand in a prompt."""
        filled = {name: tuple(_fill(builder, name, types[name], value)) for name, value in arguments.items()}
        user = Message(role="user", parts=_joined(self._user, filled))
        return (Message(role="system", parts=_joined(self._system, filled)), user) if self._system else (user,)


def _joined(template: tuple[str | Hole, ...], filled: Mapping[str, tuple[Part, ...]]) -> tuple[Part, ...]:
    parts: list[Part] = []
    for piece in template:
        for part in (TextPart(text=piece),) if isinstance(piece, str) else filled[piece.name]:
            if parts and isinstance(part, TextPart) and isinstance(last := parts[-1], TextPart):
                parts[-1] = TextPart(text=last.text + part.text)
            else:
                parts.append(part)
    return tuple(parts)


def _fill(builder: Builder, name: str, typed: Typed, value: Any) -> Iterator[Part]:
    """Text as it is; a list of texts one per line; everything else as compact JSON."""
    if not holds_vars(value):
        plain = typed.dump(value)
        if isinstance(plain, list) and plain and all(isinstance(item, str) for item in plain):
            plain = "\n".join(plain)
        yield VariablePart(variable=builder.input(name, plain))
    elif isinstance(value, Handle) and isinstance(value._node, Reference):
        yield VariablePart(variable=value._node.variable, path=value._node.path)
    elif isinstance(value, Handle | list | tuple) and all(_is_text(item) for item in children(value)):
        for index, item in enumerate(children(value)):
            if index:
                yield TextPart(text="\n")
            yield from _fill(builder, name, _ANY, item)
    else:
        yield from _json(builder, name, typed, value)


def _is_text(item: Any) -> bool:
    if isinstance(item, Handle):
        return isinstance(item._node, Reference) and isinstance(item._typed.value_type("serialization"), TextType)
    return isinstance(item, str)


def _json(builder: Builder, name: str, typed: Typed, value: Any) -> Iterator[Part]:
    """Compact JSON around the Vars in a list or object. A text Var in it cannot be quoted before its value exists."""
    if isinstance(value, Handle) and isinstance(value._node, Reference):
        schema = value._typed.schema("serialization")
        if (
            schema.get("type") not in ("object", "array", "integer", "number", "boolean", "null")
            and "$ref" not in schema
        ):
            raise InvalidArgument(
                f"{typed.where}: {value!r} may be text, and stands inside a larger value: `await` it first, "
                "or give it a placeholder of its own"
            )
        yield VariablePart(variable=value._node.variable, path=value._node.path)
    elif not holds_vars(value):
        try:
            yield TextPart(text=_compact(_ANY.to_json(value)))
        except ValueError as error:
            raise InvalidArgument(f"{typed.where}: {error}") from error
    elif isinstance(value, Handle | list | tuple):
        for index, item in enumerate(children(value)):
            yield TextPart(text="," if index else "[")
            yield from _json(builder, name, typed, item)
        yield TextPart(text="]")
    else:
        for index, (key, item) in enumerate(entries(value).items()):
            yield TextPart(text=("," if index else "{") + _compact(key) + ":")
            yield from _json(builder, name, typed, item)
        yield TextPart(text="}")
