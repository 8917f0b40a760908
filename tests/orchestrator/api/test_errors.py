"""Bad input over HTTP: each a problem document that names the field and the fix, and harms nothing else."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from orchestrator.config import Settings
from orchestrator.limits import Limits
from tests.orchestrator.api.support import one_call, serving, virtually


def with_calls(*calls: dict[str, Any], **graph: Any) -> dict[str, Any]:
    return {"workflow": "w", "graph": {"calls": list(calls), **graph}}


def llm(id: str, *parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"kind": "llm", "id": id, "messages": [{"role": "user", "parts": list(parts)}], **fields}


def text(value: str) -> dict[str, Any]:
    return {"kind": "text", "text": value}


def hole(variable: str) -> dict[str, Any]:
    return {"kind": "variable", "variable": variable}


SHAPES: list[tuple[str, Any, str, str, str]] = [
    ("missing field", {}, "/workflow", "required", "add the field"),
    ("unknown field", {"workflow": "w", "workfow": 1}, "/workfow", "not permitted", "did you mean 'workflow'?"),
    ("unknown nested", with_calls(llm("a", text("x"), smpling={})), "/graph/calls/0/smpling", "", "'sampling'"),
    ("a field of elsewhere", {"workflow": "w", "temperature": 1}, "/temperature", "not permitted", "remove it"),
    ("none like it here", with_calls(llm("a", text("x"), temperture=1)), "/graph/calls/0/temperture", "", "remove it"),
    ("a field of its kind", with_calls(llm("a", text("x"), argument={})), "/graph/calls/0/argument", "", "remove it"),
    ("nested", with_calls(llm("a", text("x"), cache={"tag": {}})), "/graph/calls/0/cache/tag", "", "mean 'tags'?"),
    ("one of two forms", with_calls(llm("a", text("x"), tool_choice={"n": 1})), "/graph/calls/0/tool_choice", "", ""),
    ("under a name", {"workflow": "w", "graph": {"inputs": {"q": {"vlaue": 1}}}}, "/graph/inputs/q/value", "", "add"),
    ("a field named like a kind", {"workflow": "w", "kind": "x", "x": 1}, "/kind", "not permitted", "remove it"),
    (
        "the same where there are kinds",
        {"workflow": "w", "objective": {"kind": "latency", "latency": 1}},
        "/objective/latency",
        "",
        "",
    ),
    ("bad name", {"workflow": "9 lives"}, "/workflow", "pattern", "matches"),
    ("bad key", {"workflow": "w", "graph": {"inputs": {"a b": {"value": 1}}}}, "/graph/inputs/a b", "pattern", ""),
    ("no kind", with_calls({"id": "a"}), "/graph/calls/0", "kind", "add the field 'kind'"),
    ("wrong kind", with_calls({"id": "a", "kind": "lm"}), "/graph/calls/0", "'lm'", "'function'"),
    (
        "a field named like its kind",
        with_calls(llm("a", {"kind": "text", "text": 5})),
        "/graph/calls/0/messages/0/parts/0/text",
        "string",
        "give a string",
    ),
    (
        "a missing field named like its kind",
        with_calls(llm("a", {"kind": "text"})),
        "/graph/calls/0/messages/0/parts/0/text",
        "required",
        "add",
    ),
    ("below", with_calls(llm("a", text("x"), sampling={"top_k": -1})), "/graph/calls/0/sampling/top_k", "", "least 0"),
    (
        "empty stop",
        with_calls(llm("a", text("x"), sampling={"stop": ["x", ""]})),
        "/graph/calls/0/sampling/stop/1",
        "",
        "least 1",
    ),
    ("enum", with_calls({"kind": "function", "id": "f", "tool": "t", "effect": 1}), "/graph/calls/0/effect", "", ""),
    ("a value error", {"workflow": "w", "objective": {"kind": "deadline"}}, "/objective", "deadline_s is given", ""),
    ("an escaped pointer", {"workflow": "w", "metadata": {"a/b~c": 5}}, "/metadata/a~1b~0c", "string", "give a string"),
    ("not an object", [1], "", "object", "give an object"),
]


@pytest.mark.parametrize(("body", "pointer", "message", "fix"), [s[1:] for s in SHAPES], ids=[s[0] for s in SHAPES])
@virtually
async def test_faults_of_shape_are_located(body: Any, pointer: str, message: str, fix: str) -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/programs", body)
        assert (answer.status, answer.problem["type"]) == (422, "urn:tenuto:problem:invalid_request")
        error = answer.problem["errors"][0]
        assert error["pointer"] == pointer
        assert message in error["message"]
        assert error["fix"] == fix if fix == "remove it" else fix in error["fix"]
        assert error["message"] in answer.problem["detail"]


CYCLE = with_calls(llm("a", hole("b")), llm("b", hole("a")))
GRAPHS: list[tuple[str, dict[str, Any], str, str]] = [
    ("cycle", CYCLE, "/graph/calls/", "circle"),
    ("unknown variable", with_calls(llm("a", hole("qestion"))), "/graph/calls/0/messages/0/parts/0", "qestion"),
    ("two producers", with_calls(llm("a", text("x")), llm("b", text("y"), output="a")), "/graph/calls/1", "'a'"),
    (
        "a value of the wrong type",
        {"workflow": "w", "graph": {"inputs": {"n": {"type": {"kind": "text"}, "value": 5}}}},
        "/graph/inputs/n",
        "",
    ),
    (
        "a schema that is none",
        with_calls(llm("a", text("x"), type={"kind": "json", "json_schema": {"type": "intger"}})),
        "/graph/calls/0/type",
        "intger",
    ),
    ("unknown output", {"workflow": "w", "graph": {"outputs": ["x"]}}, "/graph/outputs/0", "'x'"),
    ("unknown model", with_calls(llm("a", text("x"), model="gpt-17")), "/graph/calls/0/model", "gpt-17"),
]


@pytest.mark.parametrize(("body", "pointer", "message"), [g[1:] for g in GRAPHS], ids=[g[0] for g in GRAPHS])
@virtually
async def test_faults_of_the_graph_are_located_and_other_programs_run_on(
    body: dict[str, Any], pointer: str, message: str
) -> None:
    async with serving() as server:
        other = (await server.client.post("/v1/programs", one_call())).json["id"]
        answer = await server.client.post("/v1/programs", body)
        assert answer.status == 422, answer.body
        error = answer.problem["errors"][0]
        assert error["pointer"].startswith(pointer)
        assert message in error["message"]
        assert error["fix"]
        waited = await server.client.get(f"/v1/programs/{other}/variables/answer", wait=10)
        assert waited.json["value"] == "hello world"


@virtually
async def test_a_field_that_is_meant_is_one_of_the_place() -> None:
    async with serving() as server:
        message = {"role": "user", "content": "x", "tool_cals": []}
        bodies: list[tuple[str, Any, str]] = [
            ("/v1/programs", {"workflow": "w", "graph": {"inputs": {"q": {"value": 1, "vlaue": 1}}}}, "'value'"),
            ("/v1/workers", {"toolset": "t", "tools": [{"name": "a", "efect": "read"}]}, "'effect'"),
            ("/v1/workers/w/results", [{"task": "t", "eror": None}], "'error'"),
            ("/v1/chat/completions", {"model": "m", "messages": [message]}, "'tool_calls'"),
        ]
        for path, body, meant in bodies:
            answer = await server.client.post(path, body)
            assert f"did you mean {meant}?" in answer.body.decode(), path


@virtually
async def test_every_fault_is_told_up_to_a_bound() -> None:
    async with serving() as server:
        body = {"workflow": "w", "graph": {"calls": [{"kind": "llm"} for _ in range(500)]}}
        answer = await server.client.post("/v1/programs", body)
        assert len(answer.problem["errors"]) == 20
        assert "(and 999 more)" in answer.problem["detail"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{'a': 1}", b'{"workflow": "\xff"}', b'{"a": "\\ud800"}', b"[" * 100_000, b"nul"]
)
@virtually
async def test_what_is_not_json_is_400(body: bytes) -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/programs", body)
        assert (answer.status, answer.problem["type"]) == (400, "urn:tenuto:problem:malformed_json")
        assert answer.problem["errors"][0]["fix"]


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"-1E+0400", b"1" * 400 + b".0"])
@virtually
async def test_numbers_that_json_cannot_hold_are_refused(number: bytes) -> None:
    async with serving() as server:
        body = b'{"workflow":"w","graph":{"inputs":{"q":{"type":{"kind":"json"},"value":{"a/b":[0,' + number + b"]}}}}}"
        answer = await server.client.post("/v1/programs", body)
        assert (answer.status, answer.pointers()) == (422, ["/graph/inputs/q/value/a~1b/1"])


@virtually
async def test_text_that_only_looks_like_such_a_number_is_fine() -> None:
    async with serving() as server:
        value = {"note": "NaN and 1e999 in a string", "big": 10**30, "small": 1e-200, "digits": "1" * 400}
        inputs = {"q": {"type": {"kind": "json"}, "value": value}}
        body = {"workflow": "w", "graph": {"inputs": inputs, "outputs": ["q"]}}
        answer = await server.client.post("/v1/programs", body)
        assert answer.status == 201, answer.body
        read = await server.client.get(f"/v1/programs/{answer.json['id']}/variables/q")
        assert read.json["value"] == value


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
@virtually
async def test_another_media_type_is_415(media_type: str) -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/programs", one_call(), content_type=media_type)
        assert answer.status == 415
        assert "content-type: application/json" in answer.problem["detail"]
        good = await server.client.post("/v1/programs", one_call(), content_type="Application/JSON; charset=utf-8")
        assert good.status == 201


@virtually
async def test_a_body_is_bounded_while_it_arrives_and_before_it_is_parsed() -> None:
    async with serving(settings=Settings(limits=Limits(submission_bytes=1000))) as server:
        announced = await server.client.request("POST", "/v1/programs", b"", headers={"content-length": "1001"})
        assert announced.status == 413
        assert "limits.submission_bytes = 1,000" in announced.problem["detail"]
        assert "TENUTO_LIMITS__SUBMISSION_BYTES" in announced.problem["detail"]
        chunks = [b"x" * 400] * 5
        streamed = await server.client.request("POST", "/v1/programs", chunks=chunks)
        assert streamed.status == 413  # and not 400: nobody looked at what it says
        assert (await server.client.post("/v1/programs", one_call())).status == 201
        for path in ("/v1/programs/x/extend", "/v1/workers", "/v1/workers/x/results"):
            assert (await server.client.request("POST", path, chunks=[b"x" * 1001])).status == 413


@virtually
async def test_a_prompt_of_ten_megabytes_is_refused_with_the_limit_that_it_breaks() -> None:
    async with serving() as server:
        answer = await server.client.post("/v1/programs", one_call("x" * 10_000_000))
        assert answer.status in (413, 422)
        assert "4,194,304" in answer.problem["detail"] or "4194304" in answer.problem["detail"]
        assert len(answer.body) < 4000
        assert (await server.client.post("/v1/programs", one_call())).status == 201


@virtually
async def test_no_route_and_no_method() -> None:
    async with serving() as server:
        missing = await server.client.get("/v1/program")
        assert (missing.status, missing.problem["type"]) == (404, "urn:tenuto:problem:no_route")
        assert "GET /v1/program" in missing.problem["detail"]
        assert (await server.client.get("/v1/programs/")).status == 404
        wrong = await server.client.request("PUT", "/v1/programs")
        assert (wrong.status, wrong.problem["type"]) == (405, "urn:tenuto:problem:method_not_allowed")
        assert set(wrong.headers["allow"].split(", ")) == {"GET", "POST"}
        assert "GET" in wrong.problem["detail"]
        assert "POST" in wrong.problem["detail"]


@virtually
async def test_request_ids_are_taken_over_or_made() -> None:
    async with serving() as server:
        given = await server.client.request("GET", "/healthz", headers={"x-request-id": "abc-1.2_3"})
        assert given.headers["x-request-id"] == "abc-1.2_3"
        for bad in ("", "a b", "x" * 129, "é", 'a"b'):
            made = await server.client.request("GET", "/healthz", headers={"x-request-id": bad})
            assert made.headers["x-request-id"].startswith("req_")
        two = [(await server.client.get("/healthz")).headers["x-request-id"] for _ in range(2)]
        assert two[0] != two[1]


@virtually
async def _unforeseen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as server:

        def broken(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError("the secret of the house")

        monkeypatch.setattr(type(server.app.state.parts.runtime), "recall", broken)
        with caplog.at_level(logging.ERROR, logger="orchestrator.api.edge"):
            answer = await server.client.get("/v1/programs/x")
        assert (answer.status, answer.problem["type"]) == (500, "urn:tenuto:problem:internal_error")
        assert "secret" not in json.dumps(answer.json)
        request_id = answer.headers["x-request-id"]
        assert request_id in answer.problem["detail"]
        assert request_id in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert (await server.client.get("/healthz")).status == 200


def test_the_unforeseen_is_500_without_a_traceback_and_logged_with_its_id(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _unforeseen(monkeypatch, caplog)
