"""A server in this process, and the smallest client that can do to it whatever a real one could."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlencode

from starlette.types import ASGIApp, Message

from engine.protocol import (
    Capabilities,
    EngineEvent,
    Estimate,
    FinishReason,
    GenerateRequest,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    PriorityKey,
    TokenChunk,
    Usage,
)
from orchestrator.app import Api, assemble, create_app
from orchestrator.clock import OrchestratorClock
from orchestrator.config import Settings
from orchestrator.virtual_time import VirtualClock, run_virtually


class EchoEngine:
    """Answers with the last message, word by word, one second each. Grammars are not looked at."""

    name = "echo"
    capabilities = Capabilities()
    model = ModelInfo("echo", context_tokens=1 << 20, vocab_size=256)

    def __init__(self, word_s: float = 1.0) -> None:
        self.word_s = word_s
        self.running: set[str] = set()
        self.served = 0

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        words = request.messages[-1].content.split(" ")
        self.running.add(request.id)
        self.served += 1
        try:
            for index, word in enumerate(words):
                if self.word_s:
                    await asyncio.sleep(self.word_s)
                yield TokenChunk(word if index == 0 else " " + word, (index,))
            usage = Usage(len(words), 0, len(words), 0.0, 0.0, self.word_s * len(words))
            yield TokenChunk("", (), FinishReason.STOP, usage)
        finally:
            self.running.discard(request.id)

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        return

    async def limit_running(self, limit: int) -> None:
        return

    async def retain(self, lease: Lease) -> LeaseGrant:
        return LeaseGrant(lease.id, 0, None, 0.0)

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return LeaseGrant(lease, 0, None, 0.0)

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        return

    async def demote(self, lease: str) -> LeaseGrant:
        return LeaseGrant(lease, 0, None, 0.0)

    async def prefetch(self, lease: str, within_s: float) -> None:
        return

    async def abort(self, request: str) -> None:
        return

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        return Estimate({}, 0.0, 0.0)

    async def events(self) -> AsyncIterator[EngineEvent]:
        return
        yield

    async def close(self) -> None:
        return


@dataclass
class Answer:
    """A response, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The body, which must be a problem document of this very answer."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        document: dict[str, Any] = self.json
        assert document["status"] == self.status
        assert document["instance"] == f"urn:tenuto:request:{self.headers['x-request-id']}"
        return document

    def pointers(self) -> list[str]:
        return [error["pointer"] for error in self.problem["errors"]]


@dataclass
class SSE:
    """One event as it came."""

    id: str | None
    event: str | None
    data: Any
    at_s: float


@dataclass
class Client:
    """Sends requests to an app in this process, and streams what comes back as it comes."""

    app: ASGIApp
    headers: dict[str, str] = field(default_factory=dict)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        chunks: list[bytes] | None = None,
    ) -> Answer:
        """One request. `body`: JSON to be, or bytes as they are; `chunks`: a body in pieces of unknown total size."""
        pieces, sent = _pieces(body, chunks), _headers(self.headers, headers, body, chunks)
        start: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async def send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            else:
                parts.append(message.get("body", b""))

        await self.app(_scope(method, path, query, sent), receive, send)
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], answered, b"".join(parts))

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.request("GET", path, query=query)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.request("POST", path, {} if body is None else body, headers=_dashed(headers))

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, Any] | None = None, **headers: str) -> AsyncIterator[Stream]:
        """An event stream, open until the block ends: then the client leaves."""
        scope = _scope("GET", path, query, _headers(self.headers, _dashed(headers), None, None))
        async with self._open(scope, b"") as stream:
            yield stream

    @asynccontextmanager
    async def posting(self, path: str, body: Any) -> AsyncIterator[Stream]:
        """A request whose answer is waited for until the block ends: then the client leaves."""
        scope = _scope("POST", path, None, _headers(self.headers, None, body, None))
        async with self._open(scope, json.dumps(body).encode()) as stream:
            yield stream

    @asynccontextmanager
    async def _open(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[Stream]:
        stream = Stream(body)
        serving = asyncio.create_task(self.app(scope, stream.receive, stream.send))  # type: ignore[arg-type]
        serving.add_done_callback(lambda _: stream.pieces.put_nowait(None))
        try:
            yield stream
        finally:
            stream.left.set()
            await serving


class Stream:
    """What arrives on an event stream."""

    def __init__(self, body: bytes = b"") -> None:
        self._body = body
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.left = asyncio.Event()
        self.pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.heartbeats = 0
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.left.is_set():
            raise OSError("the client is gone")
        if message["type"] == "http.response.start":
            self.status.set_result(message["status"])
        else:
            self.pieces.put_nowait(message["body"])

    async def __aiter__(self) -> AsyncIterator[SSE]:
        buffer = b""
        while (piece := await self.pieces.get()) is not None:
            buffer += piece
            while b"\n\n" in buffer:
                block, buffer = buffer.split(b"\n\n", 1)
                fields = dict(line.split(": ", 1) for line in block.decode().split("\n"))
                if "" in fields or block.startswith(b":"):
                    self.heartbeats += 1
                    continue
                at_s = asyncio.get_running_loop().time()
                yield SSE(fields.get("id"), fields.get("event"), json.loads(fields["data"]), at_s)


@dataclass
class Server:
    """One server in this process."""

    app: Api
    client: Client
    engine: EchoEngine


@asynccontextmanager
async def serving(
    *, settings: Settings | None = None, clock: OrchestratorClock | None = None, word_s: float = 1.0, model: bool = True
) -> AsyncIterator[Server]:
    """A server with an echo engine (or none), from the lifespan's start to its end."""
    engine = EchoEngine(word_s)
    make = partial(assemble, clock=clock or VirtualClock(), engines=[engine] if model else [], rng=Random(7))
    app = create_app(settings or Settings(), assemble=make)
    async with app.router.lifespan_context(app):
        yield Server(app, Client(app), engine)


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time, with the fixtures that it names."""
    import functools
    import inspect

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtually(test(*args, **kwargs))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    del run.__wrapped__  # pytest must not see a coroutine function
    return run


def one_call(text: str = "hello world", **call: Any) -> dict[str, Any]:
    """A program of one LLM call."""
    messages = [{"role": "user", "parts": [{"kind": "text", "text": text}]}]
    calls = [{"kind": "llm", "id": "answer", "messages": messages, **call}]
    return {"workflow": "test", "graph": {"calls": calls, "outputs": ["answer"]}}


def one_tool(toolset: str = "tools", **call: Any) -> dict[str, Any]:
    """A program of one function call of tool `add`."""
    arguments = {"a": {"kind": "literal", "value": 1}, "b": {"kind": "literal", "value": 2}}
    integer = {"kind": "json", "json_schema": {"type": "integer"}}
    calls = [{"kind": "function", "id": "sum", "tool": "add", "arguments": arguments, "type": integer, **call}]
    return {"workflow": "test", "graph": {"calls": calls, "outputs": ["sum"]}, "toolset": toolset}


def _scope(method: str, path: str, query: Mapping[str, Any] | None, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": urlencode(query or {}).encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


def _pieces(body: Any, chunks: list[bytes] | None) -> list[bytes]:
    if chunks is not None:
        return list(chunks)
    return [body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()]


def _headers(
    own: Mapping[str, str], given: Mapping[str, str] | None, body: Any, chunks: list[bytes] | None
) -> dict[str, str]:
    has_body = body is not None or chunks is not None
    return {**({"content-type": "application/json"} if has_body else {}), **own, **(given or {})}


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
