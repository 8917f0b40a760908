"""The worker: runs this process's tools (and the test doubles of models) for the server.

Owns registration, the task stream, running tasks and their results. A task ends in exactly one result, unless it was
cancelled or its session with the server ended. Never retries a tool: the server decides that.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from tenuto.errors import APIError, InvalidArgument, NotFound, RequestInvalid, TenutoError, TooLarge
from tenuto.fetched import Fetched
from tenuto.functions import Tool, module_tools
from tenuto.http import HTTP, Backoff, mismatch, parsed
from tenuto.pieces import Pieces
from tenuto.tasks import Model, TaskFailure, TaskRunner
from tenuto.wire import (
    CancelTask,
    ErrorValue,
    FunctionTask,
    HostedModel,
    TaskMessage,
    TaskPiece,
    TaskResult,
    WorkerInfo,
    WorkerRegistration,
)

if TYPE_CHECKING:
    from tenuto.client import AsyncClient
    from tenuto.sync_client import Client

log = logging.getLogger("tenuto.worker")

_MESSAGE: TypeAdapter[Any] = TypeAdapter(TaskMessage)
_RESULTS = TypeAdapter(list[TaskResult])


class Session:
    """One registration with the server: its stream, the tasks that came by it, the results that go back."""

    def __init__(self, http: HTTP, info: WorkerInfo, runner: TaskRunner, fetched: Fetched) -> None:
        self.id = info.id
        self._fetched = fetched
        self._beat_s = info.heartbeat_s
        self._silence_s = 3 * info.heartbeat_s
        self._http = http
        self._runner = runner
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pieces: dict[str, Pieces] = {}  # arguments that are still being written, by task
        self._taken_back: set[str] = set()
        self._results: list[TaskResult] = []
        self._wake = asyncio.Event()
        self._leaving: asyncio.Task[None] | None = None  # kept, so that it is not collected
        self.attached = asyncio.Event()

    async def serve(self) -> None:
        """Take tasks until the stream ends. Raises `APIError`, `ConnectionLost`. Tasks that still run are cancelled."""
        sender = asyncio.create_task(self._send_results())
        beats = asyncio.create_task(self._beat())
        try:
            path = f"/v1/workers/{self.id}/tasks"
            async with self._http.stream(path, read_timeout_s=self._silence_s) as source:
                self.attached.set()
                async for message in source:
                    try:
                        self._take(_MESSAGE.validate_json(message.data))
                    except ValidationError as error:
                        raise mismatch(error) from error
        finally:
            tasks = [*self._running.values(), sender, beats]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, message: Any) -> None:
        if isinstance(message, CancelTask):
            if running := self._running.get(message.task):
                self._taken_back.add(message.task)
                running.cancel()
            return
        if isinstance(message, TaskPiece):
            if pieces := self._pieces.get(message.task):
                pieces.push(message.text)
                if message.last:
                    self._pieces.pop(message.task).close()
            return
        if isinstance(message, FunctionTask) and message.partial is not None:
            self._pieces[message.task] = Pieces()
        task = asyncio.create_task(self._run(message))
        self._running[message.task] = task
        task.add_done_callback(lambda _: self._ended(message.task))

    async def _run(self, task: Any) -> None:
        try:
            result = await self._result(task)
        except asyncio.CancelledError:
            if task.task not in self._taken_back:
                raise
            error = ErrorValue(type="cancelled", message="the task was taken back", call=task.call)
            result = TaskResult(task=task.task, error=error)
        self._runner.when_stopped(task.task, lambda: self._ready(result))

    async def _result(self, task: Any) -> TaskResult:
        """What the task gave, after its large arguments were read."""
        try:
            if isinstance(task, FunctionTask):
                task = await self._fetched.complete(task)
        except (TaskFailure, TenutoError) as error:
            message = f"the large arguments of tool {task.tool!r} could not be read: {error}"[:4000]
            fault = ErrorValue(type="arguments_unavailable", message=message, call=task.call, attempts=task.attempt)
            return TaskResult(task=task.task, error=fault, retryable=True)
        return await self._runner.result(task, self._pieces.get(task.task))

    def _ready(self, result: TaskResult) -> None:
        """The task is over, and its place on this worker free."""
        self._results.append(result)  # looked up only now: while the task ran, another list has taken its place
        self._wake.set()

    def _ended(self, task: str) -> None:
        self._running.pop(task, None)
        self._pieces.pop(task, None)
        self._taken_back.discard(task)
        self._wake.set()

    async def _send_results(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._results:
                batch, self._results = self._results, []
                await self._post(batch)

    async def _beat(self) -> None:
        """Tell the server now and then that this process lives: a connection may be dead for long before it breaks."""
        await self.attached.wait()
        while True:
            await asyncio.sleep(self._beat_s)
            await self._post([])

    async def _post(self, batch: list[TaskResult]) -> None:
        """One request for all that ended meanwhile. A batch that cannot be written or is refused goes one by one, and a
        result at fault becomes the error of its own call."""
        try:
            body = _RESULTS.dump_json(batch).decode()
            await self._http.request("POST", f"/v1/workers/{self.id}/results", body=body)
        except (TooLarge, RequestInvalid, ValueError) as error:
            if len(batch) > 1:
                for result in batch:
                    await self._post([result])
            elif batch and batch[0].error is None:
                await self._post([TaskResult(task=batch[0].task, error=_refused(error))])
            else:
                self._undelivered(batch, error)
        except NotFound:
            log.info("the server no longer knows worker %s: %d results are dropped", self.id, len(batch))
        except TenutoError as error:
            self._undelivered(batch, error)

    def _undelivered(self, batch: list[TaskResult], error: Exception) -> None:
        log.warning("%d results of worker %s could not be delivered: %s", len(batch), self.id, error)

    def retire(self) -> None:
        """Leave once the tasks that run have brought their results: a newer session has taken over."""
        self._leaving = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Ask for no more tasks; the server ends the stream when the last result is there."""
        try:
            await self._http.request("POST", f"/v1/workers/{self.id}/drain", timeout_s=5.0)
        except TenutoError as error:
            log.debug("worker %s: %s", self.id, error)
            await self.remove()

    async def remove(self) -> None:
        """Tell the server that this worker goes; it then ends the stream."""
        try:
            await self._http.request("DELETE", f"/v1/workers/{self.id}", timeout_s=5.0)
        except TenutoError as error:
            log.debug("worker %s: %s", self.id, error)


