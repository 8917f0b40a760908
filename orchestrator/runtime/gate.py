"""Holds calls back from an engine that has as many as it should, and lets them go in the policy's order.

An engine's own queue is bounded, and it knows nothing of what it has not been given: a wide program must neither
overflow it nor be served in the order of its arrival. Where programs are held, newcomers wait here for memory too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import islice
from typing import Protocol

from engine.protocol import PriorityKey
from orchestrator.scheduling import Changes, Hold, Room


class Parked(Protocol):
    """A paused program that could give up its memory."""

    @property
    def program(self) -> str: ...

    @property
    def tokens(self) -> int: ...

    @property
    def remaining_s(self) -> float:
        """Expected rest of its pause."""
        ...

    @property
    def recompute_s(self) -> float:
        """Engine seconds to compute again what it would give up."""
        ...


class Parking(Protocol):
    """What is kept for paused programs in the gate's engine, and the power to give it up."""

    def victims(self, tokens: int) -> Iterable[Parked]:
        """Whom to take so many tokens of the device from, best first."""
        ...

    def park(self, program: str) -> None:
        """Give up what is kept: to the host if that has room, else for good."""
        ...

    def pressure(self, waiting: int, running: int) -> None:
        """So many calls wait at the gate, beside those inside: what is kept costs them time."""
        ...


_WORTH = 2.0
"""Memory is taken from those whose pause lasts this many times what bringing it back will cost all who are inside."""
_BEHIND = 8
"""So many calls behind a first one that does not fit are looked at for one that does."""

Overdue = Callable[[PriorityKey, PriorityKey], bool]
Spare = Callable[[], None]


def _never(outside: PriorityKey, inside: PriorityKey) -> bool:
    return False


class NoParking:
    """Nothing is kept for anybody."""

    def victims(self, tokens: int) -> Iterable[Parked]:
        return ()

    def park(self, program: str) -> None:
        return

    def pressure(self, waiting: int, running: int) -> None:
        return


@dataclass(slots=True, order=True)
class _Held:
    """A call at the gate; stale once its key has changed or it has gone."""

    key: PriorityKey
    number: int
    program: str = field(compare=False)
    tokens: int = field(compare=False)
    turn: asyncio.Future[bool] = field(compare=False)
    stale: bool = field(default=False, compare=False)


