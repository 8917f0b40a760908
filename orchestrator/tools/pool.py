"""Workers by tenant and toolset, and the tasks that wait for them.

Owns which worker runs which task. Never runs a tool itself, never retries: a task ends once, with a value or a
`CallFailure`, and the runtime decides what follows.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from pydantic import JsonValue

from orchestrator.errors import Busy, Conflict, WorkerUnknown
from orchestrator.limits import Limits
from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.registration import check_registration
from orchestrator.tools.runs import Intend, ToolRun
from orchestrator.tools.worker import Job, Skill, TaskStream, Worker
from tenuto.pieces import Pieces
from tenuto.wire import (
    CancelTask,
    FunctionTask,
    ModelTask,
    TaskResult,
    ToolSpec,
    WorkerInfo,
    WorkerRegistration,
)


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """A tool that connected workers offer."""

    toolset: str
    spec: ToolSpec
    workers: int


@dataclass(frozen=True, slots=True)
class IgnoredResult:
    """A result that changed nothing, and why."""

    task: str
    reason: str


@dataclass(slots=True)
class _Toolset:
    """Workers that share work, and what waits for them, oldest first, by what it needs."""

    tenant: str
    name: str
    workers: dict[str, Worker] = field(default_factory=dict)
    waiting: dict[Skill, OrderedDict[str, Job]] = field(default_factory=dict)

    def offers(self, skill: Skill) -> bool:
        return any(worker.serves(skill) for worker in self.workers.values())

    def free_worker(self, skill: Skill) -> Worker | None:
        """The worker with most free capacity among those that can take a task of this skill."""
        able = (worker for worker in self.workers.values() if worker.can_take(skill))
        return max(able, key=lambda worker: worker.free, default=None)


class WorkerPool:
    """Tasks in, results out.

    Invariant: a job is in exactly one place: waiting in its toolset, running on one worker, or done. A waiting job
    has a timer exactly while no connected worker offers its skill.
    """

    def __init__(self, *, limits: Limits, rng: Random) -> None:
        self._limits = limits
        self._rng = rng
        self._toolsets: dict[tuple[str, str], _Toolset] = {}
        self._workers: dict[str, Worker] = {}
        self._tasks = 0

    # -- workers --------------------------------------------------------------------------------

    def register(self, registration: WorkerRegistration, tenant: str) -> WorkerInfo:
        """Admit a worker; it is given tasks once it opens its stream, and forgotten if it does not.

        Raises InvalidSubmission (doubled names, schemas that are none), Busy (`limits.workers`).
        """
        if len(self._workers) >= self._limits.workers:
            raise Busy(
                f"{len(self._workers)} workers are registered, the limit is {self._limits.workers} (limits.workers)",
                retry_after_s=self._limits.retry_after_s,
            )
        check_registration(registration)
        worker = Worker(f"worker_{self._rng.getrandbits(64):016x}", tenant, registration)
        self._workers[worker.id] = worker
        loop = asyncio.get_running_loop()
        worker.attach_timer = loop.call_later(self._limits.worker_attach_s, self._forget_unattached, worker)
        return WorkerInfo(id=worker.id, toolset=registration.toolset, heartbeat_s=self._limits.heartbeat_s)

    def tasks(self, worker_id: str, *, tenant: str = "default") -> TaskStream:
        """Attach: the worker's tasks until it is removed. When the stream is closed the worker is gone.

        Raises WorkerUnknown, Conflict (its stream is open already).
        """
        worker = self._known(worker_id, tenant)
        if worker.stream is not None:
            raise Conflict(f"worker {worker_id!r} has an open task stream already: register a second worker instead")
        if worker.attach_timer is not None:
            worker.attach_timer.cancel()
        worker.stream = TaskStream(lambda: self._lost(worker))
        self._hear(worker)
        toolset = self._toolset(tenant, worker.registration.toolset)
        toolset.workers[worker.id] = worker
        for skill in worker.skills:
            for job in toolset.waiting.get(skill, {}).values():
                job.stop()
        self._feed(toolset, worker.skills)
        return worker.stream

    def results(
        self, worker_id: str, results: Iterable[TaskResult], *, tenant: str = "default"
    ) -> tuple[IgnoredResult, ...]:
        """Results of a worker's tasks; returns those that changed nothing. Raises WorkerUnknown.

        A worker answers for its own tasks only: a result for any other task is ignored, whoever runs it.
        """
        worker = self._known(worker_id, tenant)
        self._hear(worker)
        ignored: list[IgnoredResult] = []
        freed: dict[Skill, None] = {}
        for result in results:
            job = worker.running.get(result.task)
            if job is None:
                reason = "no such task runs on this worker: it ended, was cancelled, or never was its own"
                ignored.append(IgnoredResult(result.task, reason))
                continue
            freed[job.skill] = None
            self._leave(job)
            if job.abandoned:
                continue  # it has stopped at last: its place is free, its result nobody's
            if result.error is None:
                _settle(job, result.value)
            else:
                _fail(job, CallFailure(result.error.type, result.error.message, retryable=result.retryable))
        if freed:
            toolset = self._toolsets[tenant, worker.registration.toolset]
            self._feed(toolset, worker.skills)
            self._end_drained(worker)
        return tuple(ignored)

    def drain(self, worker_id: str, *, tenant: str = "default") -> None:
        """Give the worker nothing more; it goes when what it runs has ended. Raises WorkerUnknown."""
        worker = self._known(worker_id, tenant)
        worker.draining = True
        self._await_others(self._toolset(tenant, worker.registration.toolset), worker)
        self._end_drained(worker)

    def remove(self, worker_id: str, *, tenant: str = "default") -> None:
        """The worker says goodbye. Its running tasks are lost. Raises WorkerUnknown."""
        self._lost(self._known(worker_id, tenant))

    # -- questions ------------------------------------------------------------------------------

    def specs(self, tenant: str, toolset: str | None) -> Mapping[str, ToolSpec]:
        """The tools that the toolset's connected workers offer, by name."""
        known = self._toolsets.get((tenant, toolset or ""))
        if known is None:
            return {}
        return {tool.name: tool for worker in known.workers.values() for tool in worker.registration.tools}

    def spec(self, tenant: str, toolset: str | None, tool: str) -> ToolSpec | None:
        """One tool as its connected workers declare it."""
        known = self._toolsets.get((tenant, toolset or ""))
        if known is not None:
            for worker in known.workers.values():
                if (found := worker.tool(tool)) is not None:
                    return found
        return None

    def hosts(self, tenant: str, toolset: str | None, model: str) -> bool:
        """True if a connected worker of the toolset answers for `model`."""
        known = self._toolsets.get((tenant, toolset or ""))
        return known is not None and known.offers(Skill("model", model))

    def begins(self, tenant: str, toolset: str, tool: str) -> bool:
        """True if a worker could begin this tool now, on a part of its arguments."""
        known = self._toolsets.get((tenant, toolset))
        worker = known.free_worker(Skill("tool", tool)) if known is not None else None
        return worker is not None and worker.registration.pieces

    def tools(self, tenant: str) -> tuple[OfferedTool, ...]:
        """Every tool that the tenant's connected workers offer."""
        offered: list[OfferedTool] = []
        for toolset in self._toolsets.values():
            if toolset.tenant == tenant:
                for name, spec in self.specs(tenant, toolset.name).items():
                    workers = sum(Skill("tool", name) in worker.skills for worker in toolset.workers.values())
                    offered.append(OfferedTool(toolset.name, spec, workers))
        return tuple(offered)

    # -- tasks ----------------------------------------------------------------------------------

    async def run(
        self,
        run: ToolRun,
        started: Callable[[], None],
        intend: Intend | None = None,
        *,
        queue_s: float | None = None,
        partial: tuple[str, Pieces] | None = None,
    ) -> JsonValue:
        """Run one attempt of a function call on a worker; `started` is told when one is given the task.

        `intend` is awaited when a worker has a place for it and before the task is sent. `queue_s` bounds the wait
        for that place. `partial`: an argument that is still being written, by name. Raises CallFailure: what the tool
        reported, or `timeout`, `queue_timeout`, `worker_lost` (lost), `no_worker`. Cancelling takes the task back from
        its worker.
        """
        task = FunctionTask.model_construct(
            kind="function",
            task=self._task_id(),
            program=run.program,
            call=run.call,
            tool=run.tool,
            arguments=run.arguments,
            idempotency_key=run.idempotency_key,
            timeout_s=run.timeout_s,
            attempt=run.attempt,
            traceparent=run.traceparent,
            fetch=dict(run.large),
            partial=partial[0] if partial is not None else None,
        )
        job = self._job(task, Skill("tool", run.tool), started, run.timeout_s)
        job.held = intend is not None
        job.pieces = partial[1] if partial is not None else None
        return await self._do(run.tenant, run.toolset, job, intend, queue_s)

    async def ask(self, tenant: str, toolset: str, task: ModelTask, started: Callable[[], None]) -> JsonValue:
        """Ask a hosted model. Raises CallFailure as `run` does."""
        task = task.model_copy(update={"task": self._task_id()})
        return await self._do(tenant, toolset, self._job(task, Skill("model", task.model), started, None))

    @staticmethod
    def _job(task: FunctionTask | ModelTask, skill: Skill, started: Callable[[], None], timeout_s: float | None) -> Job:
        return Job(task, skill, timeout_s, started, asyncio.get_running_loop().create_future())

    async def _do(
        self,
        tenant: str,
        toolset_name: str,
        job: Job,
        intend: Intend | None = None,
        queue_s: float | None = None,
    ) -> JsonValue:
        toolset = self._toolset(tenant, toolset_name)
        loop = asyncio.get_running_loop()
        queue_timer = loop.call_later(queue_s, self._overdue, toolset, job, queue_s) if queue_s is not None else None
        try:
            if intend is not None:
                await self._place(toolset, job, intend)
            else:
                self._enqueue(toolset, job)
            return await job.future
        except asyncio.CancelledError:
            self._withdraw(toolset, job)
            raise
        finally:
            if queue_timer is not None:
                queue_timer.cancel()

    async def _place(self, toolset: _Toolset, job: Job, intend: Intend) -> None:
        """Find a place for an effect, make its intent durable, and only then send it. A worker that goes meanwhile
        has not seen it: another one is found. Raises the job's failure."""
        intended = False
        while True:
            job.placed = asyncio.get_running_loop().create_future()
            toolset = self._toolset(toolset.tenant, toolset.name)  # it may have been forgotten with its last worker
            self._enqueue(toolset, job)
            await asyncio.wait((job.placed, job.future), return_when=asyncio.FIRST_COMPLETED)
            if not intended and not job.future.done():
                try:
                    await intend()
                except BaseException:
                    self._withdraw(toolset, job)
                    raise
                intended = True
            if job.worker is not None:
                job.held = False
                self._send(job.worker, job)
                return
            if job.future.done():
                return

    def _enqueue(self, toolset: _Toolset, job: Job) -> None:
        """Give the job to a free worker, or let it wait for one."""
        worker = toolset.free_worker(job.skill) if not toolset.waiting.get(job.skill) else None
        if worker is not None:
            self._give(worker, job)
            return
        toolset.waiting.setdefault(job.skill, OrderedDict())[job.message.task] = job
        if not toolset.offers(job.skill):
            self._await_worker(toolset, job)

    def _give(self, worker: Worker, job: Job) -> None:
        job.stop()
        worker.take(job)
        if not job.held:
            self._send(worker, job)
        elif job.placed is not None and not job.placed.done():
            job.placed.set_result(None)

    def _send(self, worker: Worker, job: Job) -> None:
        """Tell the worker to begin."""
        assert worker.stream is not None
        if job.timeout_s is None and isinstance(job.message, FunctionTask):
            # the tool's own timeout, as the worker that runs it declares it
            spec = worker.tool(job.message.tool)
            job.timeout_s = spec.timeout_s if spec is not None else None
            job.message = job.message.model_copy(update={"timeout_s": job.timeout_s})
        worker.stream.send(worker.as_sent(job.message))
        job.follow(worker.stream)
        if job.timeout_s is None and isinstance(job.message, FunctionTask):
            job.timeout_s = self._limits.function_s
        if job.timeout_s is not None:
            job.timer = asyncio.get_running_loop().call_later(job.timeout_s, self._expire, job)
        job.started()

    def _feed(self, toolset: _Toolset, skills: Iterable[Skill]) -> None:
        """Hand out what waits for these skills, oldest first, as far as there is room. Task ids grow with age."""
        queues = [queue for skill in skills if (queue := toolset.waiting.get(skill))]
        while queues:
            queue = min(queues, key=lambda waiting: next(iter(waiting)))
            job = next(iter(queue.values()))
            worker = toolset.free_worker(job.skill)
            if worker is None:
                queues.remove(queue)
                continue
            del queue[job.message.task]
            if not queue:
                queues.remove(queue)
                del toolset.waiting[job.skill]
            self._give(worker, job)

    def _leave(self, job: Job) -> None:
        """Take a running job off its worker."""
        job.stop()
        if job.worker is not None:
            job.worker.drop(job)

    def _withdraw(self, toolset: _Toolset, job: Job) -> None:
        """Whoever asked for the job has gone: take it out of the queue, or back from its worker."""
        job.stop()
        toolset = self._toolset(toolset.tenant, toolset.name)
        worker = job.worker
        if worker is None:
            queue = toolset.waiting.get(job.skill)
            if queue is not None and queue.pop(job.message.task, None) is not None and not queue:
                del toolset.waiting[job.skill]
            self._tidy(toolset)
            return
        if job.abandoned:
            return
        if job.held or worker.stream is None:
            worker.drop(job)
            self._feed(toolset, worker.skills)
            return
        # Its place stays taken until the worker says that it stopped: a thread cannot be stopped from outside.
        job.abandoned = True
        worker.stream.send(CancelTask(task=job.message.task))

    # -- what goes wrong ------------------------------------------------------------------------

    def _expire(self, job: Job) -> None:
        worker = job.worker
        if worker is None:
            return
        self._withdraw(self._toolset(worker.tenant, worker.registration.toolset), job)
        _fail(
            job,
            CallFailure(FailureType.TIMEOUT, f"{_what(job)} did not end within {job.timeout_s:g} s", retryable=True),
        )

    def _overdue(self, toolset: _Toolset, job: Job, queue_s: float) -> None:
        """No worker began it in time."""
        if job.worker is not None and not job.held:
            return
        self._withdraw(toolset, job)
        message = f"{_what(job)} was not started within {queue_s:g} s: every worker that offers it is busy"
        _fail(job, CallFailure(FailureType.QUEUE_TIMEOUT, message, retryable=True))

    def _await_others(self, toolset: _Toolset, worker: Worker) -> None:
        """What this worker alone could have done begins to wait for another one."""
        for skill, queue in toolset.waiting.items():
            if skill in worker.skills and not toolset.offers(skill):
                for job in queue.values():
                    if job.timer is None:
                        self._await_worker(toolset, job)

    def _await_worker(self, toolset: _Toolset, job: Job) -> None:
        wait_s = self._limits.worker_wait_s
        job.timer = asyncio.get_running_loop().call_later(wait_s, self._give_up, toolset, job)

    def _give_up(self, toolset: _Toolset, job: Job) -> None:
        self._withdraw(toolset, job)
        connected = len(toolset.workers)
        cause = "none of its connected workers offers it" if connected else "no worker of it is connected"
        message = (
            f"{_what(job)} waited {self._limits.worker_wait_s:g} s for a worker of toolset {toolset.name!r}: {cause}"
        )
        _fail(job, CallFailure(FailureType.NO_WORKER, message, retryable=True))

    def _lost(self, worker: Worker) -> None:
        """The worker is gone: its running tasks are lost, what waits for it alone begins to wait for another."""
        if self._workers.pop(worker.id, None) is None:
            return
        for timer in (worker.attach_timer, worker.beat_timer):
            if timer is not None:
                timer.cancel()
        stream, worker.stream = worker.stream, None
        if stream is not None:
            stream.end()
        toolset = self._toolset(worker.tenant, worker.registration.toolset)
        toolset.workers.pop(worker.id, None)
        self._await_others(toolset, worker)
        for job in [*worker.running.values()]:
            self._leave(job)
            if job.held:
                continue  # the worker never saw it: `_place` looks for another one
            _fail(
                job,
                CallFailure(FailureType.WORKER_LOST, f"the worker disconnected while it ran {_what(job)}", lost=True),
            )
        self._tidy(toolset)

    def _hear(self, worker: Worker) -> None:
        """The worker lives: it may be silent for three heartbeats from now."""
        if worker.beat_timer is not None:
            worker.beat_timer.cancel()
        if worker.registration.beats:
            loop = asyncio.get_running_loop()
            worker.beat_timer = loop.call_later(3 * self._limits.heartbeat_s, self._lost, worker)

    def _end_drained(self, worker: Worker) -> None:
        if worker.draining and not worker.running:
            self._lost(worker)

    def _forget_unattached(self, worker: Worker) -> None:
        if worker.stream is None:
            self._lost(worker)

    # -- small things ---------------------------------------------------------------------------

    def _known(self, worker_id: str, tenant: str) -> Worker:
        worker = self._workers.get(worker_id)
        if worker is None or worker.tenant != tenant:
            raise WorkerUnknown(f"worker {worker_id!r} is not registered, or was lost: register again")
        return worker

    def _toolset(self, tenant: str, name: str) -> _Toolset:
        toolset = self._toolsets.get((tenant, name))
        if toolset is None:
            toolset = self._toolsets[tenant, name] = _Toolset(tenant, name)
        return toolset

    def _tidy(self, toolset: _Toolset) -> None:
        """Forget a toolset that nobody serves or waits for, so that names that came and went cost nothing."""
        if not toolset.workers and not toolset.waiting:
            self._toolsets.pop((toolset.tenant, toolset.name), None)

    def _task_id(self) -> str:
        self._tasks += 1
        return f"task_{self._tasks:012x}"


def _settle(job: Job, value: JsonValue) -> None:
    if not job.future.done():
        job.future.set_result(value)


def _fail(job: Job, failure: CallFailure) -> None:
    if not job.future.done():
        job.future.set_exception(failure)


def _what(job: Job) -> str:
    return f"{job.skill.kind} {job.skill.name!r}"