def _refused(error: APIError | ValueError) -> ErrorValue:
    """What a call fails with whose result cannot be written or was refused."""
    if isinstance(error, TooLarge):
        return ErrorValue(type="result_too_large", message=error.problem.detail)
    why = f"the server refused it: {error.problem.detail}" if isinstance(error, APIError) else str(error)
    return ErrorValue(type="result_invalid", message=f"the tool's result cannot be delivered: {why}"[:4000])


class Worker:
    """This process as a worker of one toolset. `ensure` registers it, again whenever there is more to offer.

    Invariant: `_session` is the newest registration, and offers everything in `_tools` and `_models`.
    """

    def __init__(
        self,
        http: HTTP,
        toolset: str,
        *,
        concurrency: int,
        threads: int,
        debug: bool,
        client: Callable[[], AsyncClient | Client],
    ) -> None:
        self._http = http
        self._fetched = Fetched(http)
        self._toolset = toolset
        self._concurrency = concurrency
        self._tools: dict[str, Tool[..., Any, Any]] = {}
        self._asked: set[str] = set()  # names of tools that programs use; others are offered since they are there
        self._models: dict[str, Model] = {}
        self._runner = TaskRunner(self._tools, self._models, threads=threads, debug=debug, client=client)
        self._lock = asyncio.Lock()
        self._session: Session | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def ensure(self, tools: Iterable[Tool[..., Any, Any]], models: Mapping[str, Model]) -> None:
        """Return once the server can hand out tasks for all of these. Raises `InvalidArgument` if two tools share a
        name, `APIError`, `ConnectionLost`."""
        tools = tuple(tools)
        if self._offers(tools, models):
            return
        async with self._lock:
            if self._offers(tools, models):
                return
            replaced = [self._add(tool) for tool in tools]
            for tool in module_tools():
                self._tools.setdefault(tool.name, tool)
            self._models.update(models)
            session = await self._register()
            old, self._session = self._session, session
            # an empty context: tools are no part of the workflow in whose context the worker happens to start
            task = contextvars.Context().run(asyncio.create_task, self._keep(session))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await session.attached.wait()
            if old is not None and any(replaced):
                old.retire()  # otherwise it stays and helps: what it offers is still true

    async def _keep(self, session: Session) -> None:
        """Serve a registration. When the newest one's stream ends though nobody ended it, register anew."""
        backoff = self._http.backoff()
        current: Session | None = session
        while current is not None:
            try:
                await current.serve()
            except TenutoError as error:
                log.info("worker %s: %s", current.id, error)
            except Exception:  # whatever it was: a worker that silently stopped would leave calls waiting
                log.exception("worker %s failed and registers anew", current.id)
            if current.attached.is_set():
                backoff.reset()
            current.attached.set()  # whoever waits for it goes on: the server queues calls until a worker is back
            current = await self._renewed(current, backoff)

    async def _renewed(self, lost: Session, backoff: Backoff) -> Session | None:
        while lost is self._session:
            await backoff.wait()
            try:
                session = await self._register()
            except TenutoError as error:
                log.warning("the worker of toolset %r cannot register again: %s", self._toolset, error)
                continue
            if lost is self._session:
                self._session = session
                return session
        return None

    async def aclose(self) -> None:
        """Leave the server (a closed stream says so) and cancel the tasks that run."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _offers(self, tools: Iterable[Tool[..., Any, Any]], models: Mapping[str, Model]) -> bool:
        return (
            self._session is not None
            and all(self._tools.get(tool.name) is tool for tool in tools)
            and models.keys() <= self._models.keys()
        ) or not (tuple(tools) or models)

    def _add(self, tool: Tool[..., Any, Any]) -> bool:
        """Whether it took the place of an older tool."""
        known = self._tools.get(tool.name)
        if known is not None and known is not tool and known.place != tool.place and tool.name in self._asked:
            raise InvalidArgument(
                f"two tools are named {tool.name!r} ({known.place} and {tool.place}): rename one with @tool(name=...)"
            )
        self._asked.add(tool.name)
        self._tools[tool.name] = tool  # the same place: defined anew, as in a notebook
        return known is not None and known is not tool

    async def _register(self) -> Session:
        registration = WorkerRegistration(
            toolset=self._toolset,
            tools=tuple(tool.spec for tool in self._tools.values()),
            models=tuple(HostedModel(name=name) for name in self._models),
            concurrency=self._concurrency,
            beats=True,
            fetches=True,
            pieces=True,
        )
        response = await self._http.request("POST", "/v1/workers", body=registration.model_dump_json())
        return Session(self._http, parsed(WorkerInfo, response.content), self._runner, self._fetched)
