"""One run of a workflow: its function here, its calls on the server, its values as they arrive.

Owns what is sent when, and every wait of the workflow: each ends with a value or a typed error. Never decides what a
call looks like and never runs a tool.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tenuto.builder import Batch, Builder
from tenuto.doubles import Override, current_override, guard_real_engine
from tenuto.errors import CallFailed, ForeignVar, InvalidResult, NoClient, ProgramCancelled, TenutoError
from tenuto.plan import invoke, outputs_of
from tenuto.telemetry import WorkflowSpan
from tenuto.typed import Typed
from tenuto.var import check_owner, pick, resolve, substitute, variable_of
from tenuto.wire import (
    TERMINAL_EVENTS,
    Event,
    EventKind,
    Graph,
    GraphExtension,
    Objective,
    ProgramSubmission,
    ProgramSummary,
)

if TYPE_CHECKING:
    from tenuto.client import AsyncClient

log = logging.getLogger("tenuto")

_CANCEL_S = 10.0
"""How long a workflow that gives up waits until the server knows."""


class Piece(NamedTuple):
    """Text that a call has generated, as it comes. A new `attempt` starts the call's text anew."""

    call: str
    text: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, and under which name and terms."""

    workflow: str
    function: Callable[[], Any]
    result: Typed
    objective: Objective = field(default_factory=Objective)
    metadata: Mapping[str, str] = field(default_factory=dict)
    agent: bool = False


@dataclass(slots=True)
class _Cell:
    """A variable as seen from here. `error` makes the exception anew for each reader."""

    value: Any = None
    error: Callable[[], Exception] | None = None
    done: bool = False
    large: bool = False  # its value is still on the server
    readers: list[Callable[[], None]] = field(default_factory=list)

    def end(self, value: Any = None, error: Callable[[], Exception] | None = None) -> None:
        """Write once; a second end changes nothing."""
        if self.done:
            return
        self.value, self.error, self.done = value, error, True
        readers, self.readers = self.readers, []
        for reader in readers:
            reader()


class Execution:
    """Drives one program. Satisfies `context.Program`.

    Calls that were declared are sent together whenever the workflow yields to the event loop; a workflow that never
    does is submitted whole, in one request. Invariant: at most one request that changes the program is under way.
    """

    def __init__(self, client: AsyncClient, job: Job) -> None:
        self.client = client
        self.job = job
        self.builder = Builder(self._on_growth)
        self.thread = threading.get_ident()
        self.accepted = asyncio.Event()
        self.summary: ProgramSummary | None = None
        self.on_piece: Callable[[Piece], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._override: Override | None = current_override.get()
        self._cells: dict[str, _Cell] = {}
        self._grown = asyncio.Event()
        self._sending = asyncio.Lock()
        self._fetching = asyncio.Lock()
        self._sealed = False
        self._ended = asyncio.Event()
        self._fault: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._span = WorkflowSpan(job.workflow, agent=job.agent)

    async def run(self) -> Any:
        """The workflow's value. Its exceptions propagate untouched, after the program was cancelled on the server."""
        with self._span:
            self._tasks.append(asyncio.create_task(self._send_growth()))
            try:
                value = await invoke(self, self.job.function)
                return await self._finish(value)
            except GeneratorExit:
                raise
            except BaseException as error:
                if not (self._sealed and isinstance(error, CallFailed | InvalidResult)):
                    await self._give_up()
                raise
            finally:
                await self._stop()

    # -- declaring and sending ------------------------------------------------------------------

    def model_name(self, stage: str, asked: str | None) -> str | None:
        if self._override is not None:
            return self._override.model_name(self.client.toolset)
        guard_real_engine(stage)
        return asked

    def _on_growth(self) -> None:
        self._grown.set()

    async def _send_growth(self) -> None:
        """Send what was declared, each time the workflow has yielded. Ends at the seal."""
        try:
            while True:
                await self._grown.wait()
                self._grown.clear()
                async with self._sending:
                    if self._sealed:
                        return
                    await self._send(self.builder.take())
        except Exception as error:
            self._fail(error)

    async def _send(
        self, batch: Batch, *, seal: bool = False, outputs: tuple[str, ...] = (), result: Any = None
    ) -> None:
        hosted = self._override.models(self.client.toolset) if self._override is not None else {}
        tools = tuple(self.builder.tools.values())
        await self.client.open()
        await self.client.worker.ensure(tools, hosted)
        if self.summary is None:
            submission = ProgramSubmission(
                workflow=self.job.workflow,
                graph=Graph(inputs=batch.inputs, calls=batch.calls, outputs=outputs),
                objective=self.job.objective,
                open=not seal,
                agent=self.job.agent,
                toolset=self.client.toolset if tools or hosted or not seal else None,
                metadata=dict(self.job.metadata),
            )
            self.summary = await self.client.submit(submission, headers=self._span.headers())
            self._span.belongs(self.summary)
            self.accepted.set()
            self._tasks.append(asyncio.create_task(self._read(self.summary.id)))
        elif batch or seal:
            extension = GraphExtension(
                inputs=batch.inputs, calls=batch.calls, outputs=outputs, seal=seal, result=result
            )
            await self.client.extend(self.summary.id, extension)

    async def _finish(self, value: Any) -> Any:
        """Seal the program with its outputs, wait for their values, give them the declared type."""
        check_owner(self, value, f"the result of {self.job.workflow}")
        outputs = outputs_of(value)
        async with self._sending:
            if self._fault is not None:
                raise self._fault
            self._sealed = True
            await self._send(self.builder.take(), seal=True, outputs=outputs, result=self._known(value, outputs))
        resolved = await resolve(value)
        if all(self._cell(call.variable).done for call in self.builder.calls.values()):
            await self._ended.wait()  # it follows at once, and what the server tells of the program is then final
        return self.job.result.load(resolved)

    def _known(self, value: Any, outputs: tuple[str, ...]) -> Any:
        """The workflow's value as JSON if all of it is known already and JSON can hold it: kept with the program."""
        cells = {name: self._cell(name) for name in outputs}
        if self.summary is None or not all(cell.done and not (cell.error or cell.large) for cell in cells.values()):
            return None
        try:
            return self.job.result.dump(
                substitute(value, lambda handle: pick(handle, cells[variable_of(handle)].value))
            )
        except (TenutoError, ValueError, TypeError):
            return None

    # -- values ---------------------------------------------------------------------------------

    async def values(self, variables: Sequence[str]) -> list[Any]:
        if asyncio.get_running_loop() is not self._loop:
            raise ForeignVar("a Var can be awaited only in the event loop of its own workflow")
        cells = [self._cell(name) for name in variables]
        waiting = [cell for cell in cells if not cell.done]
        changed: asyncio.Future[None] = self._loop.create_future()
        left = len(waiting)

        def on_end(cell: _Cell) -> None:
            nonlocal left
            left -= 1
            if (left == 0 or cell.error is not None) and not changed.done():
                changed.set_result(None)

        if waiting and all(cell.error is None for cell in cells):
            for cell in waiting:
                cell.readers.append(lambda cell=cell: on_end(cell))  # type: ignore[misc]  # bound now, not later
            await changed
        for cell in cells:
            if cell.error is not None:
                raise cell.error()
        for name, cell in zip(variables, cells, strict=True):
            if cell.large:
                await self._fetch(name, cell)
        return [cell.value for cell in cells]

    async def _fetch(self, variable: str, cell: _Cell) -> None:
        """Read a large value: most are only passed on, and never leave the server."""
        assert self.summary is not None
        async with self._fetching:
            if cell.large:
                cell.value = (await self.client.variable(self.summary.id, variable)).value
                cell.large = False

    def _cell(self, variable: str) -> _Cell:
        cell = self._cells.get(variable)
        if cell is None:
            cell = self._cells[variable] = _Cell()
            if self._fault is not None:
                cell.end(error=self._fault_again)
        return cell

    def _fault_again(self) -> Exception:
        assert self._fault is not None
        return self._fault.with_traceback(None)

    def _fail(self, error: Exception) -> None:
        """Nothing more will be heard: every wait, present and future, ends with this error."""
        if self._fault is None:
            self._fault = error
        for cell in self._cells.values():
            cell.end(error=self._fault_again)
        self._ended.set()

    # -- hearing --------------------------------------------------------------------------------

    async def _read(self, program: str) -> None:
        try:
            async with aclosing(self.client.events(program)) as events:
                async for event in events:
                    self._hear(program, event)
        except Exception as error:
            self._fail(error)

    def _hear(self, program: str, event: Event) -> None:
        kind = event.kind
        if kind is EventKind.CALL_TOKENS:
            if self.on_piece is not None and event.call is not None:
                self.on_piece(Piece(event.call, event.text or "", event.attempt))
        elif kind is EventKind.VARIABLE_WRITTEN and event.variable is not None:
            cell = self._cell(event.variable)
            cell.large = event.large is not None
            cell.end(event.value)
        elif kind in (EventKind.CALL_FAILED, EventKind.CALL_SKIPPED) and event.call is not None:
            self._cell(event.call).end(error=lambda: CallFailed.of(event.error, event.call or "", program))
        elif kind is EventKind.CALL_CANCELLED and event.call is not None:
            self._cell(event.call).end(error=lambda: ProgramCancelled(program))
        elif kind in TERMINAL_EVENTS:
            self._on_program_end(program, event)

    def _on_program_end(self, program: str, event: Event) -> None:
        def error() -> Exception:
            if event.kind is EventKind.PROGRAM_CANCELLED:
                return ProgramCancelled(program)
            return CallFailed.of(event.error, self.job.workflow, program)

        for cell in self._cells.values():
            cell.end(error=error)
        if event.kind is not EventKind.PROGRAM_SUCCEEDED and self._fault is None:
            self._fault = error()
        self._ended.set()

    # -- ending ---------------------------------------------------------------------------------

    async def _give_up(self) -> None:
        """Cancel the program on the server. A submission under way is waited for first: nobody else knows its id."""

        async def tell() -> None:
            async with self._sending:
                self._sealed = True
                if self.summary is not None and not self._ended.is_set():
                    await self.client.cancel(self.summary.id)

        telling = asyncio.create_task(tell())
        try:
            async with asyncio.timeout(_CANCEL_S):
                await asyncio.shield(telling)
        except (TenutoError, TimeoutError) as error:
            telling.cancel()
            log.warning("program of workflow %s may go on: it could not be cancelled: %s", self.job.workflow, error)
        except asyncio.CancelledError:
            self.client.spawn(_outlive(telling))  # cancelled a second time: let the message go out by itself
            raise

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._fault is None:
            self._fault = NoClient(f"the run of {self.job.workflow} has ended: await its Vars inside the workflow")
        for cell in self._cells.values():
            cell.end(error=self._fault_again)


async def _outlive(task: asyncio.Task[None]) -> None:
    await asyncio.gather(task, return_exceptions=True)