class _Queue:
    """Held calls by key, then by arrival; those of a program can be found and changed."""

    def __init__(self) -> None:
        self._heap: list[_Held] = []
        self._programs: dict[str, dict[int, _Held]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def head(self) -> _Held | None:
        """The first in order of those that still wait."""
        while self._heap and (self._heap[0].stale or self._heap[0].turn.done()):
            first = heappop(self._heap)
            if not first.stale:
                self.remove(first)  # cancelled, but its task has not run since
        return self._heap[0] if self._heap else None

    def following(self) -> Iterator[_Held]:
        """Those behind the head, in order. Walks down the heap: the first n cost n log n, whatever the length."""
        ahead = [(self._heap[place], place) for place in (1, 2) if place < len(self._heap)]
        while ahead:
            held, place = heappop(ahead)
            if not held.stale and not held.turn.done():
                yield held
            for child in (2 * place + 1, 2 * place + 2):
                if child < len(self._heap):
                    heappush(ahead, (self._heap[child], child))

    def add(self, held: _Held) -> None:
        heappush(self._heap, held)
        self._programs.setdefault(held.program, {})[held.number] = held
        self._count += 1

    def remove(self, held: _Held) -> bool:
        """Take it, or what took its place under another key, out of the books; the heap forgets it when it comes up.

        False if it is not here.
        """
        of_program = self._programs.get(held.program, {})
        current = of_program.pop(held.number, None)
        if current is None:
            return False
        current.stale = True
        self._count -= 1
        if not of_program:
            del self._programs[held.program]
        return True

    def take(self, program: str) -> list[_Held]:
        """Take out all calls of a program."""
        taken = [*self._programs.get(program, {}).values()]
        for held in taken:
            self.remove(held)
        return taken

    def rekey(self, program: str, key: PriorityKey) -> None:
        for held in self.take(program):
            self.add(_Held(key, held.number, program, held.tokens, held.turn))


class Gate:
    """At most `room` calls inside; the others wait by key, then by arrival.

    With a hold, calls of programs that are not inside wait for memory as well. For the first of those outside paused
    programs are parked if their pauses are long: longer than all calls inside together will wait while what they keep
    is computed again. While nobody inside is at work others are parked too, after the seconds that computing again
    would take: idling costs no more than parking in vain (ski rental).
    Those inside, and smaller ones close behind, go before one outside that does not fit, until it is overdue: then
    memory comes free for it.
    Invariant: nobody who may enter waits while there is room; with nobody at work somebody enters before long.
    """

    def __init__(
        self,
        room: int,
        hold: Hold | None = None,
        parking: Parking | None = None,
        overdue: Overdue | None = None,
        spare: Spare | None = None,
    ) -> None:
        """`overdue(outside, inside)`: whether a call inside may not go before that one outside any more.

        `spare`: called when there is room and nobody waits.
        """
        self.room = Room(room)
        self._overdue: Overdue = overdue or _never
        self.hold = hold if hold is not None else Hold()
        self._parking: Parking = parking if parking is not None else NoParking()
        self._spare = spare
        self._calls = 0
        self._inside = _Queue()
        self._outside = _Queue()
        self._arrivals = 0
        self._gone: dict[int, PriorityKey] = {}  # called away; their tasks have not run since
        self._letting_go = False
        self._patience: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """How many calls wait."""
        return len(self._inside) + len(self._outside)

    @property
    def calls(self) -> int:
        """How many calls are inside."""
        return self._calls

    async def enter(self, program: str, key: PriorityKey, tokens: int = 0) -> PriorityKey | None:
        """Return when the call may go to the engine, where it needs `tokens` of private KV; `leave` must follow.

        Unless this is cancelled, or the call is called away: then the key is returned with which to wait elsewhere.
        """
        self._arrivals += 1
        held = _Held(key, self._arrivals, program, tokens, asyncio.get_running_loop().create_future())
        (self._inside if self.hold.is_inside(program) else self._outside).add(held)
        self.let_go()
        try:
            if held.turn.done() or await held.turn:
                return None
            return self._gone.pop(held.number)
        except asyncio.CancelledError:
            if held.turn.done() and not held.turn.cancelled():
                if self._gone.pop(held.number, None) is None:
                    self.leave(program, tokens)  # its turn had come already: the next one takes it
            elif not self._inside.remove(held):
                self._outside.remove(held)
                self.let_go()  # others may have waited behind it
            raise

    def leave(self, program: str, tokens: int = 0, left: int = 0) -> None:
        """The call of `enter(program, ..., tokens)` has left the engine; `left` tokens of KV stay for its program."""
        self._calls -= 1
        self.hold.ended(program, tokens, left)
        self._sort(program)
        self.let_go()

    def call_away(self, room: Callable[[int], bool]) -> bool:
        """Let the first outside whose tokens find room elsewhere wait there instead; False if there is none."""
        first = self._outside.head()
        if first is None:
            return False
        for held in (first, *islice(self._outside.following(), _BEHIND)):
            if room(held.tokens):
                self._outside.remove(held)
                self._gone[held.number] = held.key
                held.turn.set_result(False)
                return True
        return False

    def kept(self, program: str, tokens: int) -> None:
        """So much is kept for a program that waits for functions or its client; 0: nothing any more."""
        self.hold.kept(program, tokens)
        self._sort(program)
        self.let_go()

    def reprioritize(self, changes: Changes) -> None:
        """New keys for the calls of some programs."""
        for program, key in changes.items():
            self._inside.rekey(program, key)
            self._outside.rekey(program, key)

    def let_go(self) -> None:
        """Let everybody go who may: by key among those inside, and the first outside if it fits."""
        if self._letting_go:  # parking tells of memory that came free while we look for some
            return
        self._letting_go = True
        try:
            while self._calls < self.room.calls:
                inner, outer = self._inside.head(), self._outside.head()
                passed = outer is not None and inner is not None and self._overdue(outer.key, inner.key)
                first = outer is not None and (inner is None or passed or outer < inner)
                if outer is not None and first and self._make_room(outer):
                    self._begin(outer, self._outside)
                elif inner is not None and not passed:
                    self._begin(inner, self._inside)
                elif outer is not None and (small := self._fitting(outer)) is not None:
                    self._begin(small, self._outside)
                else:
                    break
        finally:
            self._letting_go = False
        if self.hold.capacity:
            self._parking.pressure(self.held, self._calls)
        if self._spare is not None and self._calls < self.room.calls and not self.held:
            self._spare()

    def _begin(self, held: _Held, queue: _Queue) -> None:
        queue.remove(held)
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._calls += 1
        self.hold.began(held.program, held.tokens)
        self._sort(held.program)
        if self.hold.excess:  # those inside have outgrown the memory: the engine would break leases at random
            self._park(self.hold.excess)
        held.turn.set_result(True)

    def _sort(self, program: str) -> None:
        """Calls of a program wait where it is: inside or outside."""
        here, there = (self._inside, self._outside) if self.hold.is_inside(program) else (self._outside, self._inside)
        for held in there.take(program):
            here.add(_Held(held.key, held.number, program, held.tokens, held.turn))

    def _fitting(self, first: _Held) -> _Held | None:
        """A call close behind the first one outside that fits as it is, if the order lets it overtake."""
        if not self.hold.at_work:
            return None
        for held in islice(self._outside.following(), _BEHIND):
            if not self.hold.shortage(held.tokens):
                return None if self._overdue(first.key, held.key) else held
        return None

    def _make_room(self, held: _Held) -> bool:
        """Whether one outside fits, once those that can be parked at little cost are."""
        short = self.hold.shortage(held.tokens)
        if not short:
            return True
        victims = list(self._parking.victims(short))
        worth = _WORTH * (1 + self._calls)  # what is computed again delays everybody inside
        cheap = [victim for victim in victims if victim.remaining_s > worth * victim.recompute_s]
        if self.hold.at_work and sum(victim.tokens for victim in cheap) < short:
            return False
        for victim in cheap:
            self._parking.park(victim.program)
        if not self.hold.shortage(held.tokens):
            return True
        if self.hold.at_work:
            return False
        patience_s = sum(victim.recompute_s for victim in victims if victim not in cheap)
        if not patience_s:
            return True  # an idle engine takes whoever is first
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(patience_s, self._lose_patience)
        return False

    def _lose_patience(self) -> None:
        """Nobody has come back to the idle engine: whoever is first outside gets the memory."""
        self._patience = None
        first = self._outside.head()
        if first is not None and not self.hold.at_work:
            self._park(self.hold.shortage(first.tokens))
        self.let_go()

    def _park(self, short: int) -> None:
        """Park paused programs until `short` tokens are free."""
        for victim in list(self._parking.victims(short)):
            self._parking.park(victim.program)
