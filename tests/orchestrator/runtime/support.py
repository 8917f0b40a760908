"""Doubles of what a runtime works with, and short ways to write programs.

`Server` is a runtime with everything around it, in this process; `crash` kills it as a power cut would.
`ScriptedEngine` answers as it is told, `ScriptedWorker` runs Python functions as tools. All in virtual time.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from engine.protocol import (
    Capabilities,
    EngineEvent,
    Estimate,
    FinishReason,
    GenerateRequest,
    Lease,
    LeaseGrant,
    LeaseOutcome,
    ModelInfo,
    PriorityKey,
    PrioritySupport,
    TokenChunk,
    Usage,
)
from orchestrator.caching.call_cache import CallCache, NoCallCache
from orchestrator.engines import EnginePool
from orchestrator.journal import Journal, NullJournal, SqliteJournal
from orchestrator.limits import Limits
from orchestrator.retention import RetentionRule
from orchestrator.runtime import Runtime
from orchestrator.runtime.program import Program
from orchestrator.scheduling import Policy, make_policy
from orchestrator.telemetry import Metrics, Telemetry
from orchestrator.tools import Toolbox, ToolHost, WorkerPool
from orchestrator.virtual_time import VirtualClock
from tenuto.wire import (
    Call,
    CancelTask,
    Constant,
    EffectClass,
    ErrorValue,
    Event,
    EventKind,
    Expr,
    FunctionCall,
    FunctionTask,
    Graph,
    HostedModel,
    InputVariable,
    JsonType,
    LLMCall,
    Message,
    ModelTask,
    ProgramSubmission,
    ProgramView,
    Reference,
    TaskResult,
    TextPart,
    TextType,
    ToolSpec,
    ValueType,
    VariablePart,
    WorkerInfo,
    WorkerRegistration,
)

TENANT = "default"
TOOLSET = "tools"
ANY_JSON = JsonType()


# -- programs -----------------------------------------------------------------------------------


def var(name: str, *path: str | int) -> Reference:
    """A variable, in a prompt or an argument."""
    return Reference(variable=name, path=path)


def llm(id: str, *prompt: str | Reference, **options: Any) -> LLMCall:
    """An LLM call; strings of the prompt are constant parts, references holes."""
    parts = [
        TextPart(text=p) if isinstance(p, str) else VariablePart(variable=p.variable, path=p.path)
        for p in prompt or ("say something",)
    ]
    return LLMCall(id=id, messages=(Message(role="user", parts=tuple(parts)),), **options)


def function(
    id: str, tool: str, arguments: Mapping[str, Any] | None = None, *, type: ValueType = ANY_JSON, **options: Any
) -> FunctionCall:
    """A function call, `read` unless `effect` says otherwise; plain values of `arguments` are constants."""
    exprs: dict[str, Expr] = {
        name: value if isinstance(value, Reference) else Constant(value=value)
        for name, value in (arguments or {}).items()
    }
    options.setdefault("effect", EffectClass.READ)
    return FunctionCall(id=id, tool=tool, arguments=exprs, type=type, **options)


def program(
    *calls: Call,
    inputs: Mapping[str, Any] | None = None,
    outputs: tuple[str, ...] | None = None,
    **options: Any,
) -> ProgramSubmission:
    """A submission whose outputs are all its calls' variables unless they are named."""
    given = {
        name: InputVariable(type=TextType() if isinstance(value, str) else ANY_JSON, value=value)
        for name, value in (inputs or {}).items()
    }
    named = tuple(call.variable for call in calls) if outputs is None else outputs
    options.setdefault("toolset", TOOLSET)
    options.setdefault("workflow", "test")
    return ProgramSubmission(graph=Graph(inputs=given, calls=calls, outputs=named), **options)


# -- engine -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Say:
    """Generate `text`, one word a chunk, over `seconds`, after `queue_s` of waiting."""

    text: str
    seconds: float = 0.0
    queue_s: float = 0.0
    finish: FinishReason = FinishReason.STOP


@dataclass(frozen=True)
class Break:
    """Generate `text`, then raise `error`."""

    error: Exception
    text: str = ""
    after_s: float = 0.0


@dataclass(frozen=True)
class Hang:
    """Generate `text` and then nothing, for ever."""

    text: str = ""


Answer = str | Say | Break | Hang
Script = Callable[[GenerateRequest], Answer]


def prompt_of(request: GenerateRequest) -> str:
    """The request's messages as one text."""
    return "\n".join(message.content for message in request.messages)


def echo(request: GenerateRequest) -> Answer:
    """Answer `<prompt>`."""
    return f"<{prompt_of(request)}>"


