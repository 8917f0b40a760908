"""CPU-bound tools of configured modules, in processes of their own under limits of memory, CPU and output.

Owns the processes. A call that is cancelled, times out or breaks a limit costs its process (and whatever that started);
another one takes its place. Limits are rlimits, and a cgroup (v2) for each process where cgroups can be written: a
tool's children then count too (AgentCgroup, arXiv 2602.09345).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from orchestrator.tools.cgroups import Cgroup
from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.process_child import HEAD, RESOURCE_EXHAUSTED
from orchestrator.tools.python import tools_of
from orchestrator.tools.runs import ToolRun
from tenuto.wire import ToolSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Bounds of one process. `memory_bytes` of address space (with a cgroup: of memory); of one call `cpu_s`, bytes of
    its result, and of what it prints."""

    memory_bytes: int | None = 2 * 2**30
    cpu_s: float | None = 600.0
    result_bytes: int = 8 * 2**20
    print_bytes: int = 64 * 2**10


@dataclass(slots=True, eq=False)
class _Child:
    process: asyncio.subprocess.Process
    cgroup: Cgroup | None
    may_print: int  # bytes of what its call still prints
    forwarding: asyncio.Task[None] | None = None

    async def forward(self) -> None:
        """Show what tools print on our standard error, as far as each call may; the rest is read and thrown away."""
        assert self.process.stderr is not None
        while piece := await self.process.stderr.read(2**16):
            if self.may_print <= 0:
                continue
            sys.stderr.write(piece[: self.may_print].decode(errors="replace"))
            self.may_print -= len(piece)
            if self.may_print <= 0:
                log.warning("a tool in process %d prints too much: the rest is not shown", self.process.pid)

    async def read(self, most: int) -> Any:
        """The next frame. Raises EOFError when the process has gone, ValueError for a frame that is none."""
        assert self.process.stdout is not None
        try:
            size = HEAD.unpack(await self.process.stdout.readexactly(HEAD.size))[0]
            if size > most:
                raise ValueError(f"an answer of {size} bytes, where {most} are allowed")
            return json.loads(await self.process.stdout.readexactly(size))
        except asyncio.IncompleteReadError:
            raise EOFError from None

    def send(self, document: Any) -> None:
        assert self.process.stdin is not None
        body = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
        self.process.stdin.write(HEAD.pack(len(body)) + body)

    def kill(self) -> None:
        """End the process with all that it started."""
        if self.cgroup is not None:
            self.cgroup.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


