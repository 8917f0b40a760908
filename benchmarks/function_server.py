"""A runtime in this process with tools of its own and a planner that writes what it is told, when it is told.

Used by `benchmarks.functions`. Owns no figure.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.null_engine import NullEngine
from engine.protocol import FinishReason, GenerateRequest, TokenChunk, Usage
from orchestrator.clock import LoopClock, OrchestratorClock
from orchestrator.engines import EnginePool
from orchestrator.journal import Journal, NullJournal, SqliteJournal
from orchestrator.limits import Limits
from orchestrator.runtime import Runtime
from orchestrator.scheduling import make_policy
from orchestrator.tools import Toolbox, ToolHost, WorkerPool
from orchestrator.tools.python import PythonTools
from tenuto import Tool
from tenuto.wire import (
    Constant,
    Expr,
    FunctionCall,
    Graph,
    JsonType,
    LLMCall,
    Message,
    PlanOptions,
    ProgramSubmission,
    ProgramView,
    TextPart,
    VariableStatus,
)

TENANT = "default"
ANY = JsonType()
_USAGE = Usage(1, 0, 1, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of a planner's text and the seconds since its beginning at which it has been written."""

    at_s: float
    text: str


class PlannerEngine(NullEngine):
    """Writes, for each prompt, the text that was scripted under it, piece by piece in real time.

    `written` gives the loop's time at which each piece went out, by prompt.
    """

    def __init__(self, scripts: Mapping[str, Sequence[Line]]) -> None:
        super().__init__()
        self.scripts = dict(scripts)
        self.began: dict[str, float] = {}
        self.written: dict[str, list[float]] = {}

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        prompt = request.messages[-1].content
        loop = asyncio.get_running_loop()
        began = self.began[prompt] = loop.time()
        times = self.written[prompt] = []
        for line in self.scripts[prompt]:
            wait_s = began + line.at_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            times.append(loop.time())
            yield TokenChunk(text=line.text, token_ids=())
        yield TokenChunk(text="", token_ids=(), finish=FinishReason.STOP, usage=_USAGE)


class Bench:
    """A started runtime and short ways to run programs on it."""

    def __init__(self, runtime: Runtime, toolbox: Toolbox) -> None:
        self.runtime = runtime
        self.toolbox = toolbox

    async def run(self, submission: ProgramSubmission) -> tuple[str, float, float]:
        """Run to the end: the program's id, and the loop's times of acceptance and of the end."""
        loop = asyncio.get_running_loop()
        summary, _ = await self.runtime.submit(submission, tenant=TENANT)
        accepted_s = loop.time()
        await self.ended(summary.id, submission.graph.outputs)
        return summary.id, accepted_s, loop.time()

    async def ended(self, program: str, outputs: Sequence[str]) -> None:
        """Wait for the outputs and then the program's end, without reading its events."""
        for name in outputs:
            status = VariableStatus.EMPTY
            while status is VariableStatus.EMPTY:
                status = (await self.runtime.variable(program, name, tenant=TENANT, wait_s=300.0)).status
        async for _ in self.runtime.events(program, tenant=TENANT, after_seq=2**62):
            pass

    def view(self, program: str) -> ProgramView:
        return self.runtime.view(program, tenant=TENANT)


@asynccontextmanager
async def bench(
    tools: Iterable[Tool[..., Any, Any]] = (),
    *,
    hosts: Iterable[ToolHost] = (),
    engine: NullEngine | None = None,
    journal: Path | None = None,
    limits: Limits | None = None,
    clock: OrchestratorClock | None = None,
    seed: int = 0,
) -> AsyncIterator[Bench]:
    """A runtime whose server-side tools are these, started and closed."""
    limits = limits or Limits()
    clock = clock or LoopClock()
    rng = Random(seed)
    workers = WorkerPool(limits=limits, rng=rng)
    served = [PythonTools(tools=tools), *hosts]
    toolbox = Toolbox(workers, clock=clock, limits=limits, hosts=served)
    kept: Journal = SqliteJournal(journal, clock=clock) if journal is not None else NullJournal()
    runtime = Runtime(
        clock=clock,
        engines=EnginePool([engine or NullEngine()]),
        workers=workers,
        journal=kept,
        policy=make_policy("program_fcfs"),
        limits=limits,
        rng=rng,
        tools=toolbox,
    )
    await toolbox.start()
    await runtime.start()
    gc.collect()
    try:
        yield Bench(runtime, toolbox)
    finally:
        await runtime.close()
        await toolbox.close()


def function(id: str, tool: str, arguments: Mapping[str, Any], **options: Any) -> FunctionCall:
    """A function call; plain values are constants."""
    exprs: dict[str, Expr] = {
        name: value if hasattr(value, "kind") else Constant(value=value) for name, value in arguments.items()
    }
    return FunctionCall(id=id, tool=tool, arguments=exprs, type=ANY, **options)


def program(calls: Sequence[Any], outputs: Sequence[str] | None = None) -> ProgramSubmission:
    """A declared program; its outputs are its last call's variable unless they are named."""
    named = tuple(outputs) if outputs is not None else (calls[-1].variable,)
    return ProgramSubmission(workflow="bench", graph=Graph(calls=tuple(calls), outputs=named))


def planned(prompt: str, tools: Sequence[str], **options: Any) -> ProgramSubmission:
    """A program of one planning call, whose text makes the others."""
    message = Message(role="user", parts=(TextPart(text=prompt),))
    call = LLMCall(id="plan", messages=(message,), type=ANY, plan=PlanOptions(tools=tuple(tools), **options))
    return program([call])
