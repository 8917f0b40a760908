"""One task at a time: a tool's arguments in, its JSON result or a named failure out.

Owns validation at the tool's border, threads of sync tools, timeouts and cancel tokens. Never talks to the server.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import propagate

from tenuto.context import current_client
from tenuto.errors import InvalidArgument
from tenuto.functions import Tool
from tenuto.pieces import Pieces
from tenuto.typed import Typed, require_json
from tenuto.wire import ErrorValue, FunctionTask, ModelTask, TaskResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tenuto.client import AsyncClient
    from tenuto.sync_client import Client

log = logging.getLogger("tenuto.worker")

Model = Callable[[ModelTask], Awaitable[str]]
"""A double of a model: the answer to a rendered prompt, as the text that the model would generate."""

_MAX_MESSAGE = 4000

running_token: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("tenuto_cancelled", default=None)
"""Set when the call of the sync tool that runs in this context is no longer waited for."""


def cancelled() -> bool:
    """In a sync tool: whether its call was cancelled or has timed out, so that nobody waits for the result any more.

    A thread cannot be stopped from outside: a long sync tool asks this now and then, and returns. (An async tool is
    simply cancelled.) False outside a tool.
    """
    token = running_token.get()
    return token is not None and token.is_set()


class TaskFailure(Exception):
    """How a task failed. `type` is a name that the docs explain."""

    def __init__(self, type: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.type = type
        # an exception's text may hold lone surrogates, which no JSON text can
        self.message = message[:_MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
        self.retryable = retryable


class TaskRunner:
    """Runs tasks by the tables of tools and models that it was given (and that may grow)."""

    def __init__(
        self,
        tools: Mapping[str, Tool[..., Any, Any]],
        models: Mapping[str, Model],
        *,
        threads: int,
        debug: bool,
        client: Callable[[], AsyncClient | Client],
    ) -> None:
        self._tools = tools
        self._models = models
        self._threads = asyncio.Semaphore(threads)
        self._lingering: dict[str, asyncio.Future[Any]] = {}
        self._debug = debug
        self._client = client

    def when_stopped(self, task: str, then: Callable[[], None]) -> None:
        """Call `then` once nothing of the task runs any more: at once, unless it left a thread behind that goes on."""
        thread = self._lingering.pop(task, None)
        if thread is None or thread.done():
            then()
        else:
            thread.add_done_callback(lambda _: then())

    async def result(self, task: FunctionTask | ModelTask, pieces: Pieces | None = None) -> TaskResult:
        """The task's result, errors included. Only cancellation is raised. `pieces`: its argument that is still being
        written, if there is one."""
        current_client.set(self._client())
        try:
            with _trace(task.traceparent):
                if isinstance(task, FunctionTask):
                    value = await self._function(task, pieces)
                else:
                    value = await self._model(task)
        except TaskFailure as failure:
            error = ErrorValue(type=failure.type, message=failure.message, call=task.call, attempts=task.attempt)
            return TaskResult(task=task.task, error=error, retryable=failure.retryable)
        return TaskResult(task=task.task, value=value)

    async def _function(self, task: FunctionTask, pieces: Pieces | None) -> Any:
        tool = self._tools.get(task.tool)
        if tool is None:
            known = ", ".join(sorted(self._tools)) or "none"
            raise TaskFailure(
                "unknown_tool", f"this worker has no tool {task.tool!r}; it has: {known}", retryable=False
            )
        try:
            begun = {task.partial: pieces} if task.partial is not None else {}
            args, kwargs = tool.signature.load({**task.arguments, **begun})
        except InvalidArgument as error:
            raise TaskFailure("arguments_invalid", str(error), retryable=False) from error
        value = await self._guarded(f"tool {tool.name!r}", task, lambda: self._called(task, tool, args, kwargs))
        return _to_json(tool, value)

    async def _called(self, task: FunctionTask, tool: Tool[..., Any, Any], args: Any, kwargs: Any) -> Any:
        if tool.is_async:
            return await _timed(tool.name, task.timeout_s, tool.raw(*args, **kwargs))
        await self._threads.acquire()
        token = threading.Event()
        running_token.set(token)
        thread = start_thread(tool.name, lambda: tool.raw(*args, **kwargs))
        thread.add_done_callback(lambda _: self._threads.release())
        try:
            return await _timed(tool.name, task.timeout_s, in_thread(thread))
        finally:
            token.set()
            if not thread.done():  # cancelled or timed out: the tool hears of it, and its place is taken until it ends
                self._lingering[task.task] = thread

    async def _model(self, task: ModelTask) -> str:
        model = self._models.get(task.model)
        if model is None:
            raise TaskFailure("unknown_model", f"this worker hosts no model {task.model!r}", retryable=False)
        text = str(await self._guarded(f"model {task.model!r}", task, lambda: model(task)))
        try:
            require_json(text)
        except ValueError as error:
            raise TaskFailure("model_error", f"model {task.model!r}: {error}", retryable=False) from error
        return text

    async def _guarded(self, what: str, task: FunctionTask | ModelTask, work: Callable[[], Awaitable[Any]]) -> Any:
        """What `work` returns; whatever it raises becomes a failure with the exception's name and message, no more."""
        try:
            return await work()
        except TaskFailure:
            raise
        except asyncio.CancelledError as error:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise self._failed(what, error) from error
        except BaseException as error:  # a tool that raises SystemExit must not end the worker
            log.info("%s failed (call %s of program %s)", what, task.call, task.program, exc_info=error)
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: BaseException) -> TaskFailure:
        try:
            told = str(error)
        except Exception:
            told = "(its message cannot be shown)"
        message = f"{type(error).__name__}: {told}" if told else type(error).__name__
        if self._debug:
            message += "\n" + "".join(traceback.format_exception(error))
        kind = "tool_error" if what.startswith("tool") else "model_error"
        return TaskFailure(kind, message, retryable=True)


