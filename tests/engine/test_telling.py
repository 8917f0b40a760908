"""What an engine tells for traces and metrics: its blocks by tier and state, where tokens were found, its steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.protocol import EngineEventKind, EngineStep, KVBlocks, Lease, LeaseOutcome, Tier
from tests.engine.fakes import fake_engine
from tests.engine.serve import request, serve

PROMPT = list(range(1, 65))


def test_blocks_are_counted_by_tier_and_state() -> None:
    engine, _ = fake_engine(ManualClock(), 20, host_blocks=8, lease_share=1.0)
    assert engine.kv_blocks() == (KVBlocks(Tier.DEVICE, 20, 0, 0, 0), KVBlocks(Tier.HOST, 8, 0, 0, 0))
    engine.submit(request("r", PROMPT, 4))
    engine.step()
    device, _ = engine.kv_blocks()
    assert (device.free, device.active) == (20 - device.active, device.active) and device.active >= 4
    serve(engine)
    engine.retain(Lease("l", "p", tuple(PROMPT), ttl_s=10.0))
    device, host = engine.kv_blocks()
    assert (device.active, device.leased) == (0, 4) and device.free + device.leased + device.cached == 20
    engine.demote("l")
    engine.step()
    device, host = engine.kv_blocks()
    assert (device.leased, host.leased) == (0, 4)
    engine.release("l", LeaseOutcome.FINAL)
    assert engine.kv_blocks()[1].leased == 0
    without, _ = fake_engine(ManualClock(), 20)
    assert [kv.tier for kv in without.kv_blocks()] == [Tier.DEVICE]


def test_tokens_that_came_back_from_the_host_are_told_apart() -> None:
    engine, _ = fake_engine(ManualClock(), 17, host_blocks=8, lease_share=1.0)
    serve(engine, request("first", PROMPT, 4))
    again = serve(engine, request("again", PROMPT, 4))["again"].usage
    assert again is not None and (again.cached_tokens, again.host_tokens) == (48, 0)
    engine.retain(Lease("l", "p", tuple(PROMPT), ttl_s=10.0))
    engine.demote("l")
    serve(engine, request("other", list(range(100, 300)), 72))  # it needs the whole device
    back = serve(engine, request("back", PROMPT, 4))["back"].usage
    assert back is not None and back.host_tokens == back.cached_tokens == 48


@pytest.mark.parametrize(("share", "told"), [(0.0, 0), (0.25, 2), (1.0, 8)])
def test_a_share_of_the_steps_is_told_of_with_the_requests_in_them(share: float, told: int) -> None:
    clock = ManualClock()
    engine, runner = fake_engine(clock, 20, trace_steps=share)
    run = runner.run

    def slow(step):  # type: ignore[no-untyped-def]
        clock.advance(0.5)
        return run(step)

    runner.run = slow  # type: ignore[method-assign]
    requests = [replace(request(name, list(range(1, 20)), 8), traceparent=f"trace {name}") for name in "ab"]
    serve(engine, *requests, request("c", [7], 1))
    steps = [event.step for event in engine.drain_events() if event.kind is EngineEventKind.STEP]
    assert len(steps) == told
    assert all(step is not None and step.traceparents == ("trace a", "trace b") for step in steps)
    if told == 8:
        assert steps[0] == EngineStep(0.5, 0, 23, ("trace a", "trace b"))
        assert steps[1] == EngineStep(0.5, 2, 0, ("trace a", "trace b"))
    assert [e for e in engine.drain_events() if e.kind is EngineEventKind.STEP] == []


def test_a_share_is_from_0_to_1() -> None:
    with pytest.raises(ValueError, match="trace_steps"):
        EngineConfig("m", trace_steps=1.5)
