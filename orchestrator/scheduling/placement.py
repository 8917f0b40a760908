"""Which of several engines a program should go to: where it ends soonest, what is resident there counted. Pure.

Owns the estimate. Earliest finish time, as in list scheduling for unequal machines (HEFT, Topcuoglu et al., 2002);
prefixes count by the seconds they save and load by the seconds it costs, so that neither bounds nor packing decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine as a newcomer finds it.

    Attributes:
        waiting_s: expected engine seconds of the calls it has and of those that wait for it, on itself.
        speed: tokens a second relative to the others.
        short_tokens: KV that must come free before the newcomer fits.
        resident_tokens: of its prompt that are there already.
        at_once: calls that the engine works on side by side; load is shared among them.
    """

    name: str
    waiting_s: float = 0.0
    speed: float = 1.0
    short_tokens: int = 0
    resident_tokens: int = 0
    at_once: int = 1


def finish_s(load: EngineLoad, work_s: float, prompt_tokens: int, read_s: float) -> float:
    """Seconds until the newcomer would have ended there: its turn, its prompt, its work.

    `work_s`: of the call after its prompt, at speed 1; `read_s`: a prompt token's at speed 1. KV that must come free
    costs as much as computing it again.
    """
    fresh = max(0, prompt_tokens - load.resident_tokens)
    turn_s = load.waiting_s / max(1, load.at_once)
    return turn_s + (work_s + read_s * (fresh + load.short_tokens)) / load.speed


def order(loads: Iterable[EngineLoad], work_s: float, prompt_tokens: int, read_s: float) -> list[str]:
    """Engines by expected finish, soonest first; of equals in the order given."""
    ranked = sorted(loads, key=lambda load: finish_s(load, work_s, prompt_tokens, read_s))
    return [load.name for load in ranked]
