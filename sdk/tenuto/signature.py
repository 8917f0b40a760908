"""The signature of a decorated function: its parameters and its result, each with its type.

Owns binding of arguments and the JSON Schema of the arguments object. Never calls the function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model

from tenuto.errors import DefinitionError, InvalidArgument
from tenuto.typed import MISSING, Typed, first_faults, type_hints

_REFUSED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Signature:
    """Parameters in order, by name; `result` is the return annotation. Raises `DefinitionError`."""

    def __init__(self, function: Callable[..., Any], name: str, locals_: Mapping[str, Any]) -> None:
        self.name = name
        self.signature = inspect.signature(function)
        hints = type_hints(function, locals_)
        self.parameters: dict[str, Typed] = {}
        for parameter in self.signature.parameters.values():
            if parameter.kind in _REFUSED:
                raise DefinitionError(
                    f"{name}: *{parameter.name} has no name of its own in a call: list the parameters"
                )
            annotation = hints.get(parameter.name, MISSING)
            self.parameters[parameter.name] = Typed(annotation, f"{name}({parameter.name})")
        self.result = Typed(hints.get("return", MISSING), name)
        self.declares_result = "return" in hints

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, defaults: bool) -> dict[str, Any]:
        """Arguments by name. Raises `InvalidArgument`, as Python would a `TypeError`."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"{self.name}: {error}; its signature is {self.name}{self.signature}") from None
        if defaults:
            bound.apply_defaults()
        return bound.arguments

    @cached_property
    def arguments_model(self) -> type[BaseModel]:
        """A model of the arguments object. Its fields have names of its own: a parameter may be called `schema`."""
        fields: dict[str, Any] = {}
        for index, (name, typed) in enumerate(self.parameters.items()):
            default = self.signature.parameters[name].default
            if default is inspect.Parameter.empty:
                field = Field(alias=name, title=name)
            else:
                field = Field(alias=name, title=name, default_factory=lambda: None)
            fields[f"p{index}"] = (typed.annotation, field)
        try:
            return create_model(self.name, __config__=ConfigDict(extra="forbid"), **fields)
        except PydanticUserError as error:
            raise DefinitionError(f"{self.name}: {str(error).partition(chr(10))[0]}") from error

    @cached_property
    def arguments_schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments object."""
        for typed in self.parameters.values():
            typed.schema("validation")  # its error names the parameter
        schema = self.arguments_model.model_json_schema()
        schema.pop("title", None)
        for prop in schema.get("properties", {}).values():
            prop.pop("title", None)
        return schema

    def load(self, arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments from a JSON object, validated. Raises `InvalidArgument`."""
        try:
            model = self.arguments_model.model_validate(arguments)
        except ValidationError as error:
            raise InvalidArgument(f"{self.name}: {first_faults(error)}") from error
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        given, values = model.model_fields_set, model.__dict__
        for field, name in self._fields:
            if field in given:
                if name is None:
                    args.append(values[field])
                else:
                    kwargs[name] = values[field]
        return args, kwargs

    @cached_property
    def _fields(self) -> tuple[tuple[str, str | None], ...]:
        """The field of each parameter in `arguments_model`, and its name, None if it is positional only."""
        positional = inspect.Parameter.POSITIONAL_ONLY
        return tuple(
            (f"p{index}", None if parameter.kind is positional else name)
            for index, (name, parameter) in enumerate(self.signature.parameters.items())
        )
