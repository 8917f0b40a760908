"""The engine protocol's conformance suite on an engine in a thread and on one in a process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from engine.aio import AsyncEngine
from engine.client import EngineProcess
from engine.config import EngineConfig
from engine.protocol import Engine
from tests.engine.conformance import CHECKS, Check


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=[AsyncEngine, EngineProcess], ids=lambda kind: str(kind.__name__)
)
async def engine(request: pytest.FixtureRequest, model_dir: Path) -> AsyncIterator[Engine]:
    async with await request.param.start(EngineConfig(str(model_dir), threads=1, host_bytes=1 << 22)) as running:
        yield running


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
async def test_conformance(check: Check, engine: Engine) -> None:
    await check(engine)
