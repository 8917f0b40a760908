"""An engine that answers at once: what is left of a call's time is the orchestrator's own.

Satisfies `engine.protocol.Engine`. Owns nothing and keeps nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

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
    TokenChunk,
    Usage,
)

_USAGE = Usage(prompt_tokens=1, cached_tokens=0, output_tokens=1, queue_s=0.0, prefill_s=0.0, decode_s=0.0)


class NullEngine:
    """Answers every prompt with `text`, in one chunk and without waiting."""

    def __init__(self, name: str = "null", text: str = "x") -> None:
        self._name = name
        self._chunk = TokenChunk(text=text, token_ids=(0,), finish=FinishReason.STOP, usage=_USAGE)

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(grammar=True)

    @property
    def model(self) -> ModelInfo:
        return ModelInfo(name=self._name, context_tokens=2**20, vocab_size=1)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        yield self._chunk

    async def reprioritize(self, program: str, key: PriorityKey) -> None:
        return

    async def limit_running(self, limit: int) -> None:
        return

    async def retain(self, lease: Lease) -> LeaseGrant:
        return _nothing(lease.id)

    async def extend(self, lease: str, ttl_s: float) -> LeaseGrant:
        return _nothing(lease)

    async def release(self, lease: str, outcome: LeaseOutcome) -> None:
        return

    async def demote(self, lease: str) -> LeaseGrant:
        return _nothing(lease)

    async def prefetch(self, lease: str, within_s: float) -> None:
        return

    async def abort(self, request: str) -> None:
        return

    async def estimate(self, prompt_ids: tuple[int, ...], salt: str = "") -> Estimate:
        return Estimate(cached_tokens={}, prefill_s=0.0, queue_s=0.0)

    async def events(self) -> AsyncIterator[EngineEvent]:
        return
        yield

    async def close(self) -> None:
        return


def _nothing(lease: str) -> LeaseGrant:
    return LeaseGrant(lease=lease, bytes=0, tier=None, expires_in_s=0.0)
