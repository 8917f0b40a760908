"""What counts as a value: JSON that is within the limit and satisfies its variable's type. Pure."""

from __future__ import annotations

import json
from typing import Any

import orjson
from pydantic import JsonValue
from pydantic_core import from_json

from dag.values import check_value
from orchestrator.tools.failures import CallFailure, FailureType
from tenuto.wire import TextType, ValueType

_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


class NotJson(ValueError):
    """The value has no JSON form: the message says why."""


def encode_json(value: Any) -> bytes:
    """Compact JSON of a value, as kept in the journal. Raises NotJson for NaN, infinities, lone surrogates, cycles,
    nesting deeper than the interpreter's stack, and types that JSON lacks."""
    kind = type(value)
    if kind is int:
        return b"%d" % value
    if kind is str:
        try:
            return orjson.dumps(value)
        except orjson.JSONEncodeError as error:
            raise NotJson(str(error)) from None
    try:
        # Not orjson: it turns NaN into null without a word and refuses integers beyond 64 bits.
        return _ENCODER.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None


def accept_result(type: ValueType, value: Any, limit_bytes: int) -> tuple[JsonValue, bytes]:
    """A tool's result and its JSON. Raises CallFailure `result_invalid` or `result_too_large`."""
    try:
        encoded = encode_json(value)
    except NotJson as error:
        raise CallFailure(FailureType.RESULT_INVALID, f"the tool's result is not JSON: {error}") from None
    if len(encoded) > limit_bytes:
        raise CallFailure(
            FailureType.RESULT_TOO_LARGE,
            f"the tool's result has {len(encoded)} bytes of JSON, the limit is {limit_bytes} (limits.value_bytes):"
            " return a reference to it instead",
        )
    fault = check_value(type, value)
    if fault is not None:
        raise CallFailure(FailureType.RESULT_INVALID, f"the tool's result does not satisfy the call's type: {fault}")
    return value, encoded


def accept_text(type: ValueType, text: str, *, cut: bool) -> tuple[JsonValue, bytes]:
    """A generation's value and its JSON. `cut`: it ended at max_tokens. Raises CallFailure `output_invalid`."""
    if isinstance(type, TextType):
        return text, _encode_output(text)
    hint = "; it was cut off at sampling.max_tokens" if cut else ""
    try:
        value: JsonValue = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _output_invalid(f"the generated text is not JSON: {error}{hint}") from None
    fault = check_value(type, value)
    if fault is not None:
        raise _output_invalid(f"the generated JSON does not satisfy its schema: {fault}")
    return value, _encode_output(value)


def _encode_output(value: JsonValue) -> bytes:
    try:
        return encode_json(value)
    except NotJson as error:
        raise _output_invalid(f"the generated text cannot be kept: {error}") from None


def _output_invalid(message: str) -> CallFailure:
    """Another seed may give another text."""
    return CallFailure(FailureType.OUTPUT_INVALID, message, retryable=True)
