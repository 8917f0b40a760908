"""The state of one call and of one variable. Data only: `program.py` makes the transitions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from engine.protocol import FinishReason, TokenLogprob, Usage
from orchestrator.journal import Cached, Cause, Early, Recomputed, RunFacts, Span
from tenuto.wire import Call, ErrorValue, LargeValue, LLMCall, ValueType


class CallState(StrEnum):
    """waiting → ready → running → ended | failed; skipped and cancelled from any state that is not final."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def final(self) -> bool:
        return self in _FINAL


_WAITS = frozenset({"cache", "client", "queue", "pause"})
_FINAL = frozenset({CallState.ENDED, CallState.FAILED, CallState.CANCELLED, CallState.SKIPPED})


@dataclass(slots=True, eq=False)
class CallRun:
    """One call while its program lives. Times are on the program's axis (0 = accepted).

    `runs` counts every run, so that readers can tell their texts apart; `failures` those that the call's own
    `retry` pays for, `losses` those that it does not (its engine or worker died).
    """

    call: Call
    state: CallState = CallState.WAITING
    runs: int = 0
    failures: int = 0
    losses: int = 0
    told_s: float = 0.0  # up to here a cause is known for its seconds
    error: ErrorValue | None = None
    usage: Usage | None = None
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    recompute: Recomputed | None = None
    behind: tuple[str, ...] = ()
    early: tuple[Early, float] | None = None  # the tool had worked for it so many seconds before it was made
    cache: Cached | None = None
    spans: list[Span] = field(default_factory=list)
    intended: bool = False  # the journal holds an intent of this call
    task: asyncio.Task[None] | None = None
    planner: str | None = None  # the LLM call whose text made this one

    def account(self, cause: Cause, until_s: float) -> None:
        """Attribute the seconds since the last account to a cause; nothing is kept of none, or of a call that is over.

        No other way leads into `spans`: so they have no gaps.
        """
        if until_s > self.told_s:
            if self.state not in _FINAL:
                start_s = self.told_s
                if self.spans and self.spans[-1][0] == cause and self.spans[-1][2] == start_s:
                    start_s = self.spans.pop()[1]
                self.spans.append((cause, start_s, until_s))
            self.told_s = until_s

    def cut(self, now: float) -> None:
        """The call is cancelled in whatever it does: attribute the seconds since its last change."""
        if (doing := self._doing()) is not None:
            self.account(doing, now)

    def close(self, now: float) -> None:
        """The call ends: what it did last, it did until its value was accepted."""
        if self.spans:
            cause, start_s, end_s = self.spans[-1]
            self.spans[-1] = (cause, start_s, max(end_s, now))

    def spans_until(self, now: float) -> list[Span]:
        """The spans, with that of what the call does now: a call that has not ended has no last one yet."""
        doing = self._doing()
        if doing is None or now <= self.told_s:
            return self.spans
        return [*self.spans, (doing, self.told_s, now)]

    def _doing(self) -> Cause | None:
        """The cause of the second that passes now, as far as can be known before the engine has told."""
        if self.state is CallState.RUNNING:
            return "decode" if isinstance(self.call, LLMCall) else "tool"
        if self.state is CallState.READY:
            return "pause" if self.runs else "queue"
        return None

    def worked_s(self) -> float:
        """Seconds for which an engine or a worker was at work on the call."""
        return sum(end_s - start_s for cause, start_s, end_s in self.spans if cause not in _WAITS)

    def facts(self) -> RunFacts:
        """What the journal keeps of how the call ran."""
        usage = self.usage
        if usage is None:
            spans = tuple(self.spans)
            return RunFacts(self.runs, spans=spans, cache=self.cache, behind=self.behind, early=self.early)
        return RunFacts(
            self.runs,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            tuple(self.spans),
            behind=self.behind,
            finish=self.finish,
            logprobs=self.logprobs,
            recompute=self.recompute,
        )

    def restore(self, facts: RunFacts) -> None:
        """Take back what the journal kept."""
        self.runs = facts.attempts
        self.spans = list(facts.spans)
        self.cache = facts.cache
        self.behind = facts.behind
        self.early = facts.early
        self.finish = None if facts.finish is None else FinishReason(facts.finish)
        self.logprobs = facts.logprobs
        self.recompute = facts.recompute
        tokens = (facts.prompt_tokens, facts.cached_tokens, facts.output_tokens)
        self.usage = Usage(*tokens, 0.0, 0.0, 0.0) if any(tokens) else None  # none: it never ran to its end


@dataclass(slots=True, eq=False)
class Variable:
    """A write-once variable. It is `settled` once it has its value or its error, and `durable` once that is in the
    journal: calls of the program may read it when it is settled, the world outside when it is durable."""

    type: ValueType
    settled: bool = False
    durable: bool = False
    error: ErrorValue | None = None
    waiters: dict[asyncio.Future[None], None] | None = None
    large: LargeValue | None = None  # how it is shown where its value is too long

    def publish(self) -> None:
        """The value or error is durable: wake whoever waits for it."""
        self.durable = True
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def abandon(self, fault: Exception) -> None:
        """The server can settle nothing any more: whoever waits is told why."""
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_exception(fault)