class ProcessTools:
    """Satisfies `ToolHost`: at most `processes` calls at once, each alone in its process; processes are kept.

    `cgroups`: the control group under which each gets one of its own (see `usable_parent`).
    Invariant: a process is idle in `_idle`, or runs exactly one call, or is dead.
    """

    def __init__(
        self,
        modules: Iterable[str],
        *,
        processes: int = 4,
        limits: ProcessLimits | None = None,
        name: str = "processes",
        cgroups: Path | None = None,
    ) -> None:
        self._modules = tuple(modules)
        self._most = processes
        self._limits = limits or ProcessLimits()
        self._name = name
        self._specs: dict[str, ToolSpec] = {}
        self._idle: deque[_Child] = deque()
        self._burials: set[asyncio.Task[None]] = set()
        self._graves: list[Cgroup] = []
        self._cgroups = cgroups  # where groups may be made; None: rlimits alone
        self._started = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def max_running(self) -> int | None:
        return self._most

    @property
    def specs(self) -> Mapping[str, ToolSpec]:
        return self._specs

    async def start(self) -> None:
        for module in self._modules:
            for name, tool in tools_of(module).items():
                self._specs[name] = tool.spec.model_copy(update={"partial": ()})  # arguments go there whole
        self._idle.append(await self._spawn())  # a module that cannot be loaded there is told now

    async def run(self, run: ToolRun, spec: ToolSpec) -> JsonValue:
        child = self._take_idle() or await self._spawn()
        try:
            child.may_print = self._limits.print_bytes
            child.send({"tool": run.tool, "arguments": run.arguments})
            answer = await child.read(self._limits.result_bytes + 4096)
        except EOFError:
            raise await self._death(child, run.tool) from None
        except ValueError as error:
            self._discard(child)
            raise CallFailure("result_invalid", f"tool {run.tool!r}: {error}") from error
        except BaseException:
            self._discard(child)  # cancelled: killing it is the only way to stop what cannot be asked
            raise
        self._idle.append(child)
        fault = answer.get("error")
        if fault is not None:
            raise CallFailure(fault["type"], fault["message"], retryable=fault["retryable"])
        value: JsonValue = answer["value"]
        return value

    async def close(self) -> None:
        while self._idle:
            self._discard(self._idle.popleft())
        await asyncio.gather(*self._burials, return_exceptions=True)

    # -- processes ------------------------------------------------------------------------------

    def _take_idle(self) -> _Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.process.returncode is None:
                return child
            self._discard(child)
        return None

    async def _spawn(self) -> _Child:
        """A fresh process. Raises ValueError if it cannot load its modules."""
        limits = self._limits
        cgroup = self._make_cgroup()
        options = {
            "modules": self._modules,
            "memory_bytes": None if cgroup is not None else limits.memory_bytes,
            "cpu_s": limits.cpu_s,
            "result_bytes": limits.result_bytes,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "orchestrator.tools.process_child", json.dumps(options)),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },  # it finds what this process finds
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=2**20,
        )
        child = _Child(process, cgroup, limits.print_bytes)
        child.forwarding = asyncio.create_task(child.forward(), name=f"output of {process.pid}")
        if not self._contained(child):
            return await self._spawn()
        try:
            await child.read(4096)
        except (EOFError, ValueError) as error:
            self._discard(child)
            raise ValueError(f"a process for {', '.join(self._modules)} ended while it started") from error
        except BaseException:
            self._discard(child)
            raise
        return child

    def _make_cgroup(self) -> Cgroup | None:
        """A cgroup for the next process, if this server may make one."""
        if self._cgroups is None or self._limits.memory_bytes is None:
            return None
        self._started += 1
        name = f"tenuto-{os.getpid()}-{self._name}-{self._started}"
        try:
            return Cgroup.make(self._cgroups, name, self._limits.memory_bytes)
        except OSError as error:
            self._do_without_cgroups(error)
            return None

    def _contained(self, child: _Child) -> bool:
        """Put the process into its cgroup, if it has one; False if that failed, and the process is gone."""
        try:
            if child.cgroup is not None:
                child.cgroup.add(child.process.pid)
        except OSError as error:
            self._do_without_cgroups(error)
            self._discard(child)
            return False
        return True

    def _do_without_cgroups(self, error: OSError) -> None:
        log.warning("tools run under rlimits alone: %s cannot be used: %s", self._cgroups, error)
        self._cgroups = None

    async def _death(self, child: _Child, tool: str) -> CallFailure:
        """Why a process went under its call."""
        child.kill()  # it may have closed its pipe and live on
        code = await child.process.wait()
        ran_out = child.cgroup is not None and child.cgroup.ran_out
        self._discard(child)
        if code == -signal.SIGXCPU:
            return CallFailure(RESOURCE_EXHAUSTED, f"tool {tool!r} used more than {self._limits.cpu_s:g} s of CPU")
        if ran_out or (code == -signal.SIGKILL and child.cgroup is None):
            return CallFailure(RESOURCE_EXHAUSTED, f"tool {tool!r} was killed: it needs more memory than it may have")
        message = f"the process of tool {tool!r} ended with code {code}"
        return CallFailure(FailureType.WORKER_LOST, message, lost=True)

    def _discard(self, child: _Child) -> None:
        child.kill()
        task = asyncio.create_task(self._bury(child))
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _bury(self, child: _Child) -> None:
        """Wait for a killed process, and leave nothing behind."""
        await child.process.wait()
        if child.forwarding is not None:
            child.forwarding.cancel()
        if child.cgroup is not None:
            self._graves.append(child.cgroup)
        self._graves = [cgroup for cgroup in self._graves if not cgroup.remove()]  # children may take a moment longer
