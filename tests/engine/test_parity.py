"""Greedy output equals transformers' token for token, in fp32, whatever the scheduler and the cache do."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.loading import load_engine
from engine.local import LocalEngine
from tests.engine.models import CONTEXT, FAMILIES, make_model, reference, reference_greedy
from tests.engine.serve import Result, collect, request, serve

_VOCAB = 380
Expected = dict[str, tuple[list[int], list[int]]]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, family_dir: Callable[[str], Path]) -> tuple[Path, Expected]:
    """A model and, by name, prompts of many lengths with what transformers makes of them."""
    directory = family_dir(request.param)
    return directory, expect(reference(directory), seed=len(request.param))


def expect(network: Any, seed: int) -> Expected:
    rng = random.Random(seed)
    shared = [rng.randrange(4, _VOCAB) for _ in range(37)]
    expected: Expected = {}
    for index in range(4):
        prompt = [rng.randrange(4, _VOCAB) for _ in range(14)]
        expected[f"growing{index}"] = (prompt, reference_greedy(network, prompt, 40))
    for index, length in enumerate((1, 15, 16, 17, 40, 90)):
        prompt = [rng.randrange(4, _VOCAB) for _ in range(length)]
        if index % 2:
            prompt = shared + prompt
        expected[f"r{index}"] = (prompt, reference_greedy(network, prompt, 24))
    outputs = {tuple(out) for _, out in expected.values()}
    assert len(outputs) > 3 and any(len(set(out)) > 6 for out in outputs), "the model is degenerate"
    return expected


def engine_for(directory: Path, **settings: Any) -> LocalEngine:
    return load_engine(EngineConfig(str(directory), threads=1, **settings), ManualClock())


def check(results: dict[str, Result], expected: Expected) -> None:
    for name, (_, out) in expected.items():
        assert results[name].ids == out, name


def requests(expected: Expected) -> list[Any]:
    return [request(name, prompt, len(out)) for name, (prompt, out) in expected.items()]


def test_batch(case: tuple[Path, Expected]) -> None:
    directory, expected = case
    check(serve(engine_for(directory), *requests(expected)), expected)


def test_one_at_a_time_and_again_from_the_cache(case: tuple[Path, Expected]) -> None:
    directory, expected = case
    engine = engine_for(directory)
    cached = 0
    for _ in range(2):
        for one in requests(expected):
            results = serve(engine, one)
            assert results[one.id].ids == expected[one.id][1]
            usage = results[one.id].usage
            assert usage is not None
            cached += usage.cached_tokens
    assert cached >= 16 * (6 + 1 + 2 * 2 + 2 * 3), "the cache was not used"


def test_chunked_prefill(case: tuple[Path, Expected]) -> None:
    directory, expected = case
    engine = engine_for(directory, token_budget=20, max_running=4)
    check(serve(engine, *requests(expected)), expected)


@pytest.mark.parametrize("host_blocks", [0, 32], ids=["recomputed", "swapped"])
def test_preempted_and_resumed(case: tuple[Path, Expected], host_blocks: int) -> None:
    directory, expected = case
    growing = {name: item for name, item in expected.items() if name.startswith("growing")}
    engine = engine_for(directory, kv_blocks=9, host_blocks=host_blocks)
    # Who expects short outputs admits too many.
    results = serve(engine, *[replace(one, expected_tokens=1) for one in requests(growing)])
    check(results, growing)
    assert sum(r.usage.preemptions for r in results.values() if r.usage) > 0, "nothing was preempted"


def test_neighbours_aborted(case: tuple[Path, Expected]) -> None:
    directory, expected = case
    engine = engine_for(directory)
    results: dict[str, Result] = {}
    for one in requests(expected):
        engine.submit(one)
    aborted = ("r0", "growing1", "r2")
    for name in aborted:
        collect(engine, results, steps=4)
        engine.abort(name)
    collect(engine, results)
    for name, (_, out) in expected.items():
        assert results[name].ids == (out[: len(results[name].ids)] if name in aborted else out)
    assert [len(results[name].ids) for name in aborted] == [4, 8, 12]


ROPES: tuple[dict[str, Any], ...] = (
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": CONTEXT // 4},
)


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: str(rope["rope_type"]))
def test_rope_scalings(rope: dict[str, Any], tmp_path: Path) -> None:
    directory = make_model(tmp_path, rope_parameters={"rope_theta": 500.0, **rope})
    expected = expect(reference(directory), seed=3)
    check(serve(engine_for(directory), *requests(expected)), expected)
