"""Tools of an OpenAPI document: what is asked of whom, and what never is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.tools import CallFailure
from orchestrator.tools.openapi import HttpApi, HttpTools
from tenuto.wire import EffectClass
from tests.orchestrator.tools.hosts.support import ask

CITY = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/City"}}}}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "servers": [{"url": "http://8.8.8.8/v1"}],
    "paths": {
        "/cities/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "operationId": "city",
                "summary": "One city",
                "parameters": [
                    {"$ref": "#/components/parameters/fields"},
                    {"name": "x-lang", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {"200": CITY},
            },
            "put": {
                "operationId": "save city",
                "requestBody": {"required": True, **CITY},
                "responses": {"204": {}},
            },
        },
    },
    "components": {
        "parameters": {"fields": {"name": "fields", "in": "query", "schema": {"type": "array"}}},
        "schemas": {"City": {"type": "object", "properties": {"near": {"$ref": "#/components/schemas/City"}}}},
    },
}  # fmt: skip

Answer = Callable[[httpx.Request], httpx.Response]


async def api(tmp_path: Path, answer: Answer, document: dict[str, Any] = DOCUMENT, **options: Any) -> HttpTools:
    path = tmp_path / "api.json"
    path.write_text(json.dumps(document))
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer), headers={"authorization": "secret"})
    host = HttpTools(HttpApi("geo", path, **options), client)
    await host.start()
    return host


async def test_arguments_go_where_the_document_says(tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"near": {}}) if request.method == "GET" else httpx.Response(204)

    host = await api(tmp_path, answer)
    assert await ask(host, "city", name="São/Paulo?", fields=["a", 1], **{"x-lang": "pt\r\nx: 1"}) == {"near": {}}
    assert await ask(host, "save_city", name="x", body={"near": {}}) is None
    assert seen[0].url.raw_path == b"/v1/cities/S%C3%A3o%2FPaulo%3F?fields=a&fields=1"
    assert seen[0].headers["x-lang"] == "pt  x: 1"
    assert json.loads(seen[1].content) == {"near": {}} and seen[1].headers["idempotency-key"].startswith("p/c/")
    spec = host.specs["city"]
    assert spec.effect is EffectClass.READ and host.specs["save_city"].effect is EffectClass.EXCLUSIVE
    assert spec.returns["$ref"] == "#/$defs/City" and spec.parameters["required"] == ["name"]


@pytest.mark.parametrize(
    ("response", "type", "retryable"),
    [
        (httpx.Response(404, text="no such city"), "http_404", False),
        (httpx.Response(503), "http_503", True),
        (httpx.Response(200, text="{", headers={"content-type": "application/json"}), "result_invalid", False),
        (httpx.Response(200, text="x" * 2000), "result_too_large", False),
        (httpx.Response(302, headers={"location": "http://10.0.0.1/"}), "host_refused", False),
        (httpx.Response(302, headers={"location": "http://internal/"}), "host_refused", False),
        (httpx.Response(302, headers={"location": "file:///etc/passwd"}), "host_refused", False),
        (httpx.Response(302, headers={"location": "/v1/again"}), "http_redirects", False),
    ],
)
async def test_what_goes_wrong_has_a_name(tmp_path: Path, response: httpx.Response, type: str, retryable: bool) -> None:
    host = await api(tmp_path, lambda _: response, hosts=("10.0.0.1",), result_bytes=1000)
    with pytest.raises(CallFailure) as caught:
        await ask(host, "city", name="x")
    assert (caught.value.type, caught.value.retryable) == (type, retryable)


async def test_a_redirect_to_a_listed_host_is_followed_without_the_secrets_of_the_first(tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.host == "8.8.8.8":
            return httpx.Response(307, headers={"location": "http://1.1.1.1/x"})
        return httpx.Response(200, text="there")

    host = await api(tmp_path, answer, hosts=("1.1.1.1",))
    host._client.headers.pop("authorization")
    assert await ask(host, "city", name="x", **{"x-lang": "pt"}) == "there"
    assert "x-lang" in seen[0].headers and "x-lang" not in seen[1].headers


async def test_private_addresses_are_asked_only_if_the_settings_name_them(tmp_path: Path) -> None:
    document = {**DOCUMENT, "servers": [{"url": "http://127.0.0.1:9"}]}
    host = await api(tmp_path, lambda _: httpx.Response(200, text="in"), document)
    with pytest.raises(CallFailure, match="no public address"):
        await ask(host, "city", name="x")
    host = await api(tmp_path, lambda _: httpx.Response(200, text="in"), document, private=True)
    assert await ask(host, "city", name="x") == "in"


@pytest.mark.parametrize("document", [{}, {"servers": [{"url": "http://8.8.8.8"}]}, {"servers": [{"url": "/v1"}]}])
async def test_a_document_that_is_none_is_told_by_name(tmp_path: Path, document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="API 'geo'"):
        await api(tmp_path, lambda _: httpx.Response(200), document)
