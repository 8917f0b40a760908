"""Handles of runs in progress: `Run` for blocking code, `AsyncRun` and `Stream` for async code.

Own nothing but a running `Execution` and its task.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Generic, Self, TypeVar

from tenuto.client import AsyncClient
from tenuto.errors import ProgramCancelled
from tenuto.execution import Execution, Job, Piece
from tenuto.sync_client import Client
from tenuto.wire import Event, ProgramSummary, ProgramView, Timeline

R = TypeVar("R")


class AsyncRun(Generic[R]):
    """A program that runs in the background. It is cancelled when its client is closed."""

    def __init__(self, execution: Execution, task: asyncio.Task[R], summary: ProgramSummary) -> None:
        self._client = execution.client
        self._task = task
        self._summary = summary

    @classmethod
    async def start(cls, client: AsyncClient, job: Job) -> AsyncRun[R]:
        """Run until the server has accepted the program. Raises what the workflow raises before that."""
        execution = Execution(client, job)
        task: asyncio.Task[R] = client.spawn(execution.run())
        accepted = asyncio.create_task(execution.accepted.wait())
        try:
            await asyncio.wait({task, accepted}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            accepted.cancel()
        if execution.summary is None:
            await task
        assert execution.summary is not None, "a workflow ends only after its program was accepted"
        return cls(execution, task, execution.summary)

    def __repr__(self) -> str:
        return f"<AsyncRun {self.id}>"

    @property
    def id(self) -> str:
        """The program's id."""
        return self._summary.id

    @property
    def trace_id(self) -> str:
        return self._summary.trace_id

    @property
    def done(self) -> bool:
        """Whether `result` answers at once."""
        return self._task.done()

    async def result(self) -> R:
        """The workflow's value, or its exception; `ProgramCancelled` after a cancel. Any number of times.

        Cancelling this wait does not cancel the run: `cancel` does.
        """
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if self._task.cancelled():
                raise ProgramCancelled(self.id) from None
            raise

    async def cancel(self) -> None:
        """Stop the workflow and its program: running generations and tools too. Returns when the server knows."""
        if self._task.done():
            return
        self._task.cancel()
        await asyncio.wait({self._task})

    async def view(self) -> ProgramView:
        """The program with its calls as they are now."""
        return await self._client.program(self.id)

    async def timeline(self) -> Timeline:
        """Every call's seconds by cause."""
        return await self._client.timeline(self.id)

    def events(self, *, after: int = 0) -> AsyncGenerator[Event]:
        """The program's events from the first on, each as it happens, to its end."""
        return self._client.events(self.id, after=after)


class Run(Generic[R]):
    """A program that runs in the background of a `Client`; `AsyncRun` for blocking code."""

    def __init__(self, client: Client, run: AsyncRun[R]) -> None:
        self._client = client
        self._run = run

    def __repr__(self) -> str:
        return f"<Run {self.id}>"

    @property
    def id(self) -> str:
        """The program's id."""
        return self._run.id

    @property
    def trace_id(self) -> str:
        return self._run.trace_id

    @property
    def done(self) -> bool:
        """Whether `result` answers at once."""
        return self._run.done

    def result(self, timeout_s: float | None = None) -> R:
        """The workflow's value, or its exception. Raises `TimeoutError` after `timeout_s`; the run goes on."""

        async def bounded() -> R:
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    return await self._run.result()
            except TimeoutError as error:
                if not limit.expired():
                    raise  # the workflow's own
                raise TimeoutError(f"program {self.id} did not end within {timeout_s:g} s; it goes on") from error

        return self._client.call(bounded)

    def cancel(self) -> None:
        """Stop the workflow and its program: running generations and tools too."""
        self._client.call(self._run.cancel)

    def view(self) -> ProgramView:
        """The program with its calls as they are now."""
        return self._client.program(self.id)

    def timeline(self) -> Timeline:
        """Every call's seconds by cause."""
        return self._client.timeline(self.id)

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """The program's events from the first on, each as it happens, to its end."""
        return self._client.events(self.id, after=after)


class Stream(Generic[R]):
    """The text of a run's calls while it is generated, then its result.

    `async for piece in stream` ends with the workflow and raises what it raises; `await stream.result()` gives its
    value. The run is cancelled with the task that reads, by `aclose`, by leaving `async with stream` early, and when
    the stream is dropped.
    """

    def __init__(self, client: Callable[[], AsyncClient], job: Job) -> None:
        self._make_client = client
        self._job = job
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._task: asyncio.Task[Any] | None = None

    def _start(self) -> asyncio.Task[Any]:
        if self._task is None:
            client = self._make_client()
            execution = Execution(client, self._job)
            execution.on_piece = self._pieces.put_nowait
            self._task = task = client.spawn(execution.run())
            pieces = self._pieces  # not self: a stream that nobody holds any more shall be collected, and its run end
            task.add_done_callback(lambda _: pieces.put_nowait(None))
            weakref.finalize(self, _cancel, asyncio.get_running_loop(), task)
        return self._task

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        task = self._start()
        try:
            piece = await self._pieces.get()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if piece is not None:
            return piece
        self._pieces.put_nowait(None)  # a further call ends too
        await task
        raise StopAsyncIteration

    async def result(self) -> R:
        """The workflow's value, or its exception. Pieces that were not read meanwhile stay readable."""
        value: R = await asyncio.shield(self._start())
        return value

    async def aclose(self) -> None:
        """Cancel the run if it goes on."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    if not task.done() and not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
