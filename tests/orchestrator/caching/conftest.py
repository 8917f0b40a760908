"""Tests here run in virtual time, with the cache in a file of their own."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.caching.options import CacheOptions
from orchestrator.caching.server_cache import ServerCache
from orchestrator.engines import EnginePool
from orchestrator.virtual_time import VirtualClock, VirtualTimeLoop
from tests.orchestrator.runtime.support import Server
from tests.semantic_cache.doubles import ChosenEmbedder


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return {"virtual": VirtualTimeLoop}


Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a server with a cache: `await start(embedder=None, options={}, **server)`. All are closed at the end."""
    started: list[Server] = []

    async def begin(
        embedder: ChosenEmbedder | None = None, options: dict[str, Any] | None = None, **server: Any
    ) -> Server:
        given = {"mode": "exact" if embedder is None else "semantic", "directory": tmp_path, **(options or {})}

        async def make(pool: EnginePool, clock: VirtualClock) -> ServerCache:
            cache = ServerCache(CacheOptions(**given), pool, clock, Random(1), embedder=embedder)
            await cache.open()
            return cache

        started.append(await Server(make_cache=make, **server).start())
        return started[-1]

    yield begin
    for one in started:
        await one.close()
        assert isinstance(one.cache, ServerCache)
        await one.cache.close()
