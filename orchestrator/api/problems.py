"""Every error that leaves the API, as an RFC 9457 problem document.

Owns the mapping from exceptions to documents and the locating of faults in a request. Never shows a traceback.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from dag.diagnostics import pointer
from orchestrator.api.documents import child, fields_at, has
from orchestrator.api.openai.errors import GenerationFailed, problem_as_openai, speaks_openai
from orchestrator.errors import RuntimeFault
from tenuto.wire import FieldError, Problem

MAX_FIELD_ERRORS = 20
"""A document names this many faults; a body may have any number."""

_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")

PROBLEM_TYPE = "urn:tenuto:problem:"


class InvalidRequest(RuntimeFault):
    name = "invalid_request"
    status = 422
    title = "The request does not have the form that this route takes"


def invalid_header(name: str, message: str, fix: str) -> InvalidRequest:
    """What is raised where a header cannot be read."""
    error = FieldError(pointer=f"/header/{name}", message=message, fix=fix)
    return InvalidRequest(f"{name}: {message}", errors=(error,))


class MalformedJson(RuntimeFault):
    name = "malformed_json"
    status = 400
    title = "The body is not JSON"


class IncompleteBody(RuntimeFault):
    name = "incomplete_body"
    status = 400
    title = "The connection was closed before the body had arrived"


class UnsupportedMediaType(RuntimeFault):
    name = "unsupported_media_type"
    status = 415
    title = "The body is not declared as JSON"


class NotReady(RuntimeFault):
    name = "not_ready"
    status = 503
    title = "An engine is starting"
    retryable = True


class ModelNotServed(RuntimeFault):
    name = "model_load_error"
    status = 503
    title = "A model cannot be served"


def problem_response(
    request_id: str,
    *,
    name: str,
    status: int,
    title: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    retryable: bool = False,
    headers: Mapping[str, str] | None = None,
    path: str = "",
) -> Response:
    """The document as a response. `instance` names the request, as its header and the log do.

    On the routes of OpenAI's API (`path`) the same in the words of its clients.
    """
    if speaks_openai(path):
        return problem_as_openai(status, name, detail, errors, headers)
    problem = Problem(
        type=PROBLEM_TYPE + name,
        title=title,
        status=status,
        detail=detail,
        instance=f"urn:tenuto:request:{request_id}",
        errors=tuple(errors),
        retryable=retryable,
    )
    return Response(problem.model_dump_json(), status, dict(headers or {}), media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every exception of a route with a problem document (what nobody foresaw is the edge's part)."""
    app.add_exception_handler(RuntimeFault, _runtime_fault)
    app.add_exception_handler(GenerationFailed, _generation_failed)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)


def invalid_body(fault: ValidationError, document: JsonValue, adapter: TypeAdapter[Any]) -> InvalidRequest:
    """Why `adapter` refuses a body, each fault with its pointer into the `document` and what to do about it."""
    found = fault.errors(include_url=False, include_input=False)
    return _invalid("body", found, lambda error: _located(error, document, adapter))


def request_id(request: Request) -> str:
    """The request's id, as the edge gave it."""
    return str(request.scope.get("tenuto.request_id", "unknown"))


async def _runtime_fault(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, RuntimeFault)
    wait_s = fault.retry_after_s
    return problem_response(
        request_id(request),
        name=fault.name,
        status=fault.status,
        title=fault.title,
        detail=fault.detail,
        errors=fault.errors,
        retryable=fault.retryable,
        headers=None if wait_s is None else {"retry-after": str(max(1, math.ceil(wait_s)))},
        path=request.url.path,
    )


async def _generation_failed(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, GenerationFailed)
    return fault.response()