def _to_json(tool: Tool[..., Any, Any], value: Any) -> Any:
    declared: Typed = tool.signature.result
    try:
        return declared.dump(value)
    except (InvalidArgument, ValueError, TypeError, RecursionError) as error:
        raise TaskFailure(
            "result_invalid",
            f"tool {tool.name!r} returned {type(value).__name__}, which is not {declared!r} in JSON: {error}",
            retryable=False,
        ) from error


async def _timed(tool: str, timeout_s: float | None, work: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise  # the tool's own
        raise TaskFailure("timeout", f"tool {tool!r} did not end within {timeout_s:g} s", retryable=True) from error


def start_thread(name: str, work: Callable[[], Any]) -> asyncio.Future[tuple[Any, BaseException | None]]:
    """Run in a daemon thread of its own, which never keeps the interpreter alive. The future ends when the thread does,
    with its value or what it raised."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def deliver(value: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_result((value, error))

    def target() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(deliver, value, error)
        except RuntimeError:  # the loop was closed: nobody waits
            log.debug("tool %s ended after its worker", name)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(target,), name=f"tenuto-tool-{name}", daemon=True).start()
    return future


async def in_thread(thread: asyncio.Future[tuple[Any, BaseException | None]]) -> Any:
    """What the thread returns; raises what it raised. Cancelled, the thread is left to itself."""
    value, error = await asyncio.shield(thread)
    if error is not None:
        raise error
    if inspect.isawaitable(value):
        raise TypeError("the tool is a sync function that returned an awaitable: define it with `async def`")
    return value


@contextmanager
def _trace(traceparent: str | None) -> Iterator[None]:
    """Spans that the tool opens belong to the program's trace."""
    if traceparent is None:
        yield
        return
    token = otel_context.attach(propagate.extract({"traceparent": traceparent}))
    try:
        yield
    finally:
        otel_context.detach(token)
