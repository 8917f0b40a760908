"""The clients and the tools of a simulation: who submits programs when, and how long function calls take.

Uses the runtime as the API does; sees of a program what its client would see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from orchestrator.runtime import Runtime
from orchestrator.simulation.trace import LLMNode, TraceProgram
from orchestrator.simulation.workload import Submitted, Workload, wire_name
from orchestrator.tools import WorkerPool
from tenuto.wire import (
    CancelTask,
    EventKind,
    FunctionTask,
    Graph,
    GraphExtension,
    ProgramSubmission,
    TaskResult,
    Timeline,
    ToolSpec,
    WorkerRegistration,
)

TOOLSET = "tools"

Ended = Callable[[Submitted, Timeline, float], None]
"""Told of each program: what it was, its timeline, seconds from its arrival to the end of its last call."""

Progress = Callable[[Submitted, int, bool], None]
"""Told of each LLM call that is ready (True) or has ended (False): its program and its node's place."""


class Tools:
    """One worker a tenant, with every tool and room for all calls. A call takes the seconds that the trace says."""

    def __init__(self, pool: WorkerPool, workload: Workload, slow: Callable[[str, float], float]) -> None:
        self._pool, self._workload, self._slow = pool, workload, slow
        self._tasks: list[asyncio.Task[None]] = []

    def serve(self, tenant: str, names: list[str]) -> None:
        """Register and attach a worker."""
        specs = tuple(ToolSpec(name=name, share=False) for name in names)
        info = self._pool.register(WorkerRegistration(toolset=TOOLSET, tools=specs, concurrency=100_000), tenant)
        self._tasks.append(asyncio.get_running_loop().create_task(self._work(info.id, tenant)))

    async def _work(self, worker: str, tenant: str) -> None:
        loop = asyncio.get_running_loop()
        running: dict[str, asyncio.TimerHandle] = {}

        def end(task: FunctionTask | CancelTask) -> None:
            del running[task.task]
            self._pool.results(
                worker, (TaskResult.model_construct(task=task.task, value=None, error=None),), tenant=tenant
            )

        async with aclosing(self._pool.tasks(worker, tenant=tenant)) as tasks:
            async for message in tasks:
                if isinstance(message, CancelTask):
                    timer = running.get(message.task)
                    if timer is not None:
                        timer.cancel()
                        end(message)
                elif isinstance(message, FunctionTask):
                    key = message.arguments["of"]
                    assert isinstance(key, str)
                    seconds, _ = self._workload.durations[key]
                    running[message.task] = loop.call_later(self._slow(key, seconds), end, message)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Clients:
    """Every client of a simulation, one task a program.

    A declared program is submitted whole. An `online` one is extended by each node when what it comes after has ended
    and its wait is over, and sealed after its last: nobody is told earlier what comes next.
    """

    def __init__(
        self, runtime: Runtime, workload: Workload, *, wait_cap_s: float, ended: Ended, progress: Progress
    ) -> None:
        self._runtime, self._workload, self._wait_cap_s = runtime, workload, wait_cap_s
        self._ended, self._progress = ended, progress
        self._live: dict[str, Submitted] = {}

    def foresee(self, program: str, call: str) -> float | None:
        """Seconds from the end of an LLM call to its program's next one, as the trace knows them; None: it is the last.

        What only an oracle may ask. A next call that waits for other LLM calls too may come later.
        """
        made = self._live.get(program)
        return None if made is None else made.pause_s(call, self._wait_cap_s)

    async def run(self, program: TraceProgram) -> None:
        """Submit the program when it arrives and go on with it to its end."""
        loop = asyncio.get_running_loop()
        if program.arrival > loop.time():
            await asyncio.sleep(program.arrival - loop.time())
        made = self._workload.prepare(program)
        try:
            waits = any(isinstance(node, LLMNode) and node.wait for node in program.nodes)
            await _Conversation(self, made, online=program.online or waits).run()
        finally:
            self._workload.forget(program)


class _Conversation:
    """One program from its client's side."""

    def __init__(self, clients: Clients, made: Submitted, *, online: bool) -> None:
        self._live = clients._live
        self._runtime, self._cap_s = clients._runtime, clients._wait_cap_s
        self._told, self._progress = clients._ended, clients._progress
        self._made, self._online = made, online
        self._place = {call.id: place for place, call in enumerate(made.calls)}
        self._left = len(made.calls)
        self._timers: set[asyncio.Task[None]] = set()
        self._id = ""
        self._last_s = 0.0

    async def run(self) -> None:
        source, runtime = self._made.source, self._runtime
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        calls = () if self._online else tuple(self._made.calls)
        summary, _ = await runtime.submit(
            ProgramSubmission(
                workflow=wire_name(source.workflow),
                graph=Graph(calls=calls),
                objective=self._made.objective,
                open=self._online,
                toolset=TOOLSET,
                metadata={"environment": source.environment} if source.environment else {},
            ),
            tenant=source.tenant,
        )
        self._id = summary.id
        self._live[self._id] = self._made
        if self._online:
            await self._send([place for place, waiting in enumerate(self._made.waiting) if not waiting])
        async with aclosing(runtime.events(self._id, tenant=source.tenant)) as events:
            async for event in events:
                if event.kind is EventKind.CALL_ENDED and event.call is not None:
                    self._last_s = loop.time() - began_s
                    await self._on_end(self._place[event.call])
                elif event.kind is EventKind.CALL_READY and event.call is not None:
                    place = self._place[event.call]
                    if isinstance(source.nodes[place], LLMNode):
                        self._progress(self._made, place, True)
                elif event.kind is EventKind.CALL_FAILED and self._online:
                    await runtime.cancel(self._id, tenant=source.tenant)
        for task in self._timers:
            task.cancel()
        del self._live[self._id]
        timeline = runtime.timeline(self._id, tenant=source.tenant)
        self._told(self._made, timeline, self._last_s)

    async def _on_end(self, place: int) -> None:
        made = self._made
        self._left -= 1
        if isinstance(made.source.nodes[place], LLMNode):
            self._progress(made, place, False)
        if not self._online:
            return
        ready = []
        for successor in made.successors[place]:
            made.waiting[successor] -= 1
            if not made.waiting[successor]:
                ready.append(successor)
        if ready:
            await self._send(ready)
        elif not self._left:
            await self._runtime.extend(self._id, GraphExtension(seal=True), tenant=made.source.tenant)

    async def _send(self, places: list[int]) -> None:
        """Submit nodes whose turn it is; those with a wait later."""
        now: list[int] = []
        for place in places:
            node = self._made.source.nodes[place]
            wait_s = min(node.wait, self._cap_s) if isinstance(node, LLMNode) else 0.0
            if wait_s > 0:
                task = asyncio.get_running_loop().create_task(self._send_later(place, wait_s))
                self._timers.add(task)
                task.add_done_callback(self._timers.discard)
            else:
                now.append(place)
        if now:
            await self._extend(now)

    async def _send_later(self, place: int, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await self._extend([place])

    async def _extend(self, places: list[int]) -> None:
        calls = tuple(self._made.calls[place] for place in places)
        await self._runtime.extend(self._id, GraphExtension(calls=calls), tenant=self._made.source.tenant)
