"""One connected worker, the tasks it holds, and the stream that carries tasks to it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import JsonValue

from tenuto.pieces import Pieces
from tenuto.wire import FunctionTask, ModelTask, TaskMessage, TaskPiece, ToolSpec, WorkerRegistration


class Skill(NamedTuple):
    """What a task needs of its worker: a tool or a hosted model, by name."""

    kind: str
    name: str


@dataclass(slots=True, eq=False)
class Job:
    """A task from the moment it is asked for until its future has a value or an error, and its worker is free of it.

    `held`: it has a place on its worker, and is sent when `release`d (an effect's intent is written meanwhile).
    `abandoned`: nobody waits for it any more; it keeps its place until the worker says that it stopped.
    Invariant: while `worker` is set, the worker's `running` holds the job under its task id.
    """

    message: FunctionTask | ModelTask
    skill: Skill
    timeout_s: float | None
    started: Callable[[], None]
    future: asyncio.Future[JsonValue]
    worker: Worker | None = None
    timer: asyncio.TimerHandle | None = None
    held: bool = False
    placed: asyncio.Future[None] | None = None
    abandoned: bool = False
    pieces: Pieces | None = None  # the argument that is still being written
    pump: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Wait for nothing more, and tell nothing more of its argument."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.pump is not None:
            self.pump.cancel()
            self.pump = None

    def follow(self, stream: TaskStream) -> None:
        """Hand on the argument that is still being written, as it grows."""
        if self.pieces is not None:
            self.pump = asyncio.get_running_loop().create_task(_pump(self.message.task, self.pieces, stream))


@dataclass(slots=True, eq=False)
class Worker:
    """A registered worker. It is given tasks only while its stream is open.

    Invariant: `len(running) <= concurrency`, and at most `ToolSpec.concurrency` of them are of one tool.
    """

    id: str
    tenant: str
    registration: WorkerRegistration
    skills: dict[Skill, int | None] = field(default_factory=dict)  # cap of tasks at once
    running: dict[str, Job] = field(default_factory=dict)
    busy: Counter[Skill] = field(default_factory=Counter)
    stream: TaskStream | None = None
    attach_timer: asyncio.TimerHandle | None = None
    beat_timer: asyncio.TimerHandle | None = None
    draining: bool = False

    def __post_init__(self) -> None:
        for tool in self.registration.tools:
            self.skills[Skill("tool", tool.name)] = tool.concurrency
        for model in self.registration.models:
            self.skills[Skill("model", model.name)] = None

    @property
    def free(self) -> int:
        """How many more tasks it may hold."""
        return self.registration.concurrency - len(self.running)

    def serves(self, skill: Skill) -> bool:
        """True if it is connected, has the skill, and is not about to go."""
        return self.stream is not None and not self.draining and skill in self.skills

    def can_take(self, skill: Skill) -> bool:
        """True if it may be given one more task of this skill now."""
        if not self.serves(skill) or self.free <= 0:
            return False
        cap = self.skills[skill]
        return cap is None or self.busy[skill] < cap

    def tool(self, name: str) -> ToolSpec | None:
        return next((tool for tool in self.registration.tools if tool.name == name), None)

    def as_sent(self, message: FunctionTask | ModelTask) -> FunctionTask | ModelTask:
        """The task as this worker gets it: large arguments by reference if it can read them, else as they are."""
        if not isinstance(message, FunctionTask) or not message.fetch:
            return message
        if not self.registration.fetches:
            return message.model_copy(update={"fetch": {}})
        short = {name: value for name, value in message.arguments.items() if name not in message.fetch}
        return message.model_copy(update={"arguments": short})

    def take(self, job: Job) -> None:
        """Give the job a place."""
        job.worker = self
        self.running[job.message.task] = job
        self.busy[job.skill] += 1

    def drop(self, job: Job) -> None:
        """Hold the job's task no more."""
        del self.running[job.message.task]
        self.busy[job.skill] -= 1
        job.worker = None


async def _pump(task: str, pieces: Pieces, stream: TaskStream) -> None:
    async for text in pieces:
        stream.send(TaskPiece.model_construct(kind="piece", task=task, text=text, last=False))
    stream.send(TaskPiece.model_construct(kind="piece", task=task, text="", last=True))


class TaskStream:
    """The tasks of one worker, as an async iterator. When it is closed, or cancelled under its reader, the worker
    is gone: `on_close` is told once. It ends by itself when the worker is removed."""

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._on_close = on_close
        self._messages: deque[TaskMessage] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._open = True

    def send(self, message: TaskMessage) -> None:
        """Put a message behind the others. A task has at most two, and the pieces of a text."""
        self._messages.append(message)
        self._notify()

    def end(self) -> None:
        """Let the reader finish; nothing more is sent."""
        self._open = False
        self._messages.clear()
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __aiter__(self) -> TaskStream:
        return self

    async def __anext__(self) -> TaskMessage:
        while not self._messages:
            if not self._open:
                raise StopAsyncIteration
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            except asyncio.CancelledError:
                await self.aclose()
                raise
            finally:
                self._wake = None
        return self._messages.popleft()

    async def aclose(self) -> None:
        """The reader has gone, and the worker with it. A second close is no error."""
        if self._open:
            self._open = False
            self._on_close()
