"""What survives a crash: accepted programs, written variables, effect intents and ends."""

from __future__ import annotations

from orchestrator.journal.commit import Commit
from orchestrator.journal.journal import Journal, NullJournal
from orchestrator.journal.records import (
    Accepted,
    Cached,
    Cause,
    Early,
    Ended,
    Extended,
    Failed,
    Intent,
    Recomputed,
    Record,
    Resumed,
    RunFacts,
    Span,
    WorkflowKept,
    Written,
)
from orchestrator.journal.sqlite import SqliteJournal, Synchronous

__all__ = [
    "Accepted",
    "Cached",
    "Cause",
    "Commit",
    "Early",
    "Ended",
    "Extended",
    "Failed",
    "Intent",
    "Journal",
    "NullJournal",
    "Recomputed",
    "Record",
    "Resumed",
    "RunFacts",
    "Span",
    "SqliteJournal",
    "Synchronous",
    "WorkflowKept",
    "Written",
]
