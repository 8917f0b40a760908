"""What an LLM call left in an engine, and whether a later call goes on with it.

Owns the fingerprints by which prompts are compared; keeps no text. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from engine.protocol import ChatMessage
from kv_ttl.ledger import Lease, Outcome, Tier

if TYPE_CHECKING:
    from orchestrator.retention.desk import Desk
    from orchestrator.retention.rules import Situation


class Print(NamedTuple):
    """A message by its role, its length in characters and a hash of its text."""

    role: str
    length: int
    digest: int


def fingerprint(messages: Iterable[ChatMessage]) -> tuple[Print, ...]:
    """The prints of a prompt's messages. A string's hash is computed once in its life."""
    return tuple([Print(message.role, len(message.content), _digest(message)) for message in messages])


def _digest(message: ChatMessage) -> int:
    return hash((message.content, message.tool_calls)) if message.tool_calls else hash(message.content)


@dataclass(slots=True, eq=False)
class Chain:
    """The KV of a prompt and its output, from the end of their call until the program needs it no more.

    `request` is its name, and that of its lease in the engine. `tokens` are all of it, `useful` the first of them
    that a later call may find again, `shared` those that it found there itself, computed for another program.
    `began_at`: when its pause began; `idle_at`: when the last function call of the pause returned; `returned_at`: when
    the call that goes on with it, `returned_by`, became ready. `situation`: as the pause began. `lease`: what the
    ledger granted last; None once that has ended; `rank`, `ttl_s` and `tier` as it was planned last, `outcome` as it
    ended. `graced`: the engine keeps the chain for a moment by itself. `aside`: a call that follows it went on with an
    older chain.
    """

    request: str
    program: str
    call: str
    stage: str
    prompt: tuple[Print, ...]
    chars: int
    tokens: int
    shared: int
    began_at: float
    desk: Desk
    graced: bool = False
    useful: int = 0
    idle_at: float | None = None
    returned_at: float | None = None
    returned_by: str = ""
    situation: Situation | None = None
    lease: Lease | None = None
    rank: float = 0.0
    ttl_s: float = 0.0
    tier: Tier = Tier.DEVICE
    outcome: Outcome | None = None
    aside: bool = False
    prefetch: asyncio.TimerHandle | None = None

    @property
    def private(self) -> int:
        """Tokens that are kept for this program alone."""
        return max(0, self.useful - self.shared)

    @property
    def recompute_s(self) -> float:
        """Prefill seconds to make the private tokens again."""
        return self.desk.costs.prefill.seconds(self.private, min(self.shared, self.useful))

    def is_continued_by(self, messages: Sequence[ChatMessage]) -> bool:
        """True if the chain's prompt is a prefix of a prompt: message by message, its last one by characters."""
        last = len(self.prompt) - 1
        if len(messages) <= last:
            return False
        for print_, message in zip(self.prompt, messages, strict=False):
            if print_.role != message.role:
                return False
            if print_.length != len(message.content) or print_.digest != _digest(message):
                break
        else:
            return True
        known, message = self.prompt[last], messages[last]
        return (
            print_ is known
            and len(message.content) > known.length
            and hash(message.content[: known.length]) == known.digest
        )


def continued(chains: Iterable[Chain], messages: Sequence[ChatMessage]) -> Chain | None:
    """Of the chains that a prompt goes on with, the one that spares it most; of equals the one that ended last."""
    best: Chain | None = None
    for chain in chains:
        if (best is None or chain.tokens >= best.tokens) and chain.is_continued_by(messages):
            best = chain
    return best
