"""The event log of one program: numbered, replayable, followed live.

Owns the numbers and what readers may see. Wire events are built when somebody reads, never before.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial
from typing import NamedTuple

from pydantic import JsonValue

from engine.protocol import TokenLogprob
from orchestrator.errors import RuntimeFault
from tenuto import wire
from tenuto.wire import TERMINAL_EVENTS, CacheHit, ErrorValue, Event, EventKind, LargeValue

RESUME_STRIDE = 2**32
"""Numbers skipped at a restart: more than a reader can have seen beyond the last durable event. Token events are not
kept in the journal, so a reader of the dead server may hold a higher number than any that the journal knows."""


class Entry(NamedTuple):
    """One event, as cheap as it can be."""

    seq: int
    at_s: float
    kind: EventKind
    call: str | None = None
    variable: str | None = None
    attempt: int = 0
    text: str | None = None
    value: JsonValue = None
    error: ErrorValue | None = None
    cache: CacheHit | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    large: LargeValue | None = None

    def event(self) -> Event:
        """The event as the protocol shows it."""
        logprobs = tuple(map(logprob_view, self.logprobs)) or None
        return Event.model_construct(**{**self._asdict(), "logprobs": logprobs})


_entry = partial(tuple.__new__, Entry)  # as `Entry(...)`, at a third of its cost: four of them a call


def logprob_view(token: TokenLogprob) -> wire.TokenLogprob:
    """An engine's log probability as the protocol shows it."""
    top = tuple(map(logprob_view, token.top))
    return wire.TokenLogprob.model_construct(token=token.token, text=token.text, logprob=token.logprob, top=top)


def _seq(entry: Entry) -> int:
    return entry.seq


class EventLog:
    """Events by number. What happened is kept for good, token events as far as `token_events` reaches.

    What readers see is durable: an event is shown once every journal record of an earlier or the same transition
    is on disk, so a crash never takes back what was told. `hold` is called before a recorded transition's events,
    `release` when its record is durable; records become durable in order.
    Invariant: `_kept` and `_tokens` are sorted by number; nothing beyond `visible` is ever read.
    """

    __slots__ = ("_fault", "_holds", "_kept", "_terminal", "_tokens", "_wake", "last")

    def __init__(self, token_events: int) -> None:
        self.last = 0
        self._kept: list[Entry] = []
        self._tokens: deque[Entry] = deque(maxlen=token_events)
        self._holds: deque[int] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._terminal: int | None = None
        self._fault: RuntimeFault | None = None

    # -- writing --------------------------------------------------------------------------------

    def add(
        self,
        at_s: float,
        kind: EventKind,
        call: str | None = None,
        *,
        variable: str | None = None,
        attempt: int = 0,
        value: JsonValue = None,
        error: ErrorValue | None = None,
        cache: CacheHit | None = None,
        large: LargeValue | None = None,
    ) -> None:
        """Append an event that is kept."""
        self.last += 1
        said = (self.last, at_s, kind, call, variable, attempt, None, value, error, cache, (), large)
        self._kept.append(_entry(said))
        if kind in TERMINAL_EVENTS:
            self._terminal = self.last
        if self._wake is not None:
            self._notify()

    def add_tokens(
        self, at_s: float, call: str, variable: str, attempt: int, text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> None:
        """Append a piece of generated text; the oldest pieces give way."""
        self.last += 1
        entry = Entry(self.last, at_s, EventKind.CALL_TOKENS, call, variable, attempt, text, logprobs=logprobs)
        self._tokens.append(entry)
        if self._wake is not None:
            self._notify()

    def hold(self) -> int:
        """The events from here on wait for a record: returns the number of the first."""
        self._holds.append(self.last + 1)
        return self.last + 1

    def release(self) -> None:
        """The record of the oldest hold is durable."""
        self._holds.popleft()
        self._notify()

    def jump(self, seq: int) -> None:
        """Let the next event have the number `seq`, as the journal says."""
        self.last = max(self.last, seq - 1)

    def fail(self, fault: RuntimeFault) -> None:
        """Nothing more will come: readers are told why."""
        self._fault = fault
        self._notify()

    def drop_tokens(self) -> None:
        """Forget every piece of text: the variables have it."""
        self._tokens.clear()

    def _notify(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    # -- reading --------------------------------------------------------------------------------

    @property
    def visible(self) -> int:
        """Number of the last event that may be shown."""
        return self._holds[0] - 1 if self._holds else self.last

    def read(self, after: int) -> list[Entry]:
        """Every event with a number beyond `after` that may be shown and is still kept, in order."""
        visible = self.visible
        if after >= visible:
            return []
        start = bisect_right(self._kept, after, key=_seq)
        end = bisect_right(self._kept, visible, lo=start, key=_seq)
        found = self._kept[start:end]
        if self._tokens and self._tokens[-1].seq > after:
            tokens: list[Entry] = []
            for entry in reversed(self._tokens):
                if entry.seq <= after:
                    break
                if entry.seq <= visible:
                    tokens.append(entry)
            found = sorted([*found, *tokens], key=_seq)
        return found

    async def follow(self, after: int) -> AsyncGenerator[Entry, None]:
        """Replay what came after number `after`, then go on live, to the terminal event.

        A reader has no queue of its own: one that is slow loses old token events, never memory. Raises the fault
        that `fail` was given.
        """
        while True:
            if self._terminal is not None and after >= self._terminal:
                return
            visible = self.visible
            for entry in self.read(after):
                yield entry
                if entry.kind in TERMINAL_EVENTS:
                    return
            after = max(after, visible)  # also past token events that have given way
            if self.visible > after:
                continue
            if self._fault is not None:
                raise self._fault
            if self._wake is None:
                self._wake = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._wake)
