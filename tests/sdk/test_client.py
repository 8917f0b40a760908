"""The client against a scripted server: retries, errors, streams that break."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tenuto import (
    AsyncClient,
    Busy,
    Conflict,
    ConnectionLost,
    NoClient,
    NotFound,
    RequestInvalid,
    ServerFault,
    TooLarge,
)
from tenuto.errors import APIError, InvalidArgument, ProtocolMismatch, Unauthorized
from tenuto.wire import Event, EventKind, GraphExtension, ProgramSubmission

SUMMARY = {
    "id": "p1",
    "workflow": "w",
    "tenant": "default",
    "status": "running",
    "accepted_at": 0.0,
    "seconds": 0.0,
    "calls": 0,
    "calls_ended": 0,
    "trace_id": "0" * 32,
}
VIEW = {
    **SUMMARY,
    "objective": {"kind": "latency"},
    "open": True,
    "metadata": {},
    "call_views": [],
    "outputs": {},
}

Step = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Script(httpx.AsyncBaseTransport):
    """Answers requests by the steps of a script and keeps them."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step(request) if callable(step) else step


def problem(status: int, name: str = "x", *, retryable: bool = False, **headers: str) -> httpx.Response:
    body = {
        "type": f"urn:tenuto:problem:{name}",
        "title": "A title",
        "status": status,
        "detail": "the detail",
        "errors": [{"pointer": "/graph/calls/0/id", "message": "taken", "fix": "rename it"}],
        "retryable": retryable,
    }
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json", **named})


def client_of(script: Script, **options: Any) -> tuple[AsyncClient, list[float]]:
    client = AsyncClient("http://s", transport=script, **options)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    client._http.sleep = sleep
    return client, waits


SUBMISSION = ProgramSubmission(workflow="w")


async def test_busy_answers_are_tried_again_when_the_server_says() -> None:
    script = Script(problem(429, retry_after="7"), problem(503), httpx.Response(201, json=SUMMARY))
    client, waits = client_of(script)
    assert (await client.submit(SUBMISSION)).id == "p1"
    assert waits[0] == 7.0 and 0 < waits[1] < 1
    keys = {request.headers["idempotency-key"] for request in script.requests}
    assert len(keys) == 1 and len(script.requests) == 3


async def test_patience_ends() -> None:
    client, waits = client_of(Script(*[problem(429, "busy", retryable=True)] * 3), retries=2)
    with pytest.raises(Busy) as busy:
        await client.submit(SUBMISSION)
    assert busy.value.name == "busy" and busy.value.retryable and len(waits) == 2
    client, waits = client_of(Script(problem(429, retry_after="3600")))
    with pytest.raises(Busy) as busy:
        await client.submit(SUBMISSION)
    assert busy.value.retry_after_s == 3600 and waits == []
    client, _ = client_of(Script(*[httpx.ConnectError("refused")] * 2), retries=1)
    with pytest.raises(ConnectionLost, match="http://s cannot be reached: refused"):
        await client.program("p1")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestInvalid),
        (401, Unauthorized),
        (404, NotFound),
        (409, Conflict),
        (413, TooLarge),
        (418, APIError),
        (422, RequestInvalid),
        (500, ServerFault),
    ],
)
async def test_problems_are_typed_exceptions_and_not_repeated(status: int, error: type[APIError]) -> None:
    client, waits = client_of(Script(problem(status)))
    with pytest.raises(error) as raised:
        await client.submit(SUBMISSION)
    assert type(raised.value) is error and waits == []
    assert raised.value.errors[0].pointer == "/graph/calls/0/id"
    assert str(raised.value) == f"A title ({status}): the detail\n  at /graph/calls/0/id: taken — rename it"


async def test_a_conflict_that_will_pass_is_waited_for() -> None:
    client, waits = client_of(Script(problem(409, retryable=True), httpx.Response(200, json=SUMMARY)))
    assert (await client.submit(SUBMISSION)).id == "p1" and len(waits) == 1


async def test_answers_that_are_no_problem_documents_are_told_too() -> None:
    client, _ = client_of(Script(httpx.Response(502, text="<h1>proxy</h1>")))
    with pytest.raises(ServerFault, match=r"Bad Gateway \(502\): <h1>proxy</h1>"):
        await client.program("p1")


async def test_keys_are_sent_as_bearer_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENUTO_API_KEY", "secret")
    monkeypatch.setenv("TENUTO_URL", "http://from-environment")
    script = Script(httpx.Response(200, json=VIEW))
    client = AsyncClient(transport=script)
    await client.program("p1")
    assert script.requests[0].headers["authorization"] == "Bearer secret"
    assert script.requests[0].url.host == "from-environment"


