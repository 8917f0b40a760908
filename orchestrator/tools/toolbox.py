"""Every tool that programs may call, wherever it runs, and the rules under which it does.

Owns caps, queue and attempt timeouts, shared and kept `read` results. Never retries and never orders effects: those
are the program's affair. A run ends with a value or a `CallFailure`, and gives back everything it took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

from pydantic import JsonValue

from dag.diagnostics import listing
from orchestrator.clock import OrchestratorClock
from orchestrator.limits import Limits
from orchestrator.telemetry import names
from orchestrator.tools.caps import Caps
from orchestrator.tools.deadlines import Deadlines
from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.foresight import Ended, Foreseen
from orchestrator.tools.handed import HandedOut
from orchestrator.tools.partial import PartialRun, PartialRuns
from orchestrator.tools.pool import OfferedTool, WorkerPool
from orchestrator.tools.runs import Intend, ToolHost, ToolRun, canonical
from orchestrator.tools.sharing import ReadKey, ReadResults
from orchestrator.tools.speculation import Speculation
from tenuto.wire import EffectClass, ToolSpec

SERVER_TOOLSET = "server"
"""The name under which the server's own tools are listed."""


class Toolbox:
    """Finds who runs a tool, and lets it run when every cap has room.

    A tool that the program's own workers offer goes to them; else to the server's host of that name; else it waits
    for a worker. Hosts with equal tool names are refused when they are given.
    """

    def __init__(
        self,
        workers: WorkerPool,
        *,
        clock: OrchestratorClock,
        limits: Limits,
        hosts: Iterable[ToolHost] = (),
    ) -> None:
        self._workers = workers
        self._clock = clock
        self._limits = limits
        self._hosts = tuple(hosts)
        self._by_tool: dict[str, tuple[ToolHost, ToolSpec]] = {}
        self.caps = Caps()
        self._speculates = False
        self._deadlines = Deadlines(clock)
        self.partial = PartialRuns()
        self.handed = HandedOut()
        self.reads = ReadResults(clock, limit_bytes=limits.tool_cache_bytes)
        self.ahead = Speculation(clock, most=limits.speculations)

    async def start(self) -> None:
        """Make the server's own tools ready. Raises ValueError if one cannot be, or if two share a name."""
        for host in self._hosts:
            await host.start()
            for name in host.specs:
                if name in self._by_tool:
                    other = self._by_tool[name][0].name
                    raise ValueError(f"tool {name!r} is offered by {other!r} and by {host.name!r}: give one a prefix")
            self.refresh(host)

    def refresh(self, host: ToolHost) -> None:
        """The host's tools have changed."""
        for name in [name for name, (owner, _) in self._by_tool.items() if owner is host]:
            del self._by_tool[name]
        for name, spec in host.specs.items():
            self._by_tool.setdefault(name, (host, spec))

    async def close(self) -> None:
        self._deadlines.close()
        await self.ahead.close()
        self.partial.close()
        for host in reversed(self._hosts):
            await host.close()

    # -- questions ------------------------------------------------------------------------------

    def specs(self, tenant: str, toolset: str | None) -> Mapping[str, ToolSpec]:
        """The tools that a program of this toolset may call, by name."""
        own = self._workers.specs(tenant, toolset)
        if not self._by_tool:
            return own
        return {**{name: spec for name, (_, spec) in self._by_tool.items()}, **own}

    def spec(self, tenant: str, toolset: str | None, tool: str) -> ToolSpec | None:
        """One tool; None if nobody offers it now."""
        own = self._workers.spec(tenant, toolset, tool)
        if own is None and tool in self._by_tool:
            return self._by_tool[tool][1]
        return own

    def tools(self, tenant: str) -> tuple[OfferedTool, ...]:
        """Every tool of the tenant's workers and of the server."""
        served = tuple(OfferedTool(SERVER_TOOLSET, spec, 1) for _, spec in self._by_tool.values())
        return self._workers.tools(tenant) + served

    def program_ended(self, program: str) -> None:
        """What was begun or run ahead for the program is of no use any more."""
        self.ahead.program_ended(program)
        self.partial.program_ended(program)
        self.handed.program_ended(program)

    # -- running --------------------------------------------------------------------------------

    async def run(self, run: ToolRun, started: Callable[[], None], intend: Intend | None = None) -> JsonValue:
        """One attempt of a function call. `started` is told when the tool begins; `intend`, given for calls with an
        effect, is awaited before.

        Raises CallFailure: what the tool reported, or `queue_timeout`, `timeout`, `no_worker`, `worker_lost`.
        Cancelling it cancels the tool.
        """
        if run.handed:
            started()
            return await self.handed.result(run, self._limits.function_s)
        spec = self._workers.spec(run.tenant, run.toolset, run.tool)
        host: ToolHost | None = None
        if spec is None and (found := self._by_tool.get(run.tool)) is not None:
            host, spec = found
        if spec is None and not run.toolset:
            raise self._nobody(run.tool)
        place = f"host:{host.name}" if host is not None else f"toolset:{run.toolset}"
        if self.partial.holds(run.program, run.call) and intend is None:
            begun = self.partial.take(run.program, run.call, run.tool, run.arguments)
            if begun is not None:
                started()
                run.came_early("partial", self._clock.now() - begun.began_s)
                return await self._finished(begun)
        if intend is not None:
            try:
                return await self._capped(run, spec, host, started, intend)
            finally:
                self.reads.wrote(run.tenant, place)
        if spec is None or spec.effect is not EffectClass.READ or not (spec.share or spec.cache_s or spec.speculate):
            return await self._capped(run, spec, host, started, None)
        return await self._read(run, spec, host, place, started)

    def _nobody(self, tool: str) -> CallFailure:
        """No worker can ever come for a program without a toolset."""
        known = f"there are {listing(self._by_tool)}" if self._by_tool else "there is none"
        message = f"nobody offers tool {tool!r}: the program names no toolset, and of the server's own {known}"
        return CallFailure(FailureType.NO_WORKER, message)

    async def _read(
        self, run: ToolRun, spec: ToolSpec, host: ToolHost | None, place: str, started: Callable[[], None]
    ) -> JsonValue:
        """A run whose result others may have too."""
        reads = self.reads
        key = ReadKey(run.tenant, place, run.tool, canonical(run.arguments))
        if spec.cache_s is not None and (known := reads.known(key)) is not None:
            started()
            run.came_early("kept")
            return known[0]
        writes = reads.writes
        if spec.speculate:
            self._speculates = True
            self.ahead.made(run.workflow, run.program, run.tool, run.arguments)
            if (early := await self._taken(key, started)) is not None:
                run.came_early("foreseen", early[1])
                return early[0]
        if spec.share:
            shared = partial(self._shares, run, started)
            value = await reads.run(key, lambda: self._capped(run, spec, host, started, None), shared)
        else:
            value = await self._capped(run, spec, host, started, None)
        if spec.cache_s is not None:
            reads.keep(key, value, spec.cache_s, writes)
        return value

    @staticmethod
    def _shares(run: ToolRun, started: Callable[[], None]) -> None:
        started()
        run.came_early("shared")

    def begin(self, run: ToolRun, name: str) -> PartialRun | None:
        """Begin a `read` tool on a part of its argument `name`, if it asks for that and there is room."""
        spec = self._workers.spec(run.tenant, run.toolset, run.tool)
        host: ToolHost | None = None
        if spec is None and (found := self._by_tool.get(run.tool)) is not None:
            host, spec = found
        if spec is None or spec.effect is not EffectClass.READ or name not in spec.partial:
            return None
        if host is None and not self._workers.begins(run.tenant, run.toolset, run.tool):
            return None
        wanted = self._wanted(run, spec, host)
        if not self.caps.try_enter(wanted):
            return None

        async def on(pieces: Any) -> JsonValue:
            if host is None:
                return await self._workers.run(run, lambda: None, partial=(name, pieces))
            whole = run._replace(arguments={**run.arguments, name: pieces})
            return await self._hosted(whole, spec, host, lambda: None)

        begun = self.partial.begin(run.program, run.call, run.tool, name, run.arguments, on, self._clock.now())
        begun.task.add_done_callback(lambda _: self.caps.leave(wanted))  # a task dropped at once never runs its body
        return begun

    @staticmethod
    async def _finished(begun: PartialRun) -> JsonValue:
        try:
            return await begun.task
        except asyncio.CancelledError:
            begun.task.cancel()
            raise

    async def _taken(self, key: ReadKey, started: Callable[[], None]) -> tuple[JsonValue, float] | None:
        """The result of an equal call that was run ahead, and its head start in seconds."""
        if not self.ahead.holds(key):
            return None
        started()
        return await self.ahead.take(key, self.reads.last_write(key))

    def sources(self) -> Mapping[str, Callable[[], list[tuple[float, dict[str, str]]]]]:
        """What is counted here, by the metric that shows it."""
        ahead = self.ahead.counts
        return {
            "tenuto.tools.waiting": lambda: [(self.caps.queued, {})],
            "tenuto.tools.early": lambda: [
                (ahead.used, {names.TOOL_EARLY: "foreseen"}),
                (self.partial.used, {names.TOOL_EARLY: "partial"}),
                (self.reads.shared, {names.TOOL_EARLY: "shared"}),
                (self.reads.hits, {names.TOOL_EARLY: "kept"}),
            ],
            "tenuto.speculation.runs": lambda: [
                (ahead.used, {names.SPECULATION: "used"}),
                (ahead.wasted, {names.SPECULATION: "wasted"}),
            ],
            "tenuto.speculation.seconds": lambda: [
                (ahead.saved_s, {names.SPECULATION: "used"}),
                (ahead.wasted_s, {names.SPECULATION: "wasted"}),
            ],
        }

    @property
    def speculates(self) -> bool:
        """True once a tool that may be run ahead was called: until then nothing need be remembered."""
        return self._speculates

    def ended(self, run: ToolRun, stage: str, result: JsonValue) -> None:
        """A call ended well: what usually follows it may be run ahead."""
        self.ahead.ended(run.workflow, run.program, Ended(stage, run.arguments, result), partial(self._foreseen, run))

    def _foreseen(
        self, run: ToolRun, foreseen: Foreseen
    ) -> tuple[ReadKey, int, Callable[[], Coroutine[Any, Any, JsonValue]]] | None:
        """How a foreseen call is run: only if its tool asks for it, and there is room that nobody waits for."""
        spec = self._workers.spec(run.tenant, run.toolset, foreseen.tool)
        host: ToolHost | None = None
        if spec is None and (found := self._by_tool.get(foreseen.tool)) is not None:
            host, spec = found
        if spec is None or not spec.speculate or spec.effect is not EffectClass.READ:
            return None
        place = f"host:{host.name}" if host is not None else f"toolset:{run.toolset}"
        key = ReadKey(run.tenant, place, foreseen.tool, canonical(foreseen.arguments))
        ahead = ToolRun(
            run.program, f"{run.call}+ahead", foreseen.tool, run.tenant, run.toolset, foreseen.arguments, attempt=1,
            traceparent=run.traceparent, key=(inf,), workflow=run.workflow,
        )  # fmt: skip
        wanted = self._wanted(ahead, spec, host)
        if not self.caps.try_enter(wanted):
            return None
        self.caps.leave(wanted)
        return key, self.reads.writes, lambda: self._capped(ahead, spec, host, lambda: None, None)

    async def _capped(
        self,
        run: ToolRun,
        spec: ToolSpec | None,
        host: ToolHost | None,
        started: Callable[[], None],
        intend: Intend | None,
    ) -> JsonValue:
        """Run it when every cap has room."""
        wanted = self._wanted(run, spec, host)
        queue_s = _least(spec.queue_timeout_s if spec is not None else None, self._left_s(run))
        began_s = self._clock.now() if queue_s is not None else 0.0
        if not self.caps.try_enter(wanted):
            await self._queue(run, wanted, queue_s)
        try:
            if host is None:
                left_s = None if queue_s is None else max(0.0, began_s + queue_s - self._clock.now())
                return await self._workers.run(self._bounded(run, spec), started, intend, queue_s=left_s)
            assert spec is not None
            if intend is not None:
                await intend()
            return await self._hosted(run, spec, host, started)
        finally:
            self.caps.leave(wanted)

    def _left_s(self, run: ToolRun) -> float | None:
        """Seconds until the call's deadline."""
        return None if run.deadline_s is None else max(0.0, run.deadline_s - self._clock.now())

    def _bounded(self, run: ToolRun, spec: ToolSpec | None) -> ToolRun:
        """The run for a worker, whose attempt ends with the call's deadline at the latest."""
        left_s = self._left_s(run)
        if left_s is None:
            return run
        own_s = run.timeout_s if run.timeout_s is not None or spec is None else spec.timeout_s
        return run._replace(timeout_s=max(_least(own_s, left_s) or 0.0, 0.001))

    def _wanted(self, run: ToolRun, spec: ToolSpec | None, host: ToolHost | None) -> list[tuple[Hashable, int]]:
        """The caps of a call, from the narrowest to the widest."""
        limits = self._limits
        wanted: list[tuple[Hashable, int]] = [
            (("program", run.program), limits.program_functions),
            (("tenant", run.tenant), limits.tenant_functions),
            ("server", limits.functions),
        ]
        if spec is not None and spec.max_running is not None:
            wanted.insert(0, (("tool", run.tenant, run.toolset, run.tool), spec.max_running))
        if host is not None and host.max_running is not None:
            wanted.insert(0, (("host", host.name), host.max_running))
        return wanted

    async def _queue(self, run: ToolRun, wanted: Sequence[tuple[Hashable, int]], queue_s: float | None) -> None:
        if queue_s is None:
            await self.caps.enter(wanted, run.key)
            return
        try:
            with self._deadlines.within(queue_s):
                await self.caps.enter(wanted, run.key)
        except TimeoutError:
            message = f"tool {run.tool!r} was not started within {queue_s:g} s: too many calls run"
            raise CallFailure(FailureType.QUEUE_TIMEOUT, message, retryable=True) from None

    async def _hosted(self, run: ToolRun, spec: ToolSpec, host: ToolHost, started: Callable[[], None]) -> JsonValue:
        own_s = run.timeout_s if run.timeout_s is not None else spec.timeout_s
        timeout_s = _least(own_s, self._left_s(run))
        most_s = self._limits.function_s if timeout_s is None else timeout_s
        started()
        timer = self._deadlines.within(most_s)
        try:
            with timer:
                return await host.run(run, spec)
        except TimeoutError:
            if not timer.expired:
                raise CallFailure("tool_error", f"tool {run.tool!r} raised TimeoutError", retryable=True) from None
            of = "" if timeout_s is not None else " (limits.function_s)"
            message = f"tool {run.tool!r} did not end within {most_s:g} s{of}"
            raise CallFailure(FailureType.TIMEOUT, message, retryable=True) from None


def _least(one: float | None, other: float | None) -> float | None:
    """The smaller bound; None is none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
