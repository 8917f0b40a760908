"""The real server app in the test's own event loop, without an engine: LLM calls are answered by doubles."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from orchestrator.app import create_app
from orchestrator.config import Settings
from tenuto import AsyncClient
from tenuto.testing import ASGITransport

URL = "http://tenuto.test"


class Recorder(httpx.AsyncBaseTransport):
    """Passes requests on and keeps their methods, paths and bodies."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.inner = inner
        self.requests: list[tuple[str, str, bytes]] = []
        self.headers: list[tuple[str, httpx.Headers]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.method, request.url.path, await request.aread()))
        self.headers.append((request.url.path, request.headers))
        return await self.inner.handle_async_request(request)

    def sent(self, path_end: str) -> list[bytes]:
        """Bodies of the POST requests whose path ends so."""
        return [body for method, path, body in self.requests if method == "POST" and path.endswith(path_end)]

    def headers_of(self, path: str) -> httpx.Headers:
        """Headers of the first request to a path."""
        return next(headers for found, headers in self.headers if found == path)


@pytest.fixture
async def server() -> AsyncIterator[ASGITransport]:
    async with ASGITransport(create_app(Settings(model="none"))) as transport:
        yield transport


@pytest.fixture
async def wire(server: ASGITransport) -> Recorder:
    return Recorder(server)


@pytest.fixture
async def client(wire: Recorder) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(URL, transport=wire) as client:
        yield client
