"""The simulated engine: it is an engine, its time is the profile's, and jumps change nothing but the work they save."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from engine.costs import PROFILES, EngineProfile, UnknownProfile, Work, pairs_of, profile
from engine.protocol import (
    ChatMessage,
    Engine,
    EngineLost,
    FinishReason,
    GenerateRequest,
    Lease,
    LeaseOutcome,
    PromptTooLong,
    SamplingParams,
    Tier,
    Usage,
)
from engine.simulated import SimulatedEngine
from engine.streams import reference
from orchestrator.virtual_time import VirtualTimeLoop
from tests.engine.conformance import CHECKS, Check

T = TypeVar("T")

CARD = EngineProfile(
    "card",
    kv_tokens=4096,
    kv_bytes_per_token=1000,
    weights_s=0.004,
    token_s=1e-4,
    pair_s=1e-7,
    read_s=1e-7,
    step_s=0.001,
    token_budget=256,
    max_running=8,
    context_tokens=2048,
)


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


# -- it is an engine ----------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    running = SimulatedEngine(replace(CARD, step_s=1e-5, weights_s=0.0, token_s=1e-6, context_tokens=512))
    yield running
    running.core.check()
    await running.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
async def test_conformance(check: Check, engine: Engine) -> None:
    await check(engine)


# -- time ---------------------------------------------------------------------------------------


def _put(engine: SimulatedEngine, name: str, *pieces: tuple[str, int, int], output: int) -> None:
    engine.book.put(name, pieces, private=lambda stream: stream.startswith(name), out=f"{name}.out", output=output)


def _request(name: str, program: str = "", **changes: Any) -> GenerateRequest:
    request = GenerateRequest(
        id=f"{name}-{program}",
        program=program or name,
        messages=(ChatMessage("user", reference(name)),),
        sampling=SamplingParams(max_tokens=1000),
    )
    return replace(request, **changes)


async def _read(engine: SimulatedEngine, request: GenerateRequest) -> tuple[Usage, int, float]:
    """Usage, tokens told of, and the moment of the end."""
    tokens, usage = 0, None
    async for chunk in engine.generate(request):
        tokens += len(chunk.token_ids)
        if chunk.finish is not None:
            assert chunk.finish is FinishReason.STOP
            usage = chunk.usage
    assert usage is not None
    return usage, tokens, asyncio.get_running_loop().time()


def test_a_call_takes_what_the_profile_says() -> None:
    async def run() -> None:
        engine = SimulatedEngine(CARD)
        _put(engine, "a", ("doc", 0, 300), output=101)
        usage, tokens, end_s = await _read(engine, _request("a"))
        first_s = CARD.seconds(Work(256, pairs_of(0, 256)), 1) + CARD.seconds(Work(44, pairs_of(256, 44)), 1)
        assert usage.prefill_s == pytest.approx(first_s) == pytest.approx(CARD.prefill_seconds(0, 300))
        assert usage.decode_s == pytest.approx(CARD.decode_seconds(1, 301, 100))
        assert end_s == pytest.approx(first_s + usage.decode_s)
        assert tokens == usage.output_tokens == 101
        engine.core.check()

    in_virtual_time(run())


def test_many_steps_cost_what_they_cost_one_by_one() -> None:
    alone = sum(CARD.decode_seconds(3, 900 + 3 * step, 1) for step in range(50))
    assert CARD.decode_seconds(3, 900, 50) == pytest.approx(alone)


def test_shared_prefixes_are_computed_once_and_private_streams_are_not_shared() -> None:
    async def run() -> None:
        engine = SimulatedEngine(CARD)
        for name in ("a", "b"):
            _put(engine, name, ("system", 0, 160), (f"{name}/x", 0, 100), output=5)
        first, _, _ = await _read(engine, _request("a"))
        second, _, _ = await _read(engine, _request("b"))
        engine.book.enrol("copy", 7)
        third, _, _ = await _read(engine, _request("b", "copy"))
        again, _, _ = await _read(engine, _request("b", "copy", id="again"))
        assert [u.cached_tokens for u in (first, second, third)] == [0, 160, 160]
        assert again.cached_tokens >= 240
        engine.core.check()

    in_virtual_time(run())


def test_what_is_asked_in_a_jump_is_heard_at_the_next_step() -> None:
    async def run() -> None:
        engine = SimulatedEngine(CARD)
        loop = asyncio.get_running_loop()
        _put(engine, "long", ("l", 0, 64), output=900)
        _put(engine, "short", ("s", 0, 64), output=1)
        long = asyncio.ensure_future(_read(engine, _request("long")))
        await asyncio.sleep(1.0)
        sent_s = loop.time()
        usage, _, end_s = await _read(engine, _request("short"))
        step_s = CARD.decode_seconds(1, 400, 1)
        assert usage.queue_s <= step_s * 1.01
        assert end_s - sent_s <= step_s + CARD.seconds(Work(65, pairs_of(0, 64), 400), 2) * 1.01
        assert (await long)[0].output_tokens == 900
        engine.core.check()

    in_virtual_time(run())


class _StepByStep(SimulatedEngine):
    """Never jumps."""

    def _begin(self) -> None:
        self.core.alike = lambda step: 1  # type: ignore[method-assign]
        super()._begin()


@pytest.mark.parametrize("seed", range(18))
def test_jumps_change_nothing(seed: int) -> None:
    """A random load on little memory, with and without jumps: the same calls end at the same times."""

    async def run(kind: type[SimulatedEngine]) -> list[tuple[int, int, float]]:
        rng = Random(seed)
        long = 4 if seed >= 6 else 1  # prompts of many steps, on memory for two of them
        host_bytes = 4_000_000 if seed >= 12 else 0
        card = replace(CARD, kv_tokens=1024 * long, token_budget=256 // long, host_bytes=host_bytes)
        engine = kind(replace(card, shared_prefix_decode=bool(seed % 2)))
        ended: list[tuple[int, int, float]] = []

        async def call(number: int, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            usage, _, end_s = await _read(engine, _request(f"n{number}", key=(float(number % 3),)))
            engine.core.check()
            ended.append((number, usage.cached_tokens, round(end_s, 9)))

        calls = []
        for number in range(25):
            length, output = rng.randrange(20, 300) * long, rng.randrange(1, 200)
            _put(engine, f"n{number}", (f"shared{number % 4}", 0, length), output=output)
            calls.append(call(number, rng.random() * 3 * long))
        await asyncio.gather(*calls)
        return sorted(ended)

    assert in_virtual_time(run(SimulatedEngine)) == in_virtual_time(run(_StepByStep))


# -- memory and faults --------------------------------------------------------------------------


def test_leases_keep_a_chain_through_pressure_and_the_host_takes_what_is_demoted() -> None:
    async def run() -> None:
        engine = SimulatedEngine(replace(CARD, kv_tokens=1024, host_bytes=10**6))
        _put(engine, "kept", ("kept/p", 0, 320), output=10)
        _put(engine, "kept2", ("kept/p", 0, 320), output=10)
        _put(engine, "other", ("other/p", 0, 900), output=10)
        await _read(engine, _request("kept"))
        grant = await engine.retain(Lease("l", "kept", (), 1000.0, request="kept-"))
        assert grant.bytes >= 320 * 1000
        assert (await engine.demote("l")).tier is Tier.HOST
        await _read(engine, _request("other"))
        usage, _, _ = await _read(engine, _request("kept2", "kept"))
        assert usage.cached_tokens == 319 - 319 % 16
        await engine.release("l", LeaseOutcome.FINAL)
        engine.core.check()

    in_virtual_time(run())


def test_a_lost_engine_ends_every_wait_and_comes_back_empty() -> None:
    async def run() -> None:
        engine = SimulatedEngine(CARD)
        _put(engine, "a", ("doc", 0, 300), output=500)
        waiting = asyncio.ensure_future(_read(engine, _request("a")))
        await asyncio.sleep(0.5)
        engine.lose("it crashed")
        with pytest.raises(EngineLost, match="it crashed"):
            await waiting
        with pytest.raises(EngineLost):
            await engine.reprioritize("a", (1.0,))
        engine.restart()
        usage, _, _ = await _read(engine, _request("a"))
        assert usage.cached_tokens == 0

    in_virtual_time(run())


def test_a_reference_that_is_too_long_is_refused_by_name() -> None:
    async def run() -> None:
        engine = SimulatedEngine(CARD)
        _put(engine, "huge", ("doc", 0, 5000), output=5)
        assert engine.count_tokens((ChatMessage("user", reference("huge")),)) == 5000
        with pytest.raises(PromptTooLong, match="5000"):
            await _read(engine, _request("huge"))

    in_virtual_time(run())


# -- profiles -----------------------------------------------------------------------------------


def test_profiles_say_what_the_cards_hold() -> None:
    assert PROFILES["h200-8b"].kv_tokens * PROFILES["h200-8b"].kv_bytes_per_token == pytest.approx(110e9, rel=0.01)
    assert PROFILES["h200-8b"].seconds(Work(2048)) < PROFILES["a100-8b"].seconds(Work(2048))
    for card in PROFILES.values():
        assert card.prefill_seconds(0, 100_000) > 4 * card.prefill_seconds(0, 20_000)


def test_unknown_profiles_are_told_with_the_names_there_are(tmp_path: Any) -> None:
    with pytest.raises(UnknownProfile, match="h200-8b"):
        profile("h300")
    bad = tmp_path / "card.json"
    bad.write_text('{"name": "x"}')
    with pytest.raises(UnknownProfile, match=r"card\.json"):
        profile(str(bad))
    with pytest.raises(ValueError, match="token_s"):
        replace(CARD, token_s=-1.0)
