"""One request of a stock client as a turn of a program: which program it belongs to, and how its answer comes.

Owns identity: a program that the client names, else one whose tool calls the request answers, else one of its own.
A turn that ends in tool calls leaves them in the program as function calls which the client runs: so its pause is
foreseen, its KV held, and the next turn comes before the first ones of others.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

from dag.plan import EmittedCall
from orchestrator.api.cache_status import cache_status
from orchestrator.api.openai.errors import GenerationFailed
from orchestrator.errors import Conflict, NotFound, ProgramEnded
from orchestrator.limits import Limits
from orchestrator.runtime import Runtime
from orchestrator.tools import Toolbox
from tenuto.wire import (
    CallView,
    Constant,
    EffectClass,
    EventKind,
    FunctionCall,
    Graph,
    GraphExtension,
    JsonType,
    LLMCall,
    ProgramSubmission,
    TokenLogprob,
    VariableStatus,
)

_TOOL_CALL = re.compile(r"call_([0-9a-f]{16,64})_(\d+)_(\d+)\Z")
_NAMES = 10_000
_PENDING = frozenset({"waiting", "ready", "running"})
_ENDINGS = frozenset({EventKind.CALL_FAILED, EventKind.CALL_CANCELLED, EventKind.CALL_SKIPPED})


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as turns see it. `calls`: one for each choice, their ids to be given; `results`: what the client
    brings, by the ids of the tool calls; `hints`: seconds that it expects its tools to take."""

    calls: tuple[LLMCall, ...]
    name: str | None = None
    final: bool = False
    workflow: str = "chat"
    results: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    tenant: str = ""
    principal: str = ""
    traceparent: str | None = None

    @property
    def offers_tools(self) -> bool:
        return any(call.tools and call.tool_choice != "none" for call in self.calls)


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn under way. `calls`: its LLM calls; `open`: the program may go on after it; `own`: it has nobody else.
    `began_at`: seconds since the Unix epoch."""

    asked: Asked
    program: str
    number: int
    calls: tuple[str, ...]
    open: bool
    own: bool
    after_seq: int
    began_at: float

    @property
    def name(self) -> str:
        """The turn's part of ids: `<program>_<number>`."""
        return f"{self.program.removeprefix('prog_')}_{self.number}"

    def tool_call_id(self, choice: int, index: int) -> str:
        """What the client will name a call by when it brings its result."""
        return f"call_{self.name}_{index}" if len(self.calls) == 1 else f"call_{self.name}.{choice}_{index}"