class ScriptedEngine:
    """An engine that answers each request as `script` says.

    `requests` holds every request, `running` the ids that run now, `aborted` those whose iterator was closed early.
    """

    def __init__(
        self, script: Script = echo, *, name: str = "scripted", serves: str = "", grammar: bool = True
    ) -> None:
        self.script = script
        self._name, self._serves = name, serves or name
        self._capabilities = Capabilities(priority=PrioritySupport.MUTABLE, grammar=grammar)
        self.requests: list[GenerateRequest] = []
        self.running: set[str] = set()
        self.aborted: list[str] = []
        self.keys: list[tuple[str, PriorityKey]] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(name=self._serves, context_tokens=10**6, vocab_size=256)

    def calls(self, call: str) -> list[GenerateRequest]:
        """The requests of one call, in order."""
        return [request for request in self.requests if request.call == call]

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.requests.append(request)
        self.running.add(request.id)
        ended = False
        try:
            answer = self.script(request)
            if isinstance(answer, str):
                answer = Say(answer)
            if isinstance(answer, Say):
                async for chunk in _say(request, answer):
                    yield chunk
                ended = True
                return
            if answer.text:
                yield TokenChunk(answer.text, (0,))
            if isinstance(answer, Hang):
                await asyncio.Event().wait()
            else:
                await asyncio.sleep(answer.after_s)
                ended = True
                raise answer.error
        finally:
            self.running.discard(request.id)
            if not ended:
                self.aborted.append(request.id)

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        self.keys.append((program, key))

    async def limit_running(self, limit: int) -> None:
        return

    async def retain(self, lease: Lease) -> LeaseGrant:
        return LeaseGrant(lease.id, 0, None, 0.0)

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return LeaseGrant(lease, 0, None, 0.0)

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        return

    async def demote(self, lease: str) -> LeaseGrant:
        return LeaseGrant(lease, 0, None, 0.0)

    async def prefetch(self, lease: str, within_s: float) -> None:
        return

    async def abort(self, request: str) -> None:
        return

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        return Estimate({}, 0.0, 0.0)

    async def events(self) -> AsyncIterator[EngineEvent]:
        return
        yield

    async def close(self) -> None:
        return


async def _say(request: GenerateRequest, answer: Say) -> AsyncIterator[TokenChunk]:
    words = answer.text.split(" ")
    await asyncio.sleep(answer.queue_s)
    for index, word in enumerate(words):
        if answer.seconds:
            await asyncio.sleep(answer.seconds / len(words))
        yield TokenChunk(word if index == 0 else " " + word, (index,))
    prompt_tokens = len(prompt_of(request).split())
    usage = Usage(prompt_tokens, 0, len(words), answer.queue_s, 0.0, answer.seconds)
    yield TokenChunk("", (), answer.finish, usage)


def sequence(*answers: Answer) -> Script:
    """Answer the n-th request with the n-th answer, and the last one from then on."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


# -- worker -------------------------------------------------------------------------------------


class ToolError(Exception):
    """Raised by a test's tool to choose the error that its worker reports."""

    def __init__(self, type: str = "tool_error", *, retryable: bool = True) -> None:
        super().__init__(type)
        self.type = type
        self.retryable = retryable


Tool = Callable[..., Any]


class ScriptedWorker:
    """A worker whose tools are Python functions of this test, sync or async. A tool is told its arguments by name.

    `ran` lists (tool, arguments) of every task that came, `cancelled` the tasks that were taken back.
    """

    def __init__(
        self,
        pool: WorkerPool,
        *,
        models: Mapping[str, Callable[[ModelTask], Awaitable[str]]] | None = None,
        concurrency: int = 256,
        toolset: str = TOOLSET,
        tenant: str = TENANT,
        specs: tuple[ToolSpec, ...] = (),
        **tools: Tool,
    ) -> None:
        self._pool = pool
        self._tenant = tenant
        self._tools = tools
        self._models = dict(models or {})
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.ran: list[tuple[str, dict[str, Any]]] = []
        self.seen: list[FunctionTask | ModelTask] = []
        self.cancelled: list[str] = []
        known = {spec.name for spec in specs}
        self.registration = WorkerRegistration(
            toolset=toolset,
            tools=(*specs, *(ToolSpec(name=name) for name in tools if name not in known)),
            models=tuple(HostedModel(name=name) for name in self._models),
            concurrency=concurrency,
        )
        self.info: WorkerInfo = pool.register(self.registration, tenant)
        self._stream = pool.tasks(self.info.id, tenant=tenant)
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._stream) as messages:
            async for message in messages:
                if isinstance(message, CancelTask):
                    self.cancelled.append(message.task)
                    if (task := self._tasks.get(message.task)) is not None:
                        task.cancel()
                else:
                    self.seen.append(message)
                    self._tasks[message.task] = asyncio.create_task(self._work(message))

    async def _work(self, message: FunctionTask | ModelTask) -> None:
        try:
            if isinstance(message, FunctionTask):
                self.ran.append((message.tool, message.arguments))
                value = self._tools[message.tool](**message.arguments)
            else:
                value = self._models[message.model](message)
            if inspect.isawaitable(value):
                value = await value
            result = TaskResult(task=message.task, value=value)
        except ToolError as error:
            fault = ErrorValue(type=error.type, message=f"the tool says {error.type}")
            result = TaskResult(task=message.task, error=fault, retryable=error.retryable)
        except asyncio.CancelledError:
            if message.task not in self.cancelled:
                raise  # the worker itself goes
            result = TaskResult(task=message.task, error=ErrorValue(type="cancelled", message="taken back"))
        finally:
            del self._tasks[message.task]
        self._pool.results(self.info.id, [result], tenant=self._tenant)

    async def disconnect(self) -> None:
        """Vanish: the stream closes, what runs is never answered."""
        self._reader.cancel()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(self._reader, *self._tasks.values(), return_exceptions=True)


