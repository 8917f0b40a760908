"""HTTP with manners: retries with backoff, problem documents as exceptions, event streams.

Owns one connection pool. Never knows what a route means.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from tenuto.errors import APIError, ConnectionLost, InvalidArgument, ProtocolMismatch, TenutoError, api_error
from tenuto.sse import ServerSentEvent, SSEParser
from tenuto.wire import Problem

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Failures before the server can have seen anything of the request."""

_BUSY = (429, 503)
_MAX_WAIT_S = 4.0
_MAX_RETRY_AFTER_S = 60.0

M = TypeVar("M", bound=BaseModel)

Sleep = Callable[[float], Awaitable[None]]


class Backoff:
    """Waits between attempts: 0.1 s doubling to 4 s, each scaled by a random factor in [0.5, 1)."""

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep
        self._failures = 0

    @property
    def failures(self) -> int:
        """Waits since the last `reset`."""
        return self._failures

    def reset(self) -> None:
        """Something succeeded: start from the shortest wait again."""
        self._failures = 0

    async def wait(self, at_least_s: float = 0.0) -> None:
        delay_s = min(_MAX_WAIT_S, 0.1 * 2.0**self._failures) * random.uniform(0.5, 1.0)
        self._failures += 1
        await self._sleep(max(delay_s, at_least_s))


class HTTP:
    """Requests to one server. `retries` counts attempts after the first; times are in seconds."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        retries: int,
        transport: httpx.AsyncBaseTransport | None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidArgument(f"{url!r} is no URL of a server: it begins with http:// or https://")
        self.url = url.rstrip("/")
        self.retries = retries
        self.sleep = sleep
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            # every running program holds a stream: a cap on connections would be a cap on programs
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            transport=transport,
        )

    async def start(self) -> None:
        await self._client.__aenter__()

    async def aclose(self) -> None:
        await self._client.aclose()

    def backoff(self) -> Backoff:
        return Backoff(self.sleep)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        resend: bool = True,
    ) -> httpx.Response:
        """A 2xx answer. Retries what may be sent again: after 429 and 503 as Retry-After says, after lost connections
        if nothing was sent or `resend`. Raises `APIError`, `ConnectionLost`."""
        given = dict(headers or {})
        if body is not None:
            given.setdefault("content-type", "application/json")
        backoff = self.backoff()
        while True:
            last = backoff.failures >= self.retries
            try:
                response = await self._client.request(
                    method,
                    path,
                    content=body.encode() if body is not None else None,
                    params={k: v for k, v in (params or {}).items() if v is not None},
                    headers=given,
                    timeout=httpx.Timeout(timeout_s or self._timeout_s, connect=10.0),
                )
            except httpx.TransportError as error:
                if last or not (resend or isinstance(error, NOT_SENT)):
                    raise self.lost(error) from error
                await backoff.wait()
                continue
            if response.is_success:
                return response
            fault = problem_of(response)
            may_retry = response.status_code in _BUSY or (response.status_code == 409 and fault.retryable)
            if last or not may_retry or (fault.retry_after_s or 0) > _MAX_RETRY_AFTER_S:
                raise fault
            await backoff.wait(fault.retry_after_s or 0.0)

    @asynccontextmanager
    async def stream(
        self, path: str, *, read_timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
        """An event stream, open until left. No retries. Raises `APIError`, `ConnectionLost` (also while it is read)."""
        timeout = httpx.Timeout(read_timeout_s, connect=10.0)
        given = {"accept": "text/event-stream", **(headers or {})}
        try:
            async with self._client.stream("GET", path, headers=given, timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    raise problem_of(response)
                yield self._events(response)
        except httpx.TransportError as error:
            raise self.lost(error) from error

    async def _events(self, response: httpx.Response) -> AsyncIterator[ServerSentEvent]:
        parser = SSEParser()
        async for chunk in response.aiter_bytes():
            for event in parser.feed(chunk):
                yield event

    def lost(self, error: Exception) -> ConnectionLost:
        """The connection's failure in our words."""
        reason = str(error) or type(error).__name__
        return ConnectionLost(f"{self.url} cannot be reached: {reason}")


def parsed(model: type[M], content: bytes | str) -> M:
    """What the server said, as a wire type. Raises `ProtocolMismatch`."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise mismatch(error) from error


def mismatch(error: ValidationError) -> ProtocolMismatch:
    """The validation's failure in our words."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    return ProtocolMismatch(
        f"the server's {error.title} is not understood: {place}: {fault['msg']}; "
        "do SDK and server have the same version?"
    )


def problem_of(response: httpx.Response) -> APIError:
    """The exception for an answer that is no success, also for one that is no problem document."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        problem = Problem(
            type="urn:tenuto:problem:http_error",
            title=response.reason_phrase or "HTTP error",
            status=response.status_code,
            detail=response.text[:500] or "no further information",
        )
    try:
        retry_after_s = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        retry_after_s = None
    return api_error(problem, retry_after_s)


def gone(error: TenutoError) -> bool:
    """Whether a stream that ended this way may be opened again: the connection broke, or the server is not up yet."""
    return isinstance(error, ConnectionLost) or (isinstance(error, APIError) and error.status in (502, 503, 504))
