"""Debug mode: copies between the tiers are compared, and a corrupted block harms one attempt only."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.checked import CheckedRunner
from engine.clock import ManualClock
from engine.config import BLOCK_TOKENS, EngineConfig
from engine.kv.cache import CopyKind
from engine.loading import load_engine
from engine.local import LocalEngine
from engine.protocol import CorruptedBlock, Lease, ModelInfo, Tier
from tests.engine.fakes import VOCAB, FakeCodec, FakeRunner, expected_output
from tests.engine.serve import request, serve

PROMPT = list(range(1, 60))


def engine() -> tuple[LocalEngine, FakeRunner]:
    config, runner = EngineConfig("fake", lease_share=1.0), FakeRunner(16, 16)
    core = LocalEngine(
        config,
        ModelInfo("fake", 256, VOCAB, 1),
        CheckedRunner(runner),
        FakeCodec(),  # type: ignore[arg-type]
        ManualClock(),
        blocks=16,
        host_blocks=16,
    )
    return core, runner


def parked() -> tuple[LocalEngine, FakeRunner]:
    """An engine whose one chain lies on the host alone."""
    core, runner = engine()
    serve(core, request("first", PROMPT, 5))
    core.retain(Lease("l", "p", (), 30.0, request="first"))
    assert core.demote("l").tier is Tier.HOST
    core.step()
    serve(core, request("other", [900 - index for index in range(230)], 20))
    assert core.estimate(tuple(PROMPT)).cached_tokens == {Tier.DEVICE: 0, Tier.HOST: 48}
    return core, runner


def test_what_comes_back_unchanged_is_used() -> None:
    core, runner = parked()
    results = serve(core, request("again", PROMPT, 5))
    assert results["again"].ids == expected_output(PROMPT, 5) and runner.copied > 4
    core.check()


def test_a_block_that_changed_on_the_host_fails_one_attempt_and_is_forgotten() -> None:
    core, runner = parked()
    runner.host[1] = [12345] * BLOCK_TOKENS
    first = serve(core, request("again", PROMPT, 5), request("innocent", [700, 701, 702], 5))
    assert isinstance(first["again"].error, CorruptedBlock) and first["again"].error.retryable
    core.check()
    second = serve(core, request("retry", PROMPT, 5))
    assert second["retry"].ids == expected_output(PROMPT, 5)
    core.check()


def test_a_copy_that_differs_is_told() -> None:
    runner = FakeRunner(4, 4)
    runner.copy = lambda kind, pairs: None  # type: ignore[method-assign]
    runner.kv[2] = [7] * BLOCK_TOKENS
    with pytest.raises(CorruptedBlock, match=r"device block 2 .* host block 3"):
        CheckedRunner(runner).copy(CopyKind.DEVICE_TO_HOST, [(2, 3)])


def test_a_real_engine_in_debug_mode_says_the_same(model_dir: Path) -> None:
    prompt = [5 + index % 50 for index in range(70)]
    said = []
    for debug in (False, True):
        core = load_engine(EngineConfig(str(model_dir), threads=1, host_blocks=16, debug=debug), ManualClock())
        ids = serve(core, request("first", prompt, 8))["first"].ids
        assert ids is not None
        core.retain(Lease("l", "p", (), 30.0, request="first"))
        core.demote("l")
        core.step()
        core.prefetch("l", 1.0)
        said.append(ids + serve(core, request("second", prompt + ids, 8))["second"].ids)
    assert said[0] == said[1]
