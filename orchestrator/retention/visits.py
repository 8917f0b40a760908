"""An LLM call at an engine: what its request says of retention, and what it tells on its way.

Owns nothing: it carries news from a generation to the retention of its program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.protocol import ChatMessage, Usage
from kv_ttl.ledger import Tier
from orchestrator.retention.chains import Chain, fingerprint
from orchestrator.retention.desk import Desk
from tenuto.wire import LLMCall

if TYPE_CHECKING:
    from orchestrator.runtime.program import Program


class Found(NamedTuple):
    """A lease, in short: the seconds that it was last planned for, its last tier, and how it ended if it did."""

    ttl_s: float
    tier: str
    outcome: str | None


class Host(Protocol):
    """Who hears what happens to a call."""

    def now(self) -> float: ...

    def shared(self, program: Program, chain: Chain | None, usage: Usage) -> int:
        """Tokens of the call's prompt that were computed for other programs."""
        ...

    def taken_up(self, chain: Chain) -> None:
        """The call that goes on with the chain runs: the chain is its own from now on."""
        ...

    def resumed(self, chain: Chain, usage: Usage) -> bool:
        """The call that went on with the chain has ended; whether it found it."""
        ...

    def ended(self, chain: Chain, program: Program, call: LLMCall, seconds: float) -> None:
        """The call ended well after `seconds` and left a chain."""
        ...


class Visit:
    """One attempt of a call. `chain`: what it goes on with; `hold_s`: how long the engine keeps what it leaves."""

    __slots__ = ("_call", "_chars", "_desk", "_host", "_messages", "_program", "_since", "chain", "hold_s", "request")

    def __init__(
        self,
        host: Host,
        desk: Desk,
        program: Program,
        call: LLMCall,
        request: str,
        messages: Sequence[ChatMessage],
        chain: Chain | None,
        hold_s: float,
    ) -> None:
        self._host, self._desk, self._program, self._call = host, desk, program, call
        self.request, self._messages, self.chain, self.hold_s = request, messages, chain, hold_s
        self._chars = sum(len(message.content) for message in messages)
        self._since = host.now()
        known, chars = (chain.tokens, chain.chars) if chain is not None else (0, 0)
        desk.submitted(request, known + desk.costs.tokens(max(0, self._chars - chars)))

    @property
    def found(self) -> Found | None:
        """How the lease that waited for this call stood; None if there was none."""
        chain = self.chain
        if chain is None or not chain.ttl_s:
            return None
        return Found(chain.ttl_s, chain.tier.value, chain.outcome.value if chain.outcome is not None else None)

    @property
    def kept(self) -> int:
        """Tokens on the device that are still kept for this call."""
        lease = self.chain.lease if self.chain is not None else None
        return lease.nbytes if lease is not None and lease.tier is Tier.DEVICE else 0

    @property
    def continues(self) -> str:
        """The request whose chain this one extends; "" = none."""
        return self.chain.request if self.chain is not None else ""

    def begun(self) -> None:
        """A token has come: it holds the blocks itself."""
        if self._desk.begun(self.request) and self.chain is not None:
            self._host.taken_up(self.chain)

    def ended(self, usage: Usage | None, output_chars: int) -> None:
        """It ended well: its own chain begins."""
        self._desk.left(self.request)
        if usage is None:
            return
        kept = self._host.resumed(self.chain, usage) if self.chain is not None else None
        self._desk.costs.learn(usage, self._chars, kept)
        left = Chain(
            request=self.request,
            program=self._program.id,
            call=self._call.id,
            stage=self._call.stage or "",
            prompt=fingerprint(self._messages),
            chars=self._chars + output_chars,
            tokens=usage.prompt_tokens + usage.output_tokens,
            shared=self._host.shared(self._program, self.chain, usage),
            began_at=self._host.now(),
            desk=self._desk,
            graced=self.hold_s > 0,
        )
        self._host.ended(left, self._program, self._call, self._host.now() - self._since)

    def left(self) -> None:
        """It is over, one way or another."""
        self._desk.left(self.request)
