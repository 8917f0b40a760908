"""The clients and the tools of a simulation: who submits programs when, and how long function calls take.

Uses the runtime as the API does; sees of a program what its client would see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from orchestrator.clock import OrchestratorClock
from orchestrator.runtime import Runtime
from orchestrator.simulation.trace import LLMNode, TraceProgram
from orchestrator.simulation.workload import Blueprint, Library, objective, wire_name
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
_SEAL = GraphExtension(seal=True)

Ended = Callable[[TraceProgram, Timeline, float], None]
"""Told of each program: what it was, its timeline, seconds from its arrival to the end of its last call."""

Progress = Callable[[TraceProgram, Blueprint, int, bool], None]
"""Told of each LLM call that is ready (True) or has ended (False): its program and its node's place."""


class Tools:
    """One worker a tenant, with every tool and room for all calls. A call takes the seconds that the trace says."""

    def __init__(self, pool: WorkerPool, library: Library, slow: Callable[[str, float], float]) -> None:
        self._pool, self._library, self._slow = pool, library, slow
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
                    seconds = self._library.durations[key]
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
        self,
        runtime: Runtime,
        library: Library,
        clock: OrchestratorClock,
        *,
        wait_cap_s: float,
        ended: Ended,
        progress: Progress,
    ) -> None:
        self._runtime, self._library = runtime, library
        self.wait_cap_s, self.ended, self.progress = wait_cap_s, ended, progress
        self.clock = clock
        self._live: dict[str, Blueprint] = {}

    def enrol(self, id: str, source: TraceProgram, blueprint: Blueprint) -> None:
        """The runtime's program `id` is this one."""
        self._library.book.enrol(id, source.copy)
        self._live[id] = blueprint

    def leave(self, id: str) -> None:
        self._library.book.leave(id)
        del self._live[id]

    def foresee(self, program: str, call: str) -> float | None:
        """Seconds from the end of an LLM call to its program's next one, as the trace knows them; None: it is the last.

        What only an oracle may ask. A next call that waits for other LLM calls too may come later.
        """
        blueprint = self._live.get(program)
        return None if blueprint is None else blueprint.pause_s(call, self.wait_cap_s)

    async def run(self, program: TraceProgram) -> None:
        """Submit the program when it arrives and go on with it to its end."""
        if program.arrival > self.clock.now():
            await self.clock.sleep(program.arrival - self.clock.now())
        blueprint = self._library.blueprint(program)
        await _Conversation(self, program, blueprint).run()


class _Conversation:
    """One program from its client's side."""

    def __init__(self, clients: Clients, source: TraceProgram, blueprint: Blueprint) -> None:
        self._clients, self._runtime = clients, clients._runtime
        self._source, self._blueprint = source, blueprint
        self._online = source.online or blueprint.has_waits
        self._waiting = list(blueprint.waiting)
        self._left = len(blueprint.calls)
        self._timers: set[asyncio.Task[None]] = set()
        self._id = ""
        self._last_s = 0.0

    async def run(self) -> None:
        source, runtime, blueprint, clients = self._source, self._runtime, self._blueprint, self._clients
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        summary, _ = await runtime.submit(
            ProgramSubmission(
                workflow=wire_name(source.workflow),
                graph=Graph(calls=() if self._online else blueprint.calls),
                objective=objective(source),
                open=self._online,
                toolset=TOOLSET,
                metadata={"environment": source.environment} if source.environment else {},
            ),
            tenant=source.tenant,
        )
        self._id = summary.id
        clients.enrol(summary.id, source, blueprint)
        if self._online:
            await self._send([place for place, waiting in enumerate(self._waiting) if not waiting])
        async with aclosing(runtime.entries(self._id, tenant=source.tenant)) as events:
            async for event in events:
                if event.call is None:
                    continue
                if event.kind is EventKind.CALL_ENDED:
                    self._last_s = loop.time() - began_s
                    await self._on_end(blueprint.place[event.call])
                elif event.kind is EventKind.CALL_READY:
                    place = blueprint.place[event.call]
                    if isinstance(blueprint.nodes[place], LLMNode):
                        clients.progress(source, blueprint, place, True)
                elif event.kind is EventKind.CALL_FAILED and self._online:
                    await runtime.cancel(self._id, tenant=source.tenant)
        for task in self._timers:
            task.cancel()
        clients.leave(self._id)
        clients.ended(source, runtime.timeline(self._id, tenant=source.tenant), self._last_s)

    async def _on_end(self, place: int) -> None:
        blueprint = self._blueprint
        self._left -= 1
        if isinstance(blueprint.nodes[place], LLMNode):
            self._clients.progress(self._source, blueprint, place, False)
        if not self._online:
            return
        ready = []
        for successor in blueprint.successors[place]:
            self._waiting[successor] -= 1
            if not self._waiting[successor]:
                ready.append(successor)
        if ready:
            await self._send(ready)
        elif not self._left:
            await self._runtime.extend(self._id, _SEAL, tenant=self._source.tenant)

    async def _send(self, places: list[int]) -> None:
        """Submit nodes whose turn it is; those with a wait later."""
        now: list[int] = []
        for place in places:
            node = self._blueprint.nodes[place]
            wait_s = min(node.wait, self._clients.wait_cap_s) if isinstance(node, LLMNode) else 0.0
            if wait_s > 0:
                task = asyncio.get_running_loop().create_task(self._send_later(place, wait_s))
                self._timers.add(task)
                task.add_done_callback(self._timers.discard)
            else:
                now.append(place)
        if now:
            await self._extend(now)

    async def _send_later(self, place: int, wait_s: float) -> None:
        await self._clients.clock.sleep(wait_s)
        await self._extend([place])

    async def _extend(self, places: list[int]) -> None:
        blueprint, body = self._blueprint, None
        if len(places) == 1:
            extension, body = blueprint.extensions[places[0]]
        else:
            extension = GraphExtension(calls=tuple(blueprint.calls[place] for place in places))
        await self._runtime.extend(self._id, extension, tenant=self._source.tenant, body=body)
