"""Every error that leaves the API, as an RFC 9457 problem document.

Owns the mapping from exceptions to documents and the locating of faults in a request. Never shows a traceback.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from orchestrator.api.openai.errors import GenerationFailed, problem_as_openai, speaks_openai
from orchestrator.errors import RuntimeFault
from tenuto.wire import FieldError, Problem
from tenuto.wire.base import WireModel

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


def invalid_body(fault: ValidationError, document: JsonValue) -> InvalidRequest:
    """Why a body is refused, each fault with its pointer into the `document` and what to do about it."""
    return _invalid("body", fault.errors(include_url=False, include_input=False), document)


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
    return await _runtime_fault(request, _invalid("request", fault.errors(), None))


def _invalid(what: str, found: Sequence[ErrorDetails], document: JsonValue) -> InvalidRequest:
    errors = tuple(_located(error, document) for error in found[:MAX_FIELD_ERRORS])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return InvalidRequest(f"{errors[0].pointer or f'the {what}'}: {errors[0].message}{more}", errors=errors)


def _located(error: ErrorDetails, document: JsonValue) -> FieldError:
    message = error["msg"].removeprefix("Value error, ")
    return FieldError(pointer=_pointer(error["loc"], document), message=message, fix=_fix(error))


def _pointer(loc: Sequence[int | str], document: JsonValue) -> str:
    """RFC 6901 pointer of pydantic's `loc`, which has two kinds of steps that the document has not: the tag of a
    union's member (once, on arrival at an object with that `kind`) and the marks "[key]" of a bad key."""
    pointer, node, arrived = "", document, True
    for step in loc:
        kind = node.get("kind") if isinstance(node, dict) else None
        if arrived and isinstance(step, str) and step == kind:
            arrived = False
            continue
        if step == "[key]":
            continue
        pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
        node, arrived = _child(node, step), True
    return pointer


def _child(node: JsonValue, step: int | str) -> JsonValue:
    if isinstance(node, dict):
        return node.get(str(step))
    if isinstance(node, list) and isinstance(step, int) and step < len(node):
        return node[step]
    return None


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
    if error["type"] == "extra_forbidden":
        return _fix_of_unknown_field(str(error["loc"][-1]))
    template = _FIXES.get(error["type"], "correct the value as the message says")
    context: dict[str, Any] = error.get("ctx", {})
    return template.format_map(context)


def _fix_of_unknown_field(field: str) -> str:
    near = difflib.get_close_matches(field, _field_names(WireModel), n=1)
    return f"did you mean {near[0]!r}? If not, remove it" if near else "remove it"


def _field_names(model: type[WireModel]) -> set[str]:
    names = set(model.model_fields)
    for child in model.__subclasses__():
        names |= _field_names(child)
    return names
