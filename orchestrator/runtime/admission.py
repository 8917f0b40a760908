"""What may come in: is a submission or extension within the limits, and can it be run? Pure checks, located faults."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from dag.diagnostics import InvalidGraph, pointer
from orchestrator.errors import InvalidSubmission, TooLarge
from orchestrator.limits import Limits
from orchestrator.runtime.program import Growth
from orchestrator.runtime.services import Services
from orchestrator.tools.values import NotJson, encode_json
from tenuto.wire import FieldError, LLMCall


def check_size(body: bytes, limits: Limits) -> None:
    """Raises TooLarge if a request's JSON is larger than a server takes."""
    if len(body) > limits.submission_bytes:
        raise TooLarge(f"the request has {len(body)} bytes, the limit is {limits.submission_bytes} (submission_bytes)")


def check_numbers(body: bytes) -> None:
    """Raises InvalidSubmission if the request holds a NaN or an infinity, which JSON lacks."""
    if b"NaN" not in body and b"Infinity" not in body:  # most often inside a text: only a parse can tell
        return
    errors = [
        FieldError(
            pointer=pointer(*steps), message=f"{number} is no JSON number", fix="send null, or the number as text"
        )
        for steps, number in _not_finite(from_json(body))
    ]
    if errors:
        raise InvalidSubmission(_told(errors), errors=errors[:100])


def _not_finite(document: Any) -> Iterator[tuple[tuple[str | int, ...], float]]:
    """Every NaN and infinity of a JSON document, with the steps that lead to it."""
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while stack:
        steps, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(((*steps, key), part) for key, part in reversed(value.items()))
        elif isinstance(value, list):
            stack.extend(((*steps, index), part) for index, part in reversed(list(enumerate(value))))
        elif isinstance(value, float) and not math.isfinite(value):
            yield steps, value


def check_inputs(body: bytes, growth: Growth, limits: Limits, prefix: str) -> None:
    """Raises TooLarge if an input's value is larger than a variable may be."""
    if len(body) <= limits.value_bytes:
        return
    for name, given in growth.inputs.items():
        try:
            size = len(encode_json(given.value))
        except NotJson:
            continue  # dag tells it, with its place
        if size > limits.value_bytes:
            message = f"input {name!r} has {size} bytes of JSON, the limit is {limits.value_bytes} (value_bytes)"
            fix = "send a reference to the data, and let a tool read it"
            where = f"{prefix}{pointer('inputs', name, 'value')}"
            raise TooLarge(message, errors=[FieldError(pointer=where, message=message, fix=fix)])


def check_models(growth: Growth, services: Services, *, tenant: str, toolset: str | None, prefix: str) -> None:
    """Raises InvalidSubmission if an LLM call names a model that neither the server nor the toolset's workers serve."""
    errors: list[FieldError] = []
    for index, call in enumerate(growth.calls):
        if isinstance(call, LLMCall) and not services.serves(call.model, tenant=tenant, toolset=toolset):
            known = ", ".join(repr(name) for name in services.engines.models()) or "none"
            if call.model is None:
                message = f"call {call.id!r} names no model, and this server has no default one"
            else:
                message = f"no engine or connected worker serves model {call.model!r} of call {call.id!r}"
            fix = f"name one of the server's models ({known}), or register a worker that hosts it"
            errors.append(FieldError(pointer=f"{prefix}/calls/{index}/model", message=message, fix=fix))
    if errors:
        raise InvalidSubmission(_told(errors), errors=errors[:100])


def invalid_graph(fault: InvalidGraph, prefix: str) -> InvalidSubmission:
    """dag's diagnostics as the API reports them, with pointers into the request's body."""
    errors = [FieldError(pointer=prefix + d.pointer, message=d.message, fix=d.fix) for d in fault.diagnostics]
    return InvalidSubmission(_told(errors), errors=errors)


def _told(errors: Iterable[FieldError]) -> str:
    first, *rest = errors
    return first.message + (f" (and {len(rest)} more faults)" if rest else "")