async def test_an_extension_is_never_applied_twice() -> None:
    extension = GraphExtension(seal=True)
    applied = {**VIEW, "open": False}
    script = Script(httpx.ReadError("cut"), httpx.Response(200, json=applied))
    client, _ = client_of(script)
    assert (await client.extend("p1", extension)).id == "p1"
    assert [request.method for request in script.requests] == ["POST", "GET"]
    script = Script(httpx.ReadError("cut"), httpx.Response(200, json=VIEW), httpx.Response(200, json=SUMMARY))
    client, _ = client_of(script)
    assert (await client.extend("p1", extension)).id == "p1"
    assert [request.method for request in script.requests] == ["POST", "GET", "POST"]


def event(seq: int, kind: EventKind) -> bytes:
    text = Event(seq=seq, at_s=0.0, kind=kind, call="c").model_dump_json(exclude_none=True)
    return f"id: {seq}\nevent: {kind}\ndata: {text}\n\n".encode()


class Body(httpx.AsyncByteStream):
    """Chunks, and then an end or an error."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


async def test_event_streams_that_break_go_on_where_they_stood() -> None:
    script = Script(
        httpx.Response(200, stream=Body(event(1, EventKind.PROGRAM_ACCEPTED), event(2, EventKind.CALL_READY)[:20])),
        httpx.Response(200, stream=Body(event(2, EventKind.CALL_READY), httpx.ReadError("cut"))),
        httpx.ConnectError("restarting"),
        problem(503),
        httpx.Response(200, stream=Body(event(2, EventKind.CALL_READY), event(3, EventKind.PROGRAM_SUCCEEDED))),
    )
    client, waits = client_of(script)
    assert [found.seq async for found in client.events("p1")] == [1, 2, 3]
    assert [request.headers.get("last-event-id") for request in script.requests] == [None, "1", "2", "2", "2"]
    assert len(waits) == 4


async def test_event_streams_give_up_in_the_end() -> None:
    client, waits = client_of(Script(*[httpx.ConnectError("refused")] * 20))
    with pytest.raises(ConnectionLost):
        [found async for found in client.events("p1")]
    assert len(waits) == 12
    client, _ = client_of(Script(*[httpx.Response(200, stream=Body()) for _ in range(20)]))
    with pytest.raises(ConnectionLost, match="keeps ending the events of program p1"):
        [found async for found in client.events("p1")]
    client, waits = client_of(Script(problem(404)))
    with pytest.raises(NotFound):
        [found async for found in client.events("p1")]
    assert waits == []


async def test_pages_and_waits_are_asked_for_in_the_query() -> None:
    page = {"data": [], "first_id": None, "last_id": None, "has_more": False}
    variable = {"name": "v", "type": {"kind": "text"}, "status": "empty"}
    script = Script(httpx.Response(200, json=page), httpx.Response(200, json=variable))
    client, _ = client_of(script)
    await client.programs(limit=5, after="p0", workflow="w")
    await client.variable("p1", "v", wait_s=2)
    assert dict(script.requests[0].url.params) == {"limit": "5", "after": "p0", "order": "desc", "workflow": "w"}
    assert dict(script.requests[1].url.params) == {"wait": "2"}


async def test_readiness_is_a_yes_or_no() -> None:
    client, _ = client_of(Script(httpx.Response(200, json={}), problem(503)), retries=0)
    assert await client.ready() is True
    assert await client.ready() is False
    client, _ = client_of(Script(httpx.ConnectError("x")), retries=0)
    with pytest.raises(ConnectionLost):
        await client.ready()


async def test_a_closed_client_says_so() -> None:
    client, _ = client_of(Script())
    await client.aclose()
    await client.aclose()
    with pytest.raises(NoClient, match="is closed"):
        await client.program("p1")


async def test_what_is_not_understood_is_told_as_such() -> None:
    client, _ = client_of(Script(httpx.Response(200, json={**VIEW, "novel": 1})))
    with pytest.raises(
        ProtocolMismatch, match=r"the server's ProgramView is not understood: novel: Extra inputs.*version"
    ):
        await client.program("p1")
    with pytest.raises(InvalidArgument, match=r"'localhost:7878' is no URL of a server"):
        AsyncClient("localhost:7878")


def test_a_client_belongs_to_one_event_loop() -> None:
    import asyncio

    client, _ = client_of(Script(httpx.Response(200, json=VIEW)))
    asyncio.run(client.program("p1"))
    with pytest.raises(NoClient, match="belongs to another event loop"):
        asyncio.run(client.program("p1"))


async def test_bodies_are_the_wires_json() -> None:
    script = Script(httpx.Response(201, json=SUMMARY))
    client, _ = client_of(script)
    await client.submit(SUBMISSION, idempotency_key="mine", headers={"traceparent": "00-x"})
    request = script.requests[0]
    assert ProgramSubmission.model_validate(json.loads(request.content)) == SUBMISSION
    assert (request.headers["idempotency-key"], request.headers["traceparent"]) == ("mine", "00-x")
