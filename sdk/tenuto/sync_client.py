"""`Client`: the blocking twin of `AsyncClient`, with an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal, Self, TypeVar

import httpx

from tenuto.cache import Cache
from tenuto.client import AsyncClient
from tenuto.context import current_client
from tenuto.portal import LoopThread
from tenuto.wire import (
    EngineView,
    Event,
    GraphExtension,
    ModelView,
    Page,
    ProgramStatus,
    ProgramSubmission,
    ProgramSummary,
    ProgramView,
    Timeline,
    ToolView,
    VariableView,
    WorkflowDefinition,
    WorkflowView,
)

T = TypeVar("T")


class Client:
    """A connection to a server for blocking code; any thread may use it. Parameters as those of `AsyncClient`.

    Workflows that it runs, and async tools, run in its own thread. `with` makes it the current client, which
    `workflow.run` uses, and closes it at the end.
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
        self._async = AsyncClient(
            url,
            api_key=api_key,
            timeout_s=timeout_s,
            retries=retries,
            toolset=toolset,
            tool_concurrency=tool_concurrency,
            tool_threads=tool_threads,
            debug=debug,
            transport=transport,
        )
        self._async.facade = self
        self._portal = LoopThread("tenuto-client")
        self.cache = Cache(self._async.cache, self.call)
        self._before: list[AsyncClient | Client | None] = []

    def __repr__(self) -> str:
        return f"Client({self._async.url!r})"

    def __enter__(self) -> Self:
        self._before.append(current_client.get())
        current_client.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current_client.set(self._before.pop())
        self.close()

    def close(self) -> None:
        """Cancel the runs that go on and close the connections. A second close is no error."""
        if not self._portal.loop.is_closed():
            self._portal.call(self._async.aclose)
            self._portal.stop()

    @property
    def url(self) -> str:
        return self._async.url

    @property
    def toolset(self) -> str:
        return self._async.toolset

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the client's thread."""
        return self._portal.loop

    @property
    def async_client(self) -> AsyncClient:
        """The async client inside: usable only in this client's own event loop."""
        return self._async

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the client's event loop and wait for it."""
        return self._portal.call(make)

    def submit(self, submission: ProgramSubmission, *, idempotency_key: str | None = None) -> ProgramSummary:
        """Start a program. Sent again after a lost connection it starts no second one."""
        return self.call(lambda: self._async.submit(submission, idempotency_key=idempotency_key))

    def extend(self, program: str, extension: GraphExtension) -> ProgramSummary:
        """Let an open program grow, or seal it."""
        return self.call(lambda: self._async.extend(program, extension))

    def program(self, program: str) -> ProgramView:
        """The program with its calls and outputs as they are now."""
        return self.call(lambda: self._async.program(program))

    def programs(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        status: ProgramStatus | None = None,
        workflow: str | None = None,
    ) -> Page[ProgramSummary]:
        """A page of programs, newest first. `after`: `last_id` of the page before."""
        return self.call(
            lambda: self._async.programs(limit=limit, after=after, order=order, status=status, workflow=workflow)
        )

    def timeline(self, program: str) -> Timeline:
        """Every call's seconds by cause, and the critical path."""
        return self.call(lambda: self._async.timeline(program))

    def variable(self, program: str, name: str, *, wait_s: float = 0.0, pointer: str = "") -> VariableView:
        """A variable, answered when it is written or failed, or after `wait_s` seconds as it is then. `pointer`
        (RFC 6901): with that part of its value alone."""
        return self.call(lambda: self._async.variable(program, name, wait_s=wait_s, pointer=pointer))

    def cancel(self, program: str) -> ProgramSummary:
        """Stop the program's calls and start no more. A program that has ended stays as it is."""
        return self.call(lambda: self._async.cancel(program))

    def events(self, program: str, *, after: int = 0) -> Iterator[Event]:
        """The program's events after number `after`, each as it happens, to its end."""
        source = self._async.events(program, after=after)

        async def advance() -> Event | None:
            return await anext(source, None)

        try:
            while (event := self.call(advance)) is not None:
                yield event
        finally:
            self._portal.post(source.aclose)  # a generator may be closed in any thread, and late

    def models(self) -> tuple[ModelView, ...]:
        """The models that calls may ask for, the default first."""
        return self.call(self._async.models)

    def publish(self, name: str, definition: WorkflowDefinition) -> WorkflowView:
        """Let the server keep a workflow (`workflow.definition()`), to be started by its name."""
        return self.call(lambda: self._async.publish(name, definition))

    def workflows(self) -> tuple[WorkflowView, ...]:
        """The workflows that the server keeps, by name."""
        return self.call(self._async.workflows)

    def start(self, workflow: str, **inputs: Any) -> ProgramSummary:
        """Start a program of a workflow that the server keeps."""
        return self.call(lambda: self._async.start(workflow, **inputs))

    def engines(self) -> tuple[EngineView, ...]:
        """Every engine: whether it serves, why not, what it can do."""
        return self.call(self._async.engines)

    def tools(self) -> tuple[ToolView, ...]:
        """The tools that connected workers offer."""
        return self.call(self._async.tools)

    def ready(self) -> bool:
        """Whether the server can serve LLM calls now. Raises `ConnectionLost` if it is not there at all."""
        return self.call(self._async.ready)
