"""Tests here run in virtual time: hours of waiting cost nothing, and every run is the same."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from orchestrator.virtual_time import VirtualTimeLoop
from tests.orchestrator.runtime.support import Server


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return {"virtual": VirtualTimeLoop}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server that keeps nothing, with an engine that answers `<prompt>`."""
    server = await Server().start()
    yield server
    await server.close()
