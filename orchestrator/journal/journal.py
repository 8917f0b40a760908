"""The journal's interface, and the one that keeps nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from orchestrator.errors import JournalUnavailable
from orchestrator.journal.commit import Commit
from orchestrator.journal.records import Accepted, Record, WorkflowKept

FaultListener = Callable[[JournalUnavailable], None]


class Journal(Protocol):
    """An append-only log of records, in commit order. One writer: the server that opened it."""

    async def open(self, on_fault: FaultListener) -> None:
        """Open or create it. `on_fault` is told once if the disk fails later. Raises JournalUnavailable."""
        ...

    def append(self, record: Record | WorkflowKept) -> Commit:
        """Put a record behind all earlier ones. Never blocks. Raises JournalUnavailable after a fault."""
        ...

    async def unfinished(self) -> tuple[str, ...]:
        """Programs that were accepted and have not ended, oldest first."""
        ...

    async def records(self, program: str) -> tuple[Record, ...]:
        """Every durable record of a program, in order; none if it is unknown."""
        ...

    async def find_key(self, key: str) -> Accepted | None:
        """The program that was accepted under an idempotency key."""
        ...

    async def workflows(self) -> tuple[WorkflowKept, ...]:
        """What was registered and removed, the newest of each name."""
        ...

    async def close(self) -> None:
        """Write what is pending, then close. A second close is no error."""
        ...


_DURABLE = Commit.of_nothing()


class NullJournal:
    """Keeps nothing: for servers whose programs may die with them. Every append is durable at once."""

    async def open(self, on_fault: FaultListener) -> None:
        return

    def append(self, record: Record | WorkflowKept) -> Commit:
        return _DURABLE

    async def unfinished(self) -> tuple[str, ...]:
        return ()

    async def records(self, program: str) -> tuple[Record, ...]:
        return ()

    async def find_key(self, key: str) -> Accepted | None:
        return None

    async def workflows(self) -> tuple[WorkflowKept, ...]:
        return ()

    async def close(self) -> None:
        return
