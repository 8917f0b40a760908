"""Annotations made useful: validation, JSON form, JSON Schema, and the type of a part.

Owns the mapping from Python annotations to the wire's `ValueType`. Never does I/O and knows nothing of programs.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from tenuto.errors import DefinitionError, InvalidArgument, InvalidResult
from tenuto.wire import JsonType, TextType, ValueType

JsonMode = Literal["validation", "serialization"]
MISSING = inspect.Parameter.empty


class Typed:
    """One annotation. `where` names it in messages, such as `run_sql(query)`; `MISSING` means anything.

    `any_class`: classes that pydantic knows nothing of are checked by `isinstance` instead of refused.
    """

    def __init__(self, annotation: Any, where: str, *, any_class: bool = False) -> None:
        self.annotation = Any if annotation is MISSING else annotation
        self.where = where
        self._any_class = any_class
        self._parts: dict[str | int, tuple[str | int, Typed]] = {}
        self._schemas: dict[JsonMode, dict[str, Any]] = {}
        self._value_types: dict[JsonMode, ValueType] = {}

    def __repr__(self) -> str:
        return type_name(self.annotation)

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.annotation)
        except PydanticUserError as error:
            if self._any_class:
                return TypeAdapter(self.annotation, config=ConfigDict(arbitrary_types_allowed=True))
            reason = str(error).partition("\n")[0]
            raise DefinitionError(f"{self.where}: {type_name(self.annotation)} has no JSON form: {reason}") from error

    @property
    def has_json_form(self) -> bool:
        """Whether values of the annotation can be checked."""
        try:
            return self.adapter is not None
        except DefinitionError:
            return False

    def schema(self, mode: JsonMode) -> dict[str, Any]:
        """JSON Schema of what is accepted (`validation`) or of what is given back (`serialization`)."""
        if mode not in self._schemas:
            try:
                self._schemas[mode] = self.adapter.json_schema(mode=mode)
            except PydanticUserError as error:
                reason = str(error).partition("\n")[0]
                name = type_name(self.annotation)
                raise DefinitionError(f"{self.where}: {name} has no JSON Schema: {reason}") from error
        return self._schemas[mode]

    def value_type(self, mode: JsonMode) -> ValueType:
        """`TextType` for plain `str` (and its aliases and `NewType`s), else `JsonType`.

        In `validation` mode, which describes what a model shall write, objects are closed: without
        `additionalProperties: false` a constrained model may go on inventing keys.
        """
        if mode not in self._value_types:
            schema = self.schema(mode)
            if {k: v for k, v in schema.items() if k not in ("title", "description")} == {"type": "string"}:
                self._value_types[mode] = TextType()
            else:
                self._value_types[mode] = JsonType(json_schema=_closed(schema) if mode == "validation" else schema)
        return self._value_types[mode]

    def load(self, value: Any) -> Any:
        """A JSON value as an instance of the annotation. Raises `InvalidResult`."""
        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            raise InvalidResult(f"{self.where}: {first_faults(error)}") from error

    def accept(self, value: Any) -> Any:
        """An argument as an instance of the annotation: itself if it is one. Raises `InvalidArgument`."""
        if type(value) is self.annotation:
            return value
        try:
            self.adapter.validate_python(value, strict=True)
            return value
        except ValidationError:
            pass
        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            raise InvalidArgument(f"{self.where}: {first_faults(error)}") from error

    def dump(self, value: Any) -> Any:
        """Validate an argument and give its JSON form. Raises `InvalidArgument`."""
        kind = type(value)
        if kind is self.annotation and (kind in (int, bool) or (kind is str and value.isascii())):
            return value  # its own JSON form: by far the most common values
        try:
            return self.to_json(self.adapter.validate_python(value))
        except ValidationError as error:
            raise InvalidArgument(f"{self.where}: {first_faults(error)}") from error
        except ValueError as error:
            raise InvalidArgument(f"{self.where}: {error}") from error

    def to_json(self, value: Any) -> Any:
        """The JSON form of an instance. Raises `ValueError` naming the type that JSON cannot hold."""
        try:
            plain = self.adapter.dump_python(value, mode="json", by_alias=True, warnings="error")
        except (PydanticSerializationError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{type(value).__name__} cannot be written as JSON: {error}") from error
        if "null" in require_json(plain) and _has_non_finite(self.adapter.dump_python(value, warnings=False)):
            # pydantic writes NaN and infinities as null, which would be read back as "no value"
            raise ValueError(f"{type(value).__name__} cannot be written as JSON: it holds NaN or an infinity")
        return plain

    def part(self, key: str | int) -> tuple[str | int, Typed]:
        """The key of a part in the JSON form, and the part's type. Raises `TypeError` for a part that cannot be."""
        if key not in self._parts:
            json_key, annotation = _part(self.annotation, key)
            shown = f"[{key}]" if isinstance(key, int) else f".{key}"
            self._parts[key] = (json_key, Typed(annotation, self.where + shown))
        return self._parts[key]