async def _http_exception(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, HTTPException)
    route = f"{request.method} {request.url.path}"
    headers = fault.headers
    if fault.status_code == 404:
        name, title, detail = "no_route", "No such route", f"there is no route {route}; /openapi.json lists them"
    elif fault.status_code == 405:
        allowed = ", ".join(_methods(request))
        name, title = "method_not_allowed", "Method not allowed"
        detail = f"{request.url.path} does not take {request.method}, only {allowed}"
        headers = {"allow": allowed}
    else:
        name, title, detail = "http_error", "The request was refused", str(fault.detail)
    return problem_response(
        request_id(request),
        name=name,
        status=fault.status_code,
        title=title,
        detail=detail,
        headers=headers,
        path=request.url.path,
    )


def _methods(request: Request) -> list[str]:
    """Methods that the request's path takes, over all routes: the router names those of the first match only."""
    return [method for method in _METHODS if _takes(request, method)]


def _takes(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


async def _invalid_parameters(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, RequestValidationError)
    return await _runtime_fault(request, _invalid("request", fault.errors(), _of_a_parameter))


def _invalid(what: str, found: Sequence[ErrorDetails], located: Callable[[ErrorDetails], FieldError]) -> InvalidRequest:
    errors = tuple(located(error) for error in found[:MAX_FIELD_ERRORS])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return InvalidRequest(f"{errors[0].pointer or f'the {what}'}: {errors[0].message}{more}", errors=errors)


def _of_a_parameter(error: ErrorDetails) -> FieldError:
    return FieldError(pointer=pointer(*error["loc"]), message=_message(error), fix=_fix(error))


def _located(error: ErrorDetails, document: JsonValue, adapter: TypeAdapter[Any]) -> FieldError:
    path = _path(error, document)
    if error["type"] == "extra_forbidden":
        *above, field = path
        fix = _fix_of_unknown_field(str(field), fields_at(adapter, document, above))
    else:
        fix = _fix(error)
    return FieldError(pointer=pointer(*path), message=_message(error), fix=fix)


def _message(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Value error, ")


def _path(error: ErrorDetails, document: JsonValue) -> list[str | int]:
    """Pydantic's `loc` without the steps that the document has not: the tag of a union's member (once, on arrival at an
    object with that `kind`), names of types, and the marks "[key]" of a bad key. A missing field is a step."""
    path: list[str | int] = []
    node, arrived = document, True
    for index, step in enumerate(error["loc"], start=1):
        kind = node.get("kind") if isinstance(node, dict) else None
        is_field = index == len(error["loc"]) and error["type"] in ("missing", "extra_forbidden")
        if arrived and isinstance(step, str) and step == kind and not is_field:
            arrived = False
            continue
        if not is_field and (step == "[key]" or not has(node, step)):
            continue
        path.append(step)
        node, arrived = child(node, step), True
    return path


_FIXES = {
    "missing": "add the field",
    "union_tag_not_found": "add the field {discriminator}",
    "union_tag_invalid": "give one of {expected_tags}",
    "literal_error": "give {expected}",
    "enum": "give {expected}",
    "string_pattern_mismatch": "give a name that matches {pattern}",
    "string_too_short": "give at least {min_length} character(s)",
    "string_too_long": "give at most {max_length} characters",
    "too_short": "give at least {min_length} item(s)",
    "too_long": "give at most {max_length} items",
    "greater_than": "give a number greater than {gt}",
    "greater_than_equal": "give a number of at least {ge}",
    "less_than": "give a number less than {lt}",
    "less_than_equal": "give a number of at most {le}",
    "finite_number": "give a finite number",
    "string_type": "give a string",
    "int_type": "give an integer",
    "int_parsing": "give an integer",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "dict_type": "give an object",
    "model_type": "give an object",
    "model_attributes_type": "give an object",
    "tuple_type": "give an array",
    "list_type": "give an array",
}


def _fix(error: ErrorDetails) -> str:
    template = _FIXES.get(error["type"], "correct the value as the message says")
    context: dict[str, Any] = error.get("ctx", {})
    return template.format_map(context)


def _fix_of_unknown_field(field: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(field, known, n=1)
    return f"did you mean {near[0]!r}? If not, remove it" if near else "remove it"
