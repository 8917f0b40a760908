"""Errors as OpenAI's clients read them. Owns their shape; which fault it is was decided elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from tenuto.wire import ErrorValue, FieldError

ROUTES = ("/v1/chat/completions", "/v1/responses")
"""Answers of these routes, and of those below them, have this shape."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_OF_THE_REQUEST = frozenset(
    [
        *("prompt_too_large", "prompt_too_long", "invalid_request", "invalid_grammar", "unknown_adapter"),
        *("constraint_unsupported", "logprobs_unsupported", "path_missing"),
    ]
)
_TOLD_BY_ENGINES = frozenset({"logit_bias"})
_LATER = frozenset({"engine_not_ready", "model_load_error", "no_engine", "engine_lost", "queue_full"})


class GenerationFailed(Exception):
    """A call of the request has no answer; `error` says why."""

    def __init__(self, error: ErrorValue) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def status(self) -> int:
        """The HTTP status: what is wrong with the request is 400, what may pass 503, everything else 500."""
        if self.error.type in _OF_THE_REQUEST:
            return 400
        return 503 if self.error.type in _LATER else 500

    @property
    def param(self) -> str | None:
        """The field at fault, where the engine's message begins with it."""
        word = self.error.message.partition(" ")[0]
        return word if self.error.type == "invalid_request" and word in _TOLD_BY_ENGINES else None

    def response(self) -> Response:
        """The error before anything was sent."""
        return error_response(self.status, self.error.type, self.error.message, self.param)

    def body(self) -> dict[str, Any]:
        """The error as an event of a stream that has begun."""
        return error_body(self.status, self.error.type, self.error.message, self.param)


def speaks_openai(path: str) -> bool:
    """Whether a path's errors have OpenAI's shape."""
    return path in ROUTES or path.startswith("/v1/responses/")


def problem_as_openai(
    status: int, name: str, detail: str, errors: Sequence[FieldError], headers: Mapping[str, str] | None
) -> Response:
    """A problem document in OpenAI's words: an invalid body is 400 there, an unknown model 404."""
    pointer = errors[0].pointer if errors else ""
    code = name
    if status == 422:
        status = 400
    if name == "invalid_submission" and pointer.endswith("/model"):
        status, code, pointer = 404, "model_not_found", "/model"
    elif errors and "not permitted" in errors[0].message:
        code, detail = "unsupported_parameter", f"{_param(pointer)}: this server does not have it; {errors[0].fix}"
    return error_response(status, code, detail, _param(pointer), headers)


def error_response(
    status: int, code: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """`{"error": …}`. What may pass when it is tried again says so to the client."""
    retry = {"x-should-retry": "true"} if status in (429, 503) else {}
    body = orjson.dumps(error_body(status, code, message, param))
    return Response(body, status, {**retry, **(headers or {})}, media_type="application/json")


def error_body(status: int, code: str, message: str, param: str | None = None) -> dict[str, Any]:
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    if code in ("prompt_too_long", "prompt_too_large"):
        code = "context_length_exceeded"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _param(pointer: str) -> str | None:
    """`messages[0].content` of `/messages/0/content`."""
    if not pointer:
        return None
    steps = pointer[1:].replace("~1", "/").replace("~0", "~").split("/")
    return re.sub(r"\.(\[)", r"\1", ".".join(f"[{step}]" if step.isdecimal() else step for step in steps))