def require_json(value: Any) -> str:
    """The JSON text of `value`. Raises `ValueError` unless it is plain JSON, which has no NaN and no infinity."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()  # lone surrogates are no Unicode text
        return text
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{type(value).__name__} cannot be written as JSON: {error}") from error


def _has_non_finite(tree: Any) -> bool:
    if isinstance(tree, float):
        return not math.isfinite(tree)
    if isinstance(tree, Mapping):
        return any(map(_has_non_finite, tree.values()))
    return isinstance(tree, list | tuple | set | frozenset) and any(map(_has_non_finite, tree))


def type_name(annotation: Any) -> str:
    """An annotation as one would write it."""
    if annotation is Any:
        return "Any"
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def type_hints(function: Callable[..., Any], caller_locals: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations of a function with names resolved: in its module, then among the locals where it was decorated."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:
        pass
    try:
        return typing.get_type_hints(function, localns=dict(caller_locals), include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"{function.__qualname__}: the annotations name {error.name!r}, which is not defined here. "
            "Import it at run time (not only under TYPE_CHECKING) and define it before the function"
        ) from error


def caller_locals(depth: int) -> Mapping[str, Any]:
    """Locals of the frame `depth` above the caller's own: where a decorator stands."""
    return sys._getframe(depth + 1).f_locals


def first_faults(error: ValidationError) -> str:
    """The first three faults of a validation, each with its place, in one line."""
    lines = []
    for fault in error.errors(include_url=False)[:3]:
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"])
        lines.append(f"{place.lstrip('.')}: {fault['msg']}" if place else fault["msg"])
    more = error.error_count() - 3
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


def _closed(schema: Any) -> Any:
    """The schema with every object that lists its properties closed to others."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {}
    for key, value in schema.items():
        if key in ("const", "enum", "default", "examples"):
            closed[key] = value
        elif key in ("properties", "$defs"):
            closed[key] = {name: _closed(sub) for name, sub in value.items()}
        else:
            closed[key] = _closed(value)
    if closed.get("type") == "object" and "properties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _bare(annotation: Any) -> Any:
    """Without `Annotated`, `NewType`, type aliases and `| None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            arms = [arm for arm in get_args(annotation) if arm is not type(None)]
            if len(arms) != 1:
                return Any
            annotation = arms[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        else:
            return annotation


_LEAVES = (str, bytes, bool, int, float, Enum, type(None))


def _part(annotation: Any, key: str | int) -> tuple[str | int, Any]:
    bare = _bare(annotation)
    origin = get_origin(bare) or bare
    arguments = get_args(bare)
    fields = _fields(origin)
    if fields is not None and not (isinstance(key, int) and issubclass(origin, tuple)):
        if not isinstance(key, str) or key not in fields:
            known = ", ".join(fields) or "none"
            raise TypeError(f"{type_name(bare)} has no field {key!r}; its fields are: {known}")
        return fields[key]
    if origin is Literal or (isinstance(origin, type) and issubclass(origin, _LEAVES)):
        raise TypeError(
            f"{type_name(bare)} has no parts to take {key!r} from: `await` the Var first, then use its value"
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return key, (arguments[1] if len(arguments) == 2 else Any)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(key, int):
            raise TypeError(f"{type_name(bare)} has no field {key!r}: it takes an index, or `await` the Var first")
        return key, _item(origin, arguments, key)
    return key, Any


def _item(origin: type, arguments: tuple[Any, ...], index: int) -> Any:
    if not issubclass(origin, tuple):
        return arguments[0] if arguments else Any
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    if arguments and not -len(arguments) <= index < len(arguments):
        raise TypeError(f"index {index} is beyond the {len(arguments)} items of {origin.__name__}")
    return arguments[index] if arguments else Any


def _fields(origin: Any) -> dict[str, tuple[str | int, Any]] | None:
    """Field name → (key in the JSON form, annotation), for types that have fields."""
    if not isinstance(origin, type):
        return None
    if issubclass(origin, BaseModel):
        return {
            name: (field.serialization_alias or field.alias or name, field.rebuild_annotation())
            for name, field in origin.model_fields.items()
        }
    if dataclasses.is_dataclass(origin):
        hints = _class_hints(origin)
        return {field.name: (field.name, hints.get(field.name, Any)) for field in dataclasses.fields(origin)}
    if issubclass(origin, dict) and hasattr(origin, "__total__"):  # a TypedDict of `typing` or `typing_extensions`
        hints = _class_hints(origin)
        return {name: (name, _required(hints.get(name, Any))) for name in origin.__annotations__}
    if issubclass(origin, tuple) and hasattr(origin, "_fields"):
        hints = _class_hints(origin)
        return {name: (place, hints.get(name, Any)) for place, name in enumerate(origin._fields)}
    return None


def _class_hints(owner: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except NameError:  # a class of some function's scope: the field exists, its type cannot be told here
        return {}


def _required(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) in (typing.Required, typing.NotRequired) else annotation