# -- server -------------------------------------------------------------------------------------


@dataclass
class Server:
    """A runtime and what it works with. `journal` is a file, or None for a server that keeps nothing."""

    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    journal_path: Path | None = None
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    policy: str | Policy = "program_fcfs"
    telemetry: Telemetry | None = None
    metrics: Metrics | None = None
    retention: RetentionRule | None = None
    more_engines: tuple[ScriptedEngine, ...] = ()
    hosts: tuple[ToolHost, ...] = ()
    make_cache: Callable[[EnginePool, VirtualClock], Awaitable[CallCache]] | None = None

    async def start(self) -> Server:
        """Start, and go on with what the journal holds."""
        self.clock = VirtualClock()
        rng = Random(self.seed)
        self.workers = WorkerPool(limits=self.limits, rng=rng)
        self.journal: Journal = (
            NullJournal() if self.journal_path is None else SqliteJournal(self.journal_path, clock=self.clock)
        )
        pool = EnginePool([self.engine, *self.more_engines])
        self.cache = NoCallCache() if self.make_cache is None else await self.make_cache(pool, self.clock)
        self.tools = Toolbox(self.workers, clock=self.clock, limits=self.limits, hosts=self.hosts)
        await self.tools.start()
        self.runtime = Runtime(
            clock=self.clock,
            engines=pool,
            cache=self.cache,
            workers=self.workers,
            tools=self.tools,
            journal=self.journal,
            policy=make_policy(self.policy) if isinstance(self.policy, str) else self.policy,
            limits=self.limits,
            rng=rng,
            telemetry=self.telemetry,
            retention=self.retention,
            metrics=self.metrics,
        )
        await self.runtime.start()
        return self

    def worker(self, **tools: Any) -> ScriptedWorker:
        """Connect a worker."""
        return ScriptedWorker(self.workers, **tools)

    async def close(self) -> None:
        await self.runtime.close()

    async def crash(self) -> None:
        """Die as a killed process does: what is pending is not written, nobody is told, no task ends well."""
        if isinstance(self.journal, SqliteJournal):
            await self.journal.abandon()
        await self.runtime.close()

    async def submit(self, submission: ProgramSubmission, **options: Any) -> str:
        """Submit, and return the program's id."""
        summary, _ = await self.runtime.submit(submission, tenant=TENANT, **options)
        return summary.id

    async def follow(self, id: str, after_seq: int = 0) -> list[Event]:
        """The program's events to its end, its invariants checked at each."""
        events: list[Event] = []
        async for event in self.runtime.events(id, tenant=TENANT, after_seq=after_seq):
            self.program(id).check()
            events.append(event)
        return events

    async def until(self, id: str, kind: EventKind, call: str | None = None) -> Event:
        """Wait for an event of the program."""
        async with aclosing(self.runtime.events(id, tenant=TENANT)) as events:
            async for event in events:
                if event.kind is kind and call in (None, event.call):
                    return event
        raise AssertionError(f"the program ended without {kind} of {call}")

    async def run(self, submission: ProgramSubmission) -> ProgramView:
        """Submit, wait for the end, and return the program."""
        id = await self.submit(submission)
        await self.follow(id)
        return self.view(id)

    def view(self, id: str) -> ProgramView:
        return self.runtime.view(id, tenant=TENANT)

    def program(self, id: str) -> Program:
        """The program's own state, to check invariants."""
        return self.runtime._archive.known(id, TENANT)


def states(view: ProgramView) -> dict[str, str]:
    """State of each call."""
    return {call.id: call.state for call in view.call_views}


def values(view: ProgramView) -> dict[str, Any]:
    """Value of each output; failed ones are left out."""
    return {name: variable.value for name, variable in view.outputs.items() if variable.status == "written"}


def errors(view: ProgramView) -> dict[str, str]:
    """Type of the error of each call that has one."""
    return {call.id: call.error.type for call in view.call_views if call.error is not None}


def kinds(events: list[Event], call: str | None = None) -> list[EventKind]:
    """Kinds of the events, or of those of one call."""
    return [event.kind for event in events if call is None or event.call == call]