@dataclass(frozen=True, slots=True)
class Piece:
    """The next text of a choice."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """A choice is complete."""

    choice: int
    text: str
    view: CallView


@dataclass(slots=True)
class _Name:
    """A program's name: how many programs had it before, and who is about to begin one."""

    generation: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Turns:
    """The turns of one server. Names are kept in the journal, as idempotency keys of the programs: this memory of them
    only spares looking there."""

    def __init__(self, runtime: Runtime, tools: Toolbox, limits: Limits) -> None:
        self._runtime = runtime
        self._handed = tools.handed
        self._limits = limits
        self._names: OrderedDict[tuple[str, ...], _Name] = OrderedDict()

    def headers(self, turn: Turn) -> dict[str, str]:
        """Of the answer, once it has begun: the turn's program, and the semantic cache if that gave it."""
        hit = self._runtime.call(turn.program, turn.calls[0], tenant=turn.asked.tenant).cache
        return {"x-program-id": turn.program} | ({} if hit is None else {"cache-status": cache_status(hit)})

    # -- beginnings -----------------------------------------------------------------------------

    async def begin(self, asked: Asked) -> Turn:
        """Start the request's calls. Raises RuntimeFault as `Runtime.submit` and `extend` do."""
        if asked.name is not None:
            return await self._named(asked, asked.name)
        program = self._answered(asked)
        if program is not None:
            try:
                return await self._extend(asked, program)
            except (NotFound, ProgramEnded):
                pass  # too late: what is asked stands in the messages anyway
        calls = _numbered(asked.calls, 0, ())
        goes_on = asked.offers_tools and len(calls) == 1
        submission = ProgramSubmission(
            workflow=asked.workflow,
            graph=Graph(calls=calls, outputs=tuple(call.id for call in calls)),
            open=goes_on,
            idle_s=self._limits.session_idle_s if goes_on else None,
            metadata=dict(asked.metadata),
        )
        summary, _ = await self._runtime.submit(
            submission, tenant=asked.tenant, traceparent=asked.traceparent, principal=asked.principal
        )
        return Turn(asked, summary.id, 0, tuple(call.id for call in calls), goes_on, True, 0, summary.accepted_at)

    async def _named(self, asked: Asked, name: str) -> Turn:
        """A turn of the program that the client names; of a new one if that has ended."""
        user = asked.metadata.get("user", "")
        key = (asked.tenant, asked.workflow, user, name)
        known = self._names.setdefault(key, _Name())
        self._names.move_to_end(key)
        if len(self._names) > _NAMES:
            self._names.popitem(last=False)
        async with known.lock:
            while True:
                submission = ProgramSubmission(
                    workflow=asked.workflow,
                    open=True,
                    idle_s=self._limits.session_idle_s,
                    metadata={"program": name, **({"user": user} if user else {})},
                )
                summary, _ = await self._runtime.submit(
                    submission,
                    tenant=asked.tenant,
                    idempotency_key="\x1f".join(("turns", *key[1:], str(known.generation))),
                    traceparent=asked.traceparent,
                    principal=asked.principal,
                )
                try:
                    return await self._extend(asked, summary.id)
                except ProgramEnded:
                    known.generation += 1

    def _answered(self, asked: Asked) -> str | None:
        """The program whose tool calls the request answers."""
        for id in reversed([*asked.results]):
            if (match := _TOOL_CALL.match(id)) is not None:
                return f"prog_{match[1]}"
        return None

    async def _extend(self, asked: Asked, program: str) -> Turn:
        await self._runtime.recall(program, tenant=asked.tenant)
        after = self._deliver(asked, program)
        # From here to the extension nothing else runs: numbers are given once.
        view = self._runtime.view(program, tenant=asked.tenant)
        calls = _numbered(asked.calls, view.calls, after)
        after_seq = self._runtime.last_event(program, tenant=asked.tenant)
        await self._runtime.extend(program, GraphExtension(calls=calls), tenant=asked.tenant)
        now = view.accepted_at + view.seconds
        return Turn(asked, program, view.calls, tuple(call.id for call in calls), True, False, after_seq, now)

    def _deliver(self, asked: Asked, program: str) -> tuple[str, ...]:
        """Hand over the results that the program waits for; returns its calls that have them now."""
        delivered = []
        for id, text in asked.results.items():
            match = _TOOL_CALL.match(id)
            if match is not None and program == f"prog_{match[1]}":
                call = _function(int(match[2]), int(match[3]))
                try:
                    view = self._runtime.call(program, call, tenant=asked.tenant)
                except NotFound:
                    continue  # not one of this program's
                if view.state in _PENDING:
                    self._handed.deliver(program, call, text)
                    delivered.append(call)
        return tuple(delivered)

    # -- answers --------------------------------------------------------------------------------

    async def collect(self, turn: Turn) -> list[Ended]:
        """Every choice, once all are complete. Raises GenerationFailed, and what stopped the server."""
        return [await self._ended(turn, choice) for choice in range(len(turn.calls))]

    async def _ended(self, turn: Turn, choice: int) -> Ended:
        call, tenant = turn.calls[choice], turn.asked.tenant
        while True:
            wait_s = self._limits.variable_wait_s
            variable = await self._runtime.variable(turn.program, call, tenant=tenant, wait_s=wait_s)
            if variable.error is not None:
                raise GenerationFailed(variable.error)
            if variable.status is VariableStatus.WRITTEN:
                view = self._runtime.call(turn.program, call, tenant=tenant)
                return Ended(choice, str(variable.value), view)

    async def follow(self, turn: Turn) -> AsyncGenerator[Piece | Ended, None]:
        """The choices as they are generated. A text that was sent is never sent again when its call is run again.

        Raises GenerationFailed, also if a call that is run again says something else; and what stopped the server.
        """
        choices = {call: choice for choice, call in enumerate(turn.calls)}
        texts = {call: _Told() for call in turn.calls}
        entries = self._runtime.entries(turn.program, tenant=turn.asked.tenant, after_seq=turn.after_seq)
        async with aclosing(entries):
            async for entry in entries:
                call = entry.call
                if call is None or call not in choices:
                    continue
                if entry.kind is EventKind.CALL_TOKENS:
                    new = texts[call].add(entry.attempt, entry.text or "")
                    if new:
                        yield Piece(choices[call], new, entry.event().logprobs or ())
                elif entry.kind in _ENDINGS or entry.kind is EventKind.VARIABLE_WRITTEN:
                    ended = await self._ended(turn, choices[call])
                    if rest := texts[call].rest(ended.text):
                        yield Piece(choices[call], rest)
                    yield ended
                    del texts[call]
                    if not texts:
                        return

    # -- ends -----------------------------------------------------------------------------------

    async def finish(self, turn: Turn, calls: Sequence[EmittedCall]) -> None:
        """The answer is complete: its calls are the client's to run; without any, a program of its own has ended."""
        asked = turn.asked
        if not turn.open:
            return
        functions = tuple(self._handed_out(turn, index, call) for index, call in enumerate(calls))
        if len(turn.calls) > 1:
            functions = ()  # nobody knows which choice the client goes on with
        seal = asked.final or (asked.name is None and not functions)
        if not functions and not seal:
            return
        with suppress(ProgramEnded):  # another request of the same program has sealed it
            extension = GraphExtension(calls=functions, seal=seal)
            await self._runtime.extend(turn.program, extension, tenant=asked.tenant)

    def _handed_out(self, turn: Turn, index: int, call: EmittedCall) -> FunctionCall:
        tool = call.tool if call.tool[0].isalpha() or call.tool[0] == "_" else f"_{call.tool}"
        return FunctionCall(
            id=_function(turn.number, index),
            stage=tool,
            tool=tool,
            arguments={name: Constant(value=value) for name, value in call.arguments.items()},
            type=JsonType(),
            after=(turn.calls[0],),
            handed=True,
            effect=EffectClass.READ,  # what it does to the world is the client's affair
            timeout_s=self._limits.session_idle_s,
            expected_s=turn.asked.hints.get(call.tool),
        )

    async def leave(self, turn: Turn) -> None:
        """The client has left before its answer was complete: stop what runs for it."""
        if turn.own:
            await self._runtime.cancel(turn.program, tenant=turn.asked.tenant)
        else:
            self._runtime.give_up(turn.program, turn.calls, tenant=turn.asked.tenant)


