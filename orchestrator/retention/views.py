"""What others may see of the leases: whoever must choose which to give up, and people.

Owns the shapes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kv_ttl.ledger import Counters, Tier


@dataclass(frozen=True, slots=True)
class PausedChain:
    """A chain under lease, for whoever must choose which one to give up. `tokens`: for this program alone."""

    program: str
    tenant: str
    call: str
    request: str
    tier: Tier
    tokens: int
    shared_tokens: int
    remaining_s: float
    recompute_s: float
    returned: bool
    until: float


@dataclass(frozen=True, slots=True)
class EngineLeases:
    """The books of one engine's leases, in tokens."""

    engine: str
    live: int
    leased_tokens: Mapping[Tier, int]
    counters: Counters
    price: float
    chains: tuple[PausedChain, ...]
