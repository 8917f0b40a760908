"""Tools from an OpenAPI 3 document: each operation a tool, called over HTTP.

Owns what is asked of whom: only hosts on the list, only addresses that may be reached, answers of bounded size. Follows
a redirect only to a listed host, and never to a private address that the settings did not name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import JsonValue

from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.runs import ToolRun
from tenuto.wire import EffectClass, ToolSpec

_METHODS = ("get", "head", "put", "post", "delete", "patch")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.\-]+")
_HOLE = re.compile(r"\{([^}]+)\}")
_MOST_REDIRECTS = 5
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class HttpApi:
    """One API. `document`: its OpenAPI document, as a file. `url`: where it is; else the document's first server.

    `hosts` may be asked, beside the host of `url`; `private` allows addresses that are not public, for APIs inside.
    `effects` says what operations do, by name; GET and HEAD are reads unless it says otherwise.
    """

    name: str
    document: Path
    url: str | None = None
    hosts: tuple[str, ...] = ()
    private: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    effects: Mapping[str, EffectClass] = field(default_factory=dict)
    timeout_s: float = 30.0
    max_running: int | None = 32
    result_bytes: int = 8 * 2**20


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    path: str
    places: Mapping[str, str]  # argument -> path, query, header; the body is `body`
    spec: ToolSpec


class HttpTools:
    """Satisfies `ToolHost` for one API. `client` is replaced in tests."""

    def __init__(self, api: HttpApi, client: httpx.AsyncClient | None = None) -> None:
        self._api = api
        self._client = client or httpx.AsyncClient(timeout=None, trust_env=False, headers=dict(api.headers))
        self._operations: dict[str, _Operation] = {}
        self._base = httpx.URL("http://unset")
        self._hosts: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        return f"http:{self._api.name}"

    @property
    def max_running(self) -> int | None:
        return self._api.max_running

    @property
    def specs(self) -> Mapping[str, ToolSpec]:
        return {name: operation.spec for name, operation in self._operations.items()}

    async def start(self) -> None:
        api = self._api
        try:
            document = json.loads(await asyncio.to_thread(api.document.read_text))
        except (OSError, ValueError) as error:
            raise ValueError(f"API {api.name!r}: {api.document} is no OpenAPI document in JSON: {error}") from error
        servers = document.get("servers") or [{}]
        url = api.url or servers[0].get("url", "")
        self._base = httpx.URL(url)
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise ValueError(f"API {api.name!r}: {url!r} is no http(s) address: give one as url")
        self._hosts = frozenset({self._base.host, *api.hosts})
        self._operations = operations_of(document, api)
        if not self._operations:
            raise ValueError(f"API {api.name!r}: {api.document} has no operations")

    async def close(self) -> None:
        await self._client.aclose()

    async def run(self, run: ToolRun, spec: ToolSpec) -> JsonValue:
        operation = self._operations[run.tool]
        request = self._request(operation, run)
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                pinned = await self._pinned(request)
                response = await self._client.send(pinned, stream=True, follow_redirects=False)
                try:
                    if response.is_redirect:
                        request = self._redirected(request, response)
                        continue
                    return self._result(run.tool, response, await self._body(response))
                finally:
                    await response.aclose()
        except httpx.TransportError as error:
            lost = not isinstance(error, httpx.ConnectError)
            message = f"API {self._api.name!r}: {type(error).__name__}: {error}"
            raise CallFailure("http_unreachable", message, retryable=not lost, lost=lost) from error
        raise CallFailure("http_redirects", f"API {self._api.name!r} redirects more than {_MOST_REDIRECTS} times")

    # -- requests -------------------------------------------------------------------------------

    def _request(self, operation: _Operation, run: ToolRun) -> httpx.Request:
        query: list[tuple[str, str | int | float | bool | None]] = []
        headers: dict[str, str] = {}
        body: Any = None
        path = operation.path
        for name, value in run.arguments.items():
            place = operation.places.get(name)
            if place == "path":
                path = path.replace("{" + name + "}", quote(_text(value), safe=""))
            elif place == "query":
                items = value if isinstance(value, list) else [value]
                query.extend((name, _text(item)) for item in items)
            elif place == "header":
                headers[name] = _text(value).replace("\r", " ").replace("\n", " ")
            elif place == "body":
                body = value
            else:
                raise CallFailure("arguments_invalid", f"tool {run.tool!r} has no argument {name!r}")
        missing = _HOLE.search(path)
        if missing:
            raise CallFailure("arguments_invalid", f"tool {run.tool!r} lacks the argument {missing[1]!r}")
        if operation.method not in ("get", "head"):
            headers["idempotency-key"] = run.idempotency_key
        if run.traceparent is not None:
            headers["traceparent"] = run.traceparent
        url = self._base.copy_with(raw_path=self._base.raw_path.rstrip(b"/") + path.encode())
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        if content is not None:
            headers["content-type"] = "application/json"
        return self._client.build_request(
            operation.method.upper(), url, params=query or None, headers=headers, content=content
        )

    async def _pinned(self, request: httpx.Request) -> httpx.Request:
        """The request to an address that may be reached. The name is looked up once and the address used, so that a
        second answer of the name server cannot lead elsewhere. Raises CallFailure."""
        host = request.url.host
        if host not in self._hosts:
            raise CallFailure("host_refused", f"host {host!r} is not on the list of API {self._api.name!r}")
        if self._api.private and host == self._base.host:
            return request
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, request.url.port or 443, type=socket.SOCK_STREAM)
        except OSError as error:
            raise CallFailure("http_unreachable", f"host {host!r} is unknown: {error}", retryable=True) from error
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            if not ipaddress.ip_address(address.partition("%")[0]).is_global:
                message = f"host {host!r} of API {self._api.name!r} is at {address}, which is no public address"
                raise CallFailure("host_refused", message)
        pinned = self._client.build_request(
            request.method,
            request.url.copy_with(host=addresses[0]),
            headers=request.headers,
            content=request.content,
            extensions={**request.extensions, "sni_hostname": host},
        )
        pinned.headers["host"] = request.headers["host"]
        return pinned

    def _redirected(self, request: httpx.Request, response: httpx.Response) -> httpx.Request:
        """The request that a redirect asks for. Secrets stay with the host that they were meant for."""
        target = request.url.join(response.headers.get("location", ""))
        if target.scheme not in ("http", "https") or (request.url.scheme == "https" and target.scheme != "https"):
            raise CallFailure("host_refused", f"API {self._api.name!r} redirects to {target.scheme!r}")
        keeps = response.status_code in (307, 308) or request.method in ("GET", "HEAD")
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in ("host", "content-length") and (target.host == request.url.host or name == "accept")
        }
        return self._client.build_request(
            request.method if keeps else "GET", target, headers=headers, content=request.content if keeps else None
        )

    # -- answers --------------------------------------------------------------------------------

    async def _body(self, response: httpx.Response) -> bytes:
        most = self._api.result_bytes
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > most:
                message = f"API {self._api.name!r} answers with more than {most} bytes"
                raise CallFailure(FailureType.RESULT_TOO_LARGE, message)
        return bytes(body)

    def _result(self, tool: str, response: httpx.Response, body: bytes) -> JsonValue:
        text = body.decode(response.encoding or "utf-8", "replace")
        status = response.status_code
        if status >= 400:
            message = f"tool {tool!r}: HTTP {status} {response.reason_phrase}: {text[:1000]}"
            raise CallFailure(f"http_{status}", message, retryable=status in _RETRYABLE)
        if not body:
            return None
        if "json" in response.headers.get("content-type", ""):
            try:
                value: JsonValue = json.loads(text)
                return value
            except (ValueError, RecursionError) as error:
                raise CallFailure(FailureType.RESULT_INVALID, f"tool {tool!r} answers no JSON: {error}") from error
        return text


def operations_of(document: Mapping[str, Any], api: HttpApi) -> dict[str, _Operation]:
    """The operations of a document by tool name. Raises ValueError where it is not as OpenAPI says."""
    found: dict[str, _Operation] = {}
    try:
        for path, item in document.get("paths", {}).items():
            for method in _METHODS:
                if method in item:
                    operation = _operation(document, api, path, method, item)
                    if operation.spec.name in found:
                        raise ValueError(f"two operations are named {operation.spec.name!r}")
                    found[operation.spec.name] = operation
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"API {api.name!r}: the document is not as OpenAPI 3 says: {error}") from error
    return found


def _operation(
    document: Mapping[str, Any], api: HttpApi, path: str, method: str, item: Mapping[str, Any]
) -> _Operation:
    described = item[method]
    own = described.get("operationId") or f"{method}_{path}"
    name = _FOREIGN.sub("_", api.prefix + own).strip("_")
    properties: dict[str, Any] = {}
    required: list[str] = []
    places: dict[str, str] = {}
    for given in (*item.get("parameters", ()), *described.get("parameters", ())):
        parameter = _followed(document, given)
        if parameter["in"] == "cookie":
            continue
        properties[parameter["name"]] = {**parameter.get("schema", {})}
        if "description" in parameter:
            properties[parameter["name"]]["description"] = parameter["description"]
        places[parameter["name"]] = parameter["in"]
        if parameter.get("required") and parameter["name"] not in required:
            required.append(parameter["name"])
    body = _followed(document, described.get("requestBody", {}))
    schema = _json_schema(body.get("content", {}))
    if body:
        if "body" in properties:
            raise ValueError(f"operation {own!r} has a parameter named 'body' and a body")
        properties["body"], places["body"] = schema, "body"
        if body.get("required"):
            required.append("body")
    parameters = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    effect = api.effects.get(own, EffectClass.READ if method in ("get", "head") else EffectClass.EXCLUSIVE)
    spec = ToolSpec(
        name=name,
        description=described.get("description") or described.get("summary") or "",
        parameters=_standalone(document, parameters),
        returns=_standalone(document, _returns(document, described)),
        effect=effect,
        idempotent=method in ("get", "head", "put", "delete"),
        timeout_s=api.timeout_s,
    )
    return _Operation(method, path, places, spec)


def _followed(document: Mapping[str, Any], item: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` of parameters or bodies leads to."""
    while "$ref" in item:
        target: Any = document
        for step in item["$ref"].removeprefix("#/").split("/"):
            target = target[step.replace("~1", "/").replace("~0", "~")]
        item = target
    return item


def _json_schema(content: Mapping[str, Any]) -> dict[str, Any]:
    for kind, described in content.items():
        if "json" in kind:
            return dict(described.get("schema", {}))
    return {}


def _returns(document: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the good answer, if there is one kind of it."""
    good = [code for code in described.get("responses", {}) if str(code).startswith("2")]
    return (
        _json_schema(_followed(document, described["responses"][good[0]]).get("content", {})) if len(good) == 1 else {}
    )


def _standalone(document: Mapping[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the document's components inside it, so that its references lead nowhere else."""
    text = json.dumps(schema)
    if "#/components/schemas/" not in text:
        return schema
    components = json.dumps(document.get("components", {}).get("schemas", {}))
    moved: dict[str, Any] = json.loads(text.replace("#/components/schemas/", "#/$defs/"))
    moved["$defs"] = json.loads(components.replace("#/components/schemas/", "#/$defs/"))
    return moved


def _text(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