class _Told:
    """What a reader has got of one text, over all attempts to generate it."""

    __slots__ = ("_attempt", "_now", "_sent")

    def __init__(self) -> None:
        self._attempt = 0
        self._sent = ""
        self._now = ""

    def add(self, attempt: int, text: str) -> str:
        """The part of a new piece that was not sent before."""
        if attempt != self._attempt:
            self._attempt, self._now = attempt, ""
        self._now += text
        return self.rest(self._now)

    def rest(self, text: str) -> str:
        """What `text` has beyond what was sent. Raises Conflict if it goes another way."""
        if len(text) <= len(self._sent):
            if not self._sent.startswith(text):
                raise Conflict("the generation was run again and went another way: ask again")
            return ""
        if not text.startswith(self._sent):
            raise Conflict("the generation was run again and went another way: ask again")
        new, self._sent = text[len(self._sent) :], text
        return new


def _numbered(calls: tuple[LLMCall, ...], number: int, after: tuple[str, ...]) -> tuple[LLMCall, ...]:
    """The calls of turn `number`, siblings if there are several."""
    group = f"turn{number}" if len(calls) > 1 else None
    return tuple(
        call.model_copy(
            update={"id": f"turn{number}" if index == 0 else f"turn{number}.{index}", "after": after, "group": group}
        )
        for index, call in enumerate(calls)
    )


def _function(number: int, index: int) -> str:
    return f"turn{number}-{index}"
