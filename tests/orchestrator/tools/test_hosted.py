"""A model that a worker answers for takes part in programs like any engine."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from engine.protocol import (
    ChatMessage,
    EngineError,
    EngineLost,
    FinishReason,
    GenerateRequest,
    Grammar,
    GrammarKind,
    SamplingParams,
    TokenChunk,
)
from orchestrator.limits import Limits
from orchestrator.tools import WorkerEngine, WorkerPool
from orchestrator.virtual_time import VirtualClock
from tenuto.wire import ModelTask, RegexConstraint
from tests.orchestrator.runtime.support import ScriptedWorker, ToolError


def _engine(pool: WorkerPool) -> WorkerEngine:
    return WorkerEngine(pool, clock=VirtualClock(), tenant="default", toolset="tools", model="m")


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(
        id="p/c/2", program="p", call="c", attempt=2, messages=(ChatMessage("user", "hi you"),), **fields
    )


async def _generate(engine: WorkerEngine, request: GenerateRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(request)]


@pytest.fixture
def pool() -> WorkerPool:
    return WorkerPool(limits=Limits(worker_wait_s=10.0), rng=Random(0))


@pytest.mark.parametrize("text", ["", "word", "  two  words\n", "many " * 1000, "\n\n", "日本語 テキスト"])
async def test_the_pieces_make_up_the_text(pool: WorkerPool, text: str) -> None:
    async def model(task: ModelTask) -> str:
        await asyncio.sleep(2.0)
        return text

    ScriptedWorker(pool, models={"m": model})
    chunks = await _generate(_engine(pool), _request())
    assert "".join(chunk.text for chunk in chunks) == text
    assert len(chunks) <= 65
    last = chunks[-1]
    assert last.finish is FinishReason.STOP and last.usage is not None
    assert last.usage.prompt_tokens == 2 and last.usage.decode_s == pytest.approx(2.0)


async def test_the_task_tells_the_worker_all_that_the_request_says(pool: WorkerPool) -> None:
    async def model(task: ModelTask) -> str:
        return "x"

    worker = ScriptedWorker(pool, models={"m": model})
    sampling = SamplingParams(max_tokens=7, temperature=0.5, seed=3, stop=("\n",))
    schema = Grammar(GrammarKind.JSON_SCHEMA, '{"type":"integer"}')
    await _generate(_engine(pool), _request(stage="write", sampling=sampling, grammar=schema))
    await _generate(_engine(pool), _request(grammar=Grammar(GrammarKind.REGEX, "a+")))
    first, second = worker.seen
    assert isinstance(first, ModelTask) and isinstance(second, ModelTask)
    assert ModelTask.model_validate_json(first.model_dump_json()) == first
    assert (first.program, first.call, first.stage, first.attempt, first.model) == ("p", "c", "write", 2, "m")
    assert first.messages[0].content == "hi you" and first.sampling.seed == 3 and first.sampling.stop == ("\n",)
    assert first.json_schema == {"type": "integer"} and first.constraint is None
    assert second.constraint == RegexConstraint(pattern="a+") and second.stage is None


async def test_errors_of_the_worker_are_errors_of_the_engine(pool: WorkerPool) -> None:
    async def broken(task: ModelTask) -> str:
        raise ToolError("model_error", retryable=True)

    async def number(task: ModelTask) -> Any:
        return 3

    ScriptedWorker(pool, models={"m": broken})
    with pytest.raises(EngineError) as caught:
        await _generate(_engine(pool), _request())
    assert (caught.value.name, caught.value.retryable) == ("model_error", True)
    ScriptedWorker(pool, models={"n": number})
    engine = WorkerEngine(pool, clock=VirtualClock(), tenant="default", toolset="tools", model="n")
    with pytest.raises(EngineError, match="no text"):
        await _generate(engine, _request())


async def test_a_worker_that_goes_is_a_lost_engine_and_none_at_all_an_error(pool: WorkerPool) -> None:
    async def slow(task: ModelTask) -> str:
        await asyncio.sleep(1000)
        return "never"

    worker = ScriptedWorker(pool, models={"m": slow})
    generating = asyncio.create_task(_generate(_engine(pool), _request()))
    await asyncio.sleep(1)
    await worker.disconnect()
    with pytest.raises(EngineLost):
        await generating
    with pytest.raises(EngineError) as caught:
        await _generate(_engine(pool), _request())
    assert caught.value.name == "no_worker"


async def test_closing_the_iterator_takes_the_task_back(pool: WorkerPool) -> None:
    async def slow(task: ModelTask) -> str:
        await asyncio.sleep(1000)
        return "never"

    worker = ScriptedWorker(pool, models={"m": slow})
    generating = asyncio.create_task(_generate(_engine(pool), _request()))
    await asyncio.sleep(1)
    generating.cancel()
    await asyncio.sleep(1)
    assert worker.cancelled == [worker.seen[0].task]
