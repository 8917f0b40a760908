"""The description of the API is true: examples are taken, and no request finds an answer that is not in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.api import examples
from orchestrator.api.openai.errors import speaks_openai
from orchestrator.app import create_app
from orchestrator.caching.options import CacheOptions
from orchestrator.config import Settings
from orchestrator.virtual_time import VirtualTimeLoop
from tenuto.wire import Event, FunctionTask
from tests.orchestrator.api.support import Server, one_call, serving, virtually
from tests.orchestrator.api.test_workers import registered


@schemathesis.serializer("application/x-ndjson")
def _json_lines(_: Any, value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace")


DOCUMENT = create_app(Settings()).openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = {operation.ok().label: operation.ok() for operation in SCHEMA.get_all_operations()}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class House:
    """One server over all generated requests, in virtual time, with a program that has ended and a worker."""

    def __init__(self, runner: asyncio.Runner, server: Server, program: str, worker: str) -> None:
        self.runner, self.server = runner, server
        self.known = {"program": program, "name": "answer", "worker": worker}

    def send(self, case: Any, names: dict[str, Any]) -> httpx.Response:
        """Send a generated request; `names` replace path parameters."""
        case.path_parameters = {**(case.path_parameters or {}), **names}
        request = case.as_transport_kwargs(base_url="http://house")
        body = request.get("data")
        if "json" in request:
            body = json.dumps(request["json"]).encode()
        url = httpx.URL(request["url"])
        answer = self.runner.run(
            self.server.client.request(
                case.method,
                url.path,
                body if isinstance(body, bytes) or body is None else str(body).encode(),
                query=dict(request.get("params") or {}),
                headers={k: v for k, v in request["headers"].items() if k.lower() != "content-length"},
            )
        )
        sent = httpx.Request(case.method, url, params=urlencode(request.get("params") or {}))
        response = httpx.Response(answer.status, headers=answer.headers, content=answer.body, request=sent)
        response.elapsed = timedelta(0)  # the checks want one, whatever it is
        return response


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        stack = AsyncExitStack()

        async def build() -> House:
            caching = Settings(semantic_cache=CacheOptions(mode="exact"))
            server = await stack.enter_async_context(serving(settings=caching))
            program = (await server.client.post("/v1/programs", one_call())).json["id"]
            await server.client.get(f"/v1/programs/{program}/variables/answer", wait=10)
            return House(runner, server, program, await registered(server.client))

        yield runner.run(build())
        runner.run(stack.aclose())


CASES = [(label, GenerationMode.POSITIVE) for label in OPERATIONS] + [
    (label, GenerationMode.NEGATIVE) for label, op in OPERATIONS.items() if op.body or op.query or op.headers
]


@pytest.mark.parametrize(("label", "mode"), CASES, ids=lambda value: str(getattr(value, "value", value)))
def test_no_generated_request_finds_an_answer_outside_the_description(
    label: str, mode: GenerationMode, house: House
) -> None:
    operation = OPERATIONS[label]
    # A worker's stream ends only with the worker: here the worker is never there.
    names = [name for name in house.known if f"{{{name}}}" in label and "/tasks" not in label]

    @given(
        case=operation.as_strategy(generation_mode=mode),
        known=st.fixed_dictionaries({}, optional={name: st.just(house.known[name]) for name in names}),
    )
    @hypothesis_settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # shrinking such large documents takes minutes
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any, known: dict[str, str]) -> None:
        case.validate_response(house.send(case, known), checks=CHECKS)

    check()


@pytest.mark.parametrize("name", examples.SUBMISSIONS)
@virtually
async def test_examples_of_submissions_are_accepted(name: str) -> None:
    async with serving() as server:
        worker = await registered(server.client, examples.REGISTRATIONS["one tool"])
        async with server.client.stream(f"/v1/workers/{worker}/tasks") as stream:
            await stream.status
            answer = await server.client.post("/v1/programs", examples.SUBMISSIONS[name])
            assert answer.status == 201, answer.body


@virtually
async def test_examples_of_the_cache_are_accepted() -> None:
    async with serving(settings=Settings(semantic_cache=CacheOptions(mode="exact"))) as server:
        for route, given in (("explain", examples.EXPLAINS), ("bump", examples.BUMPS), ("flush", examples.FLUSHES)):
            for body in given.values():
                assert (await server.client.post(f"/v1/cache/{route}", body)).status == 200
        for body in examples.REPORTS.values():
            assert (await server.client.post("/v1/cache/report", body)).status == 404  # no such program here


@virtually
async def test_examples_of_openais_routes_are_accepted() -> None:
    async with serving() as server:
        for body in examples.CHATS.values():
            assert (await server.client.post("/v1/chat/completions", body)).status == 200
        for body in examples.RESPONSES.values():
            assert (await server.client.post("/v1/responses", body)).status == 200


@virtually
async def test_examples_of_workflows_are_accepted() -> None:
    async with serving() as server:
        for body in examples.WORKFLOWS.values():
            assert (await server.client.request("PUT", "/v1/workflows/greet", body)).status == 201
        for body in examples.STARTS.values():
            assert (await server.client.post("/v1/workflows/greet/programs", body)).status == 201


@virtually
async def test_examples_of_extensions_are_accepted() -> None:
    async with serving() as server:
        program = (await server.client.post("/v1/programs", examples.SUBMISSIONS["an open program"])).json["id"]
        for extension in examples.EXTENSIONS.values():
            answer = await server.client.post(f"/v1/programs/{program}/extend", extension)
            assert answer.status == 200, answer.body


@virtually
async def test_examples_of_workers_are_accepted() -> None:
    async with serving() as server:
        for registration in examples.REGISTRATIONS.values():
            worker = await registered(server.client, registration)
            for results in examples.RESULTS.values():
                answer = await server.client.post(f"/v1/workers/{worker}/results", results)
                assert answer.status == 204, answer.body


def test_examples_of_streams_are_what_streams_carry() -> None:
    event = examples.EVENT_STREAM.split("data: ")[1].split("\n")[0]
    assert Event.model_validate_json(event).seq == 1
    task = examples.TASK_STREAM.removeprefix("data: ").strip()
    assert FunctionTask.model_validate_json(task).tool == "population"


def test_every_body_has_examples_and_every_route_says_its_errors() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert {"401", "421", "500"} <= set(operation["responses"]), where
            if "requestBody" in operation:
                (body,) = operation["requestBody"]["content"].values()
                assert "examples" in body or operation["requestBody"]["description"], where
                refusals = {"413", "415"} | ({"400"} if "examples" in body else set())  # lines are no JSON
                refusals |= set() if speaks_openai(path) else {"422"}  # OpenAI says 400
                assert refusals <= set(operation["responses"]), where


def test_inputs_and_outputs_are_described_apart_where_they_differ() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert "workflow" in schemas["ProgramSubmission"]["required"]
    assert "objective" not in schemas["ProgramSubmission"]["required"]
    assert schemas["ProgramSubmission"]["additionalProperties"] is False
    assert '"tenuto:' not in json.dumps(DOCUMENT)


@virtually
async def test_the_description_is_served() -> None:
    async with serving() as server:
        answer = await server.client.get("/openapi.json")
        assert answer.status == 200
        assert answer.json == DOCUMENT
