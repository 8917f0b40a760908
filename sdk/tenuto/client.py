"""`AsyncClient`: every route of a server as a typed method, and the worker that runs this process's tools.

Owns the connection, the worker and the runs in progress. Never interprets a graph.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, Coroutine
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import httpx
from pydantic import BaseModel

from tenuto.cache import AsyncCache
from tenuto.context import current_client
from tenuto.doubles import guard_calls
from tenuto.errors import APIError, ConnectionLost, NoClient
from tenuto.http import HTTP, gone, parsed
from tenuto.wire import (
    TERMINAL_EVENTS,
    EngineList,
    EngineView,
    Event,
    GraphExtension,
    ModelList,
    ModelView,
    Page,
    ProgramStatus,
    ProgramSubmission,
    ProgramSummary,
    ProgramView,
    Timeline,
    ToolList,
    ToolView,
    VariableView,
    WorkflowDefinition,
    WorkflowList,
    WorkflowStart,
    WorkflowView,
)
from tenuto.worker import Worker

if TYPE_CHECKING:
    from tenuto.sync_client import Client

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:7878"
_SILENCE_S = 45.0
"""A stream that is silent for three heartbeats of the server is dead."""
_STREAM_RETRIES = 12


class AsyncClient:
    """A connection to a server, of one event loop.

    `url` and `api_key` default to `TENUTO_URL` and `TENUTO_API_KEY`. `timeout_s` bounds one request, `retries` counts
    attempts after the first. `toolset` names the workers that share this client's function calls: by default this
    client's own worker alone. `tool_concurrency` bounds the tool calls that run here at once, `tool_threads` those of
    sync tools. `debug` adds tracebacks to the errors of tools. `transport` replaces the network (tests).

    `async with` makes it the current client, which `workflow.arun` uses, and closes it at the end.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 5,
        toolset: str | None = None,
        tool_concurrency: int = 256,
        tool_threads: int = 64,
        debug: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url or os.environ.get("TENUTO_URL") or DEFAULT_URL
        self.toolset = toolset or f"process-{os.getpid()}-{secrets.token_hex(4)}"
        self.facade: AsyncClient | Client = self
        self._http = HTTP(
            self.url,
            api_key=api_key or os.environ.get("TENUTO_API_KEY"),
            timeout_s=timeout_s,
            retries=retries,
            transport=transport,
        )
        self._worker = Worker(
            self._http,
            self.toolset,
            concurrency=tool_concurrency,
            threads=tool_threads,
            debug=debug,
            client=lambda: self.facade,
        )
        self.cache = AsyncCache(self._http, self.open)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._before: list[AsyncClient | Client | None] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> Self:
        await self.open()
        self._before.append(current_client.get())
        current_client.set(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        current_client.set(self._before.pop())
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the runs that go on, take the worker away, close the connections. A second close is no error."""
        if self._closed:
            return
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.aclose()
        await self._http.aclose()

    async def open(self) -> None:
        """Open the connection in this event loop, once. Every request does so by itself."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise NoClient(f"{self!r} is closed")
        if self._loop is None:
            self._loop = loop
            await self._http.start()
        elif self._loop is not loop:
            raise NoClient(f"{self!r} belongs to another event loop: make one client in each loop")

    @property
    def worker(self) -> Worker:
        """Runs this process's tools for the server."""
        return self._worker

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run in the background until it ends or the client is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- programs -------------------------------------------------------------------------------

    async def submit(
        self,
        submission: ProgramSubmission,
        *,
        idempotency_key: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> ProgramSummary:
        """Start a program. Sent again after a lost connection it starts no second one: it carries a key of its own
        unless one is given."""
        guard_calls(submission.graph.calls, self.toolset)
        given = {**(headers or {}), "idempotency-key": idempotency_key or secrets.token_urlsafe(18)}
        return await self._send(ProgramSummary, "POST", "/v1/programs", submission, headers=given)

    async def extend(self, program: str, extension: GraphExtension) -> ProgramSummary:
        """Let an open program grow, or seal it. If the answer is lost, the program itself tells whether it grew."""
        guard_calls(extension.calls, self.toolset)
        path = f"/v1/programs/{program}/extend"
        try:
            return await self._send(ProgramSummary, "POST", path, extension, resend=False)
        except ConnectionLost:
            view = await self.program(program)
            if _has(view, extension):
                return ProgramSummary(**{name: getattr(view, name) for name in ProgramSummary.model_fields})
            return await self._send(ProgramSummary, "POST", path, extension, resend=False)

    async def program(self, program: str) -> ProgramView:
        """The program with its calls and outputs as they are now."""
        return await self._get(ProgramView, f"/v1/programs/{program}")

    async def programs(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        status: ProgramStatus | None = None,
        workflow: str | None = None,
    ) -> Page[ProgramSummary]:
        """A page of programs, newest first. `after`: `last_id` of the page before."""
        params = {"limit": limit, "after": after, "order": order, "status": status, "workflow": workflow}
        return await self._get(Page[ProgramSummary], "/v1/programs", params=params)

    async def timeline(self, program: str) -> Timeline:
        """Every call's seconds by cause, and the critical path."""
        return await self._get(Timeline, f"/v1/programs/{program}/timeline")

    async def variable(self, program: str, name: str, *, wait_s: float = 0.0, pointer: str = "") -> VariableView:
        """A variable, answered when it is written or failed, or after `wait_s` seconds as it is then. `pointer`
        (RFC 6901): with that part of its value alone."""
        path = f"/v1/programs/{program}/variables/{name}"
        params = {"wait": wait_s or None, "pointer": pointer or None}
        return await self._get(VariableView, path, params=params, timeout_s=wait_s + 30.0)

    async def cancel(self, program: str) -> ProgramSummary:
        """Stop the program's calls and start no more. A program that has ended stays as it is."""
        return await self._send(ProgramSummary, "POST", f"/v1/programs/{program}/cancel", None)

    async def events(self, program: str, *, after: int = 0) -> AsyncGenerator[Event]:
        """The program's events after number `after`, to its end; connections that break are opened again where they
        stood. Raises `NotFound`, `ConnectionLost`."""
        await self.open()
        seen = after
        backoff = self._http.backoff()
        while True:
            try:
                headers = {"last-event-id": str(seen)} if seen else {}
                path = f"/v1/programs/{program}/events"
                async with self._http.stream(path, headers=headers, read_timeout_s=_SILENCE_S) as source:
                    async for message in source:
                        backoff.reset()
                        event = parsed(Event, message.data)
                        if event.seq > seen:
                            seen = event.seq
                            yield event
                        if event.kind in TERMINAL_EVENTS:
                            return
            except (ConnectionLost, APIError) as error:
                if not gone(error) or backoff.failures >= _STREAM_RETRIES:
                    raise
            if backoff.failures >= _STREAM_RETRIES:
                raise ConnectionLost(f"{self.url} keeps ending the events of program {program} before their end")
            await backoff.wait()

    # -- the server -----------------------------------------------------------------------------

    async def models(self) -> tuple[ModelView, ...]:
        """The models that calls may ask for, the default first."""
        return (await self._get(ModelList, "/v1/models")).data

    async def publish(self, name: str, definition: WorkflowDefinition) -> WorkflowView:
        """Let the server keep a workflow (`workflow.definition()`), to be started by its name."""
        return await self._send(WorkflowView, "PUT", f"/v1/workflows/{name}", definition)

    async def workflows(self) -> tuple[WorkflowView, ...]:
        """The workflows that the server keeps, by name."""
        return (await self._get(WorkflowList, "/v1/workflows")).data

    async def start(self, workflow: str, **inputs: Any) -> ProgramSummary:
        """Start a program of a workflow that the server keeps. Sent again after a lost connection it starts no second
        one."""
        headers = {"idempotency-key": secrets.token_urlsafe(18)}
        start = WorkflowStart(inputs=inputs)
        return await self._send(ProgramSummary, "POST", f"/v1/workflows/{workflow}/programs", start, headers=headers)

    async def engines(self) -> tuple[EngineView, ...]:
        """Every engine: whether it serves, why not, what it can do."""
        return (await self._get(EngineList, "/v1/engines")).data

    async def tools(self) -> tuple[ToolView, ...]:
        """The tools that connected workers offer."""
        return (await self._get(ToolList, "/v1/tools")).data

    async def ready(self) -> bool:
        """Whether the server can serve LLM calls now. Raises `ConnectionLost` if it is not there at all."""
        await self.open()
        try:
            await self._http.request("GET", "/readyz", timeout_s=10.0)
        except APIError as error:
            if error.status == 503:
                return False
            raise
        return True

    async def _get(
        self, model: type[M], path: str, *, params: dict[str, Any] | None = None, timeout_s: float | None = None
    ) -> M:
        await self.open()
        response = await self._http.request("GET", path, params=params, timeout_s=timeout_s)
        return parsed(model, response.content)

    async def _send(
        self,
        model: type[M],
        method: str,
        path: str,
        body: BaseModel | None,
        *,
        headers: dict[str, str] | None = None,
        resend: bool = True,
    ) -> M:
        await self.open()
        content = body.model_dump_json() if body is not None else None
        response = await self._http.request(method, path, body=content, headers=headers, resend=resend)
        return parsed(model, response.content)


def _has(view: ProgramView, extension: GraphExtension) -> bool:
    """Whether the program already is what the extension makes of it."""
    calls = {call.id for call in view.call_views}
    return (
        all(call.id in calls for call in extension.calls)
        and all(name in view.outputs for name in extension.outputs)
        and not (extension.seal and view.open)
    )
