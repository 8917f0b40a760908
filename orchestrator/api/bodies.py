"""Reading request bodies: bounded while they arrive, parsed once, straight from the bytes into wire types."""

from __future__ import annotations

import math
import re
from typing import TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from orchestrator.api.problems import IncompleteBody, InvalidRequest, MalformedJson, UnsupportedMediaType, invalid_body
from orchestrator.errors import TooLarge
from tenuto.wire import FieldError

T = TypeVar("T")

_MAYBE_NOT_FINITE = re.compile(rb"NaN|Infinity|[eE]\+?0*[1-9][0-9]{2}|[0-9]{300}")


JSON, LINES = "application/json", "application/x-ndjson"


async def read(request: Request, limit_bytes: int, media: str = JSON) -> bytes:
    """The whole body. Raises a fault for another media type (415), and above `limit_bytes` (413) as soon as that is
    known."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != media:
        # This also keeps web pages out: browsers send these across origins only after asking, and nobody allows it.
        given = repr(media_type) if media_type else "not given"
        raise UnsupportedMediaType(f"the content-type is {given}: send the body with 'content-type: {media}'")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise IncompleteBody(f"{size} bytes had arrived") from None
    return b"".join(chunks)


async def read_lines(request: Request, limit_bytes: int) -> list[str]:
    """The lines of a body of JSON lines. Raises as `read`, and for what is not UTF-8."""
    body = await read(request, limit_bytes, LINES)
    try:
        return body.decode().splitlines()
    except UnicodeDecodeError as fault:
        error = FieldError(pointer="", message=str(fault), fix="send JSON lines, UTF-8 encoded")
        raise InvalidRequest(f"the body is not UTF-8: {fault}", errors=(error,)) from None


def parse(adapter: TypeAdapter[T], body: bytes) -> T:
    """The body as a wire type. Raises a fault that locates what is wrong with it."""
    try:
        value = adapter.validate_json(body)
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            message = str(first["ctx"]["error"])
            error = FieldError(pointer="", message=message, fix="send one JSON document, UTF-8 encoded")
            raise MalformedJson(message, errors=(error,)) from None
        raise invalid_body(fault, from_json(body), adapter) from None
    if _MAYBE_NOT_FINITE.search(body) is not None:
        _refuse_what_json_cannot_hold(body)
    return value


def _refuse_what_json_cannot_hold(body: bytes) -> None:
    """NaN and the infinities pass the parser but could never be sent back as JSON."""
    pointer = _not_finite(from_json(body), "")
    if pointer is not None:
        error = FieldError(pointer=pointer, message="the number is not finite", fix="give a finite number or null")
        raise InvalidRequest(f"{pointer}: JSON holds finite numbers only", errors=(error,))


def _not_finite(value: JsonValue, pointer: str) -> str | None:
    """Pointer of the first number that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else pointer
    children: list[tuple[str, JsonValue]] = []
    if isinstance(value, dict):
        children = [(key.replace("~", "~0").replace("/", "~1"), item) for key, item in value.items()]
    elif isinstance(value, list):
        children = [(str(index), item) for index, item in enumerate(value)]
    for step, item in children:
        found = _not_finite(item, f"{pointer}/{step}")
        if found is not None:
            return found
    return None


def _too_large(limit_bytes: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than limits.submission_bytes = {limit_bytes:,} bytes: send less at once, or start the "
        "server with a higher TENUTO_LIMITS__SUBMISSION_BYTES"
    )
