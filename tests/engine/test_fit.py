"""A cost model that is fitted to a simulated engine is the one it was made with."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from engine.clock import LoopClock
from engine.costs import EngineProfile
from engine.fit import Fit, fit, measure
from engine.simulated import SimulatedEngine
from orchestrator.virtual_time import VirtualTimeLoop

CPU = EngineProfile(
    "cpu",
    kv_tokens=8192,
    kv_bytes_per_token=1000,
    weights_s=0.0,
    token_s=1e-4,
    pair_s=0.0,
    read_s=1e-6,
    step_s=0.002,
    sequence_s=5e-5,
    piece_s=0.003,
    matrix_s=0.001,
    call_s=0.004,
    token_budget=256,
    max_running=16,
    context_tokens=512,
)


def _fitted(profile: EngineProfile) -> Fit:
    async def run() -> Fit:
        engine = SimulatedEngine(profile)
        rounds: list[int] = []
        samples = await measure(
            engine, LoopClock(asyncio.get_running_loop()), budget=256, rounds=2, done=lambda: rounds.append(1)
        )
        assert len(rounds) == 2
        return fit(samples, engine, name="found", budget=256, max_running=16)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(run())


@pytest.mark.parametrize(
    "profile", [CPU, replace(CPU, piece_s=0.0, matrix_s=0.0), replace(CPU, call_s=0.0, token_s=5e-4)]
)
def test_what_is_found_is_what_there_is(profile: EngineProfile) -> None:
    found = _fitted(profile)
    assert found.error < 0.02
    for tokens in (20, 200, 500):
        assert found.profile.prefill_seconds(0, tokens) == pytest.approx(profile.prefill_seconds(0, tokens), rel=0.06)
    for batch in (1, 3, 16):
        mine, theirs = (one.decode_seconds(batch, 300 * batch, 10) for one in (found.profile, profile))
        assert mine == pytest.approx(theirs, rel=0.04)
    assert found.profile.call_s == pytest.approx(profile.call_s, abs=3e-4)
    assert found.profile.matrix_s == pytest.approx(profile.matrix_s, abs=2e-4)
    assert found.profile.piece_s == pytest.approx(profile.piece_s, abs=5e-4)
