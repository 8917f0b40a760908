"""The description of the API: routes name wire types, and their schemas are made once, by pydantic.

Routes read bodies themselves, so FastAPI cannot know their types: `accepts`, `returns`, `streams` and `problems` say
them. In the document a type stands as a marker until `build` puts the reference to its schema there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from orchestrator.api.openai.chat_types import ChatCompletion, ChatRequest
from orchestrator.api.openai.responses_types import ResponseObject, ResponsesRequest
from orchestrator.api.views import Health, LeaseList, Readiness
from tenuto.wire import (
    BadHit,
    BadHitTaken,
    CacheBump,
    CacheBumped,
    CacheExplanation,
    CacheFlush,
    CacheFlushed,
    CacheStatsView,
    CacheTaken,
    EngineList,
    ExplainRequest,
    GraphExtension,
    ModelList,
    Page,
    Problem,
    ProgramSubmission,
    ProgramSummary,
    ProgramView,
    TaskResult,
    Timeline,
    ToolList,
    VariableView,
    WorkerInfo,
    WorkerRegistration,
    WorkflowDefinition,
    WorkflowList,
    WorkflowStart,
    WorkflowView,
)

Described: TypeAlias = dict[str, Any]
Responses: TypeAlias = dict[int | str, dict[str, Any]]

_INPUTS: tuple[type[BaseModel], ...] = (
    BadHit,
    ChatRequest,
    CacheBump,
    CacheFlush,
    ExplainRequest,
    GraphExtension,
    ProgramSubmission,
    ResponsesRequest,
    TaskResult,
    WorkerRegistration,
    WorkflowDefinition,
    WorkflowStart,
)
_OUTPUTS: tuple[type[BaseModel], ...] = (
    BadHitTaken,
    CacheBumped,
    CacheExplanation,
    CacheFlushed,
    CacheStatsView,
    CacheTaken,
    ChatCompletion,
    EngineList,
    LeaseList,
    Health,
    ModelList,
    Page[ProgramSummary],
    Problem,
    ProgramSummary,
    ProgramView,
    Readiness,
    ResponseObject,
    Timeline,
    ToolList,
    VariableView,
    WorkerInfo,
    WorkflowList,
    WorkflowView,
)

_TITLES = {
    400: "the body is not JSON",
    401: "no API key, or a wrong one",
    403: "the key does not allow it",
    404: "there is no such thing",
    409: "it conflicts with what is there",
    413: "larger than the server's limit",
    415: "the body is not declared as JSON",
    421: "a server without keys was called by a name that is not its own",
    422: "the request is not valid; `errors` locates what is wrong",
    429: "the server is full; `retry-after` says when to try again",
    500: "the server failed",
    503: "the server cannot do that now",
}
LINES = "application/x-ndjson"
_EVERYWHERE = (401, 421, 500)


def accepts(model: type[BaseModel], examples: Mapping[str, Any], *, many: bool = False) -> Described:
    """The body of a route: one `model`, or an array of them. Each example is one that the route takes."""
    schema = _marker(model, "validation")
    content = {
        "schema": {"type": "array", "items": schema} if many else schema,
        "examples": {name: {"summary": name, "value": value} for name, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def returns(
    model: type[BaseModel], status: int = 200, description: str = "done", also: tuple[str, ...] = ()
) -> Responses:
    """A JSON answer. `also`: media types that a parameter asks for instead."""
    content: dict[str, Any] = {"application/json": {"schema": _marker(model, "serialization")}}
    content |= {media: {} for media in also}
    return {status: {"description": description, "content": content}}


def streams(description: str, example: str) -> Responses:
    """An answer of server-sent events. Without a schema: OpenAPI's versions differ in whether it is of the stream or of
    one event."""
    content = {"text/event-stream": {"example": example}}
    return {200: {"description": description, "content": content}}


def accepts_lines(description: str) -> Described:
    """A body of JSON lines."""
    content = {LINES: {"schema": {"type": "string"}}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def lines(description: str) -> Responses:
    """An answer of JSON lines."""
    return {200: {"description": description, "content": {LINES: {"schema": {"type": "string"}}}}}


def problems(*statuses: int) -> Responses:
    """The errors of a route, and those that every route has."""
    schema = {"application/problem+json": {"schema": _marker(Problem, "serialization")}}
    return {status: {"description": _TITLES[status], "content": schema} for status in sorted({*statuses, *_EVERYWHERE})}


def openai_errors(*statuses: int) -> Responses:
    """The errors of a route whose clients are OpenAI's, and those that every route has."""
    content = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    return {status: {"description": _TITLES[status], "content": content} for status in {*statuses, *_EVERYWHERE}}


def build(app: FastAPI) -> Described:
    """The whole OpenAPI document of `app`."""
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in _INPUTS]
    models += [(model, "serialization") for model in _OUTPUTS]
    references, definitions = models_json_schema(models, ref_template="#/components/schemas/{model}")
    markers = {_marker(model, mode)["$ref"]: reference["$ref"] for (model, mode), reference in references.items()}
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    resolved = _resolve(document, markers)
    assert isinstance(resolved, dict)
    components = resolved.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **definitions["$defs"]}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    resolved["security"] = [{}, {"key": []}]
    return resolved


def _marker(model: type[Any], mode: JsonSchemaMode) -> dict[str, str]:
    return {"$ref": f"tenuto:{mode}:{model.__name__}"}


def _resolve(node: Any, markers: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith("tenuto:"):
            return {"$ref": markers[reference]}
        return {key: _resolve(value, markers) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve(item, markers) for item in node]
    return node
