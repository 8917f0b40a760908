"""Tests here run in virtual time: hours of waiting cost nothing, and every run is the same."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from orchestrator.journal import SqliteJournal
from orchestrator.journal.journal import FaultListener
from orchestrator.virtual_time import VirtualTimeLoop
from tests.orchestrator.runtime.support import Server


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return {"virtual": VirtualTimeLoop}


@pytest.fixture(autouse=True)
async def _closed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Close every journal, also when a test fails: its thread would keep the interpreter alive."""
    journals: list[SqliteJournal] = []
    connect = SqliteJournal.open

    async def open(self: SqliteJournal, on_fault: FaultListener) -> None:
        journals.append(self)
        await connect(self, on_fault)

    monkeypatch.setattr(SqliteJournal, "open", open)
    yield
    for journal in journals:
        await journal.abandon()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server that keeps nothing, with an engine that answers `<prompt>`."""
    server = await Server().start()
    yield server
    await server.close()
