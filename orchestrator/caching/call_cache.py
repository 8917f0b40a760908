"""What running calls ask of a cache, and the one that answers nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import JsonValue

from engine.protocol import FinishReason, PriorityKey, Usage
from orchestrator.caching.caller import Caller
from orchestrator.journal import Cached
from tenuto.wire import FunctionCall, LLMCall

if TYPE_CHECKING:
    from semantic_cache import Shadow, Ticket


LAST: PriorityKey = (1e18,)
"""The key of work that nobody waits for: behind every program's."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question like the asked one and its answer, for the prompt."""

    question: str
    answer: JsonValue


@dataclass(frozen=True, slots=True)
class Generated:
    """What an engine made of a call: `seconds` of its work."""

    value: JsonValue
    finish: FinishReason
    seconds: float
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a cache says to a call: an answer (`cached` and `value`), or go on to the engine.

    `status` is for the trace: "hit", "bypass: …", "miss: …"; so are the `category` of a miss and its `similarity` to
    the nearest entry. A `ticket` must be ended: by `keep`, or by `give_up`.
    """

    status: str
    cached: Cached | None = None
    value: JsonValue = None
    ticket: Ticket | None = None
    examples: tuple[Example, ...] = ()
    shadow: Shadow | None = None
    category: str | None = None
    similarity: float | None = None


NOTHING = Asked("off")

Generate = Callable[[], Awaitable[Generated]]


class CallCache(Protocol):
    """Never the reason why a call fails: what goes wrong inside is a miss."""

    @property
    def enabled(self) -> bool:
        """False if nothing is ever answered: calls then go straight to their engines."""
        ...

    def lookups(self) -> list[tuple[int, dict[str, str]]]:
        """How many lookups ended how, with the attributes of the metric."""
        ...

    async def ask(
        self, call: LLMCall, values: Mapping[str, JsonValue], caller: Caller, *, model: str, drives_effects: bool
    ) -> Asked:
        """Look the call up. May wait for an equal call that is under way."""
        ...

    def keep(self, asked: Asked, made: Generated) -> None:
        """The engine's answer: others who wait for it have it now, it is stored in the background."""
        ...

    def give_up(self, asked: Asked) -> None:
        """The call has no answer."""
        ...

    def shadow(self, asked: Asked, generate: Generate) -> None:
        """Let a hit that asked for it be generated too, when there is room for that, and compare."""
        ...

    def enters(self) -> int:
        """A call goes to an engine now; returns its number, for `begins` and `leaves`."""
        ...

    def begins(self, number: int) -> None:
        """The call has its first token."""
        ...

    def leaves(self, number: int) -> None:
        """The call has ended, well or not. A second time changes nothing."""
        ...

    def wrote(self, tenant: str, call: FunctionCall) -> Awaitable[None] | None:
        """A function call may have changed what its tags name: nothing older is served from now on. Await what comes
        back, if anything does, to have it on the disk too."""
        ...


class NoCallCache:
    """The cache of a server that has none."""

    enabled = False

    def lookups(self) -> list[tuple[int, dict[str, str]]]:
        return []

    async def ask(
        self, call: LLMCall, values: Mapping[str, JsonValue], caller: Caller, *, model: str, drives_effects: bool
    ) -> Asked:
        return NOTHING

    def keep(self, asked: Asked, made: Generated) -> None:
        return

    def give_up(self, asked: Asked) -> None:
        return

    def shadow(self, asked: Asked, generate: Generate) -> None:
        return

    def enters(self) -> int:
        return 0

    def begins(self, number: int) -> None:
        return

    def leaves(self, number: int) -> None:
        return

    def wrote(self, tenant: str, call: FunctionCall) -> Awaitable[None] | None:
        return None
