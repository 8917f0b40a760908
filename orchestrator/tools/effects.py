"""The order of effects inside one program. Pure: told what is declared and what has ended, says whose turn it is.

`read` calls are free. `write(key)` calls with equal keys, and `exclusive` calls against every call with an effect,
run one after the other in declared order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tenuto.wire import EffectClass


@dataclass(slots=True)
class _Turn:
    before: int  # unfinished calls that must end first
    finished: bool = False
    after: list[str] = field(default_factory=list)


class EffectOrder:
    """A queue with readers left out: each effect waits for the earlier ones that it conflicts with.

    Calls must be declared in an order in which no call comes before one that it needs (a topological order); then
    the first unfinished effect never waits for a later one, and there is no deadlock.
    Invariant: `before` of a call is the number of its direct forerunners that have not finished.
    """

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}
        self._last_exclusive: str | None = None
        self._last_writes: dict[str | None, str] = {}  # by key, since the last exclusive call

    def declare(self, call: str, effect: EffectClass, key: str | None) -> None:
        """Queue a call. A `write` without a key conflicts with every effect, as it may change anything."""
        if effect is EffectClass.READ:
            return
        forerunners: list[str | None]
        if effect is EffectClass.WRITE and key is not None:
            earlier = self._last_writes.get(key)
            forerunners = [earlier if earlier is not None else self._last_exclusive]
            self._last_writes[key] = call
        else:
            forerunners = [*self._last_writes.values()] or [self._last_exclusive]
            self._last_writes.clear()
            self._last_exclusive = call
        turn = self._turns[call] = _Turn(before=0)
        for name in forerunners:
            forerunner = self._turns[name] if name is not None else None
            if forerunner is not None and not forerunner.finished:
                forerunner.after.append(call)
                turn.before += 1

    def may_start(self, call: str) -> bool:
        """True if no earlier conflicting effect is unfinished. True for calls that were never declared here."""
        turn = self._turns.get(call)
        return turn is None or turn.before == 0

    def has_effect(self, call: str) -> bool:
        """True if the call was declared with an effect."""
        return call in self._turns

    def finish(self, call: str) -> tuple[str, ...]:
        """The call ended, however it did: return the calls whose turn has come. Cost: O(its direct successors)."""
        turn = self._turns.get(call)
        if turn is None or turn.finished:
            return ()
        turn.finished = True
        freed: list[str] = []
        for name in turn.after:
            successor = self._turns[name]
            successor.before -= 1
            if not successor.before:
                freed.append(name)
        turn.after.clear()
        return tuple(freed)
