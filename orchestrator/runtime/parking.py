"""What the gate of an engine may take from paused programs: the way from the hold to the leases."""

from __future__ import annotations

from collections.abc import Iterable

from engine.protocol import Engine
from orchestrator.retention import PausedChain, Retention


class KeptChains:
    """`gate.Parking` over the chains that are kept in one engine."""

    def __init__(self, retention: Retention, engine: Engine) -> None:
        self._retention = retention
        self._engine = engine

    def victims(self, tokens: int) -> Iterable[PausedChain]:
        """Chains to give up, in the order of the ledger."""
        return self._retention.victims(self._engine, tokens)

    def park(self, program: str) -> None:
        """Move what is kept for the program to the host, else end its lease."""
        self._retention.park(self._engine, program)

    def pressure(self, waiting: int, running: int) -> None:
        """Let memory's price know who waits for it."""
        self._retention.pressure(self._engine, waiting, running)
