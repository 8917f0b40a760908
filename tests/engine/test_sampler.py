"""Draws: seeded, independent of the batch, with the distribution that the parameters ask for."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.loading import load_engine
from engine.protocol import NumericalFault, SamplingParams
from engine.sampler import sample, uniform
from engine.sequence import Sequence
from tests.engine.serve import request, serve

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5, -3.0])


def sequence(**sampling: Any) -> Sequence:
    return Sequence("s", "p", [1], 10, SamplingParams(**sampling))


def draws(count: int = 4_000, **sampling: Any) -> dict[int, float]:
    """Shares of the tokens that `count` seeds draw from LOGITS."""
    sequences = [sequence(seed=seed, **sampling) for seed in range(count)]
    tokens = sample(LOGITS.repeat(count, 1), sequences)
    return {token: tokens.count(token) / count for token in range(len(LOGITS)) if token in tokens}


def close(shares: dict[int, float], probabilities: torch.Tensor) -> None:
    for token, probability in enumerate(probabilities.tolist()):
        spread = 5 * math.sqrt(probability * (1 - probability) / 4_000)
        assert shares.get(token, 0.0) == pytest.approx(probability, abs=max(spread, 1e-9))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature(temperature: float) -> None:
    close(draws(temperature=temperature), (LOGITS / temperature).softmax(0))


def test_top_k() -> None:
    kept = LOGITS.clone()
    kept[[2, 3, 5]] = -math.inf
    close(draws(temperature=1.0, top_k=3), kept.softmax(0))


def test_top_p_keeps_the_token_that_crosses_it() -> None:
    probabilities = LOGITS.softmax(0)
    first, second = probabilities[0].item(), probabilities[4].item()
    kept = torch.full_like(LOGITS, -math.inf)
    kept[[0, 4]] = LOGITS[[0, 4]]
    close(draws(temperature=1.0, top_p=first + second / 2), kept.softmax(0))
    assert draws(temperature=1.0, top_p=1e-6) == {0: 1.0}


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    top = LOGITS[[0, 4]].softmax(0)
    assert draws(temperature=1.0, top_k=2, top_p=top[0].item() - 0.01) == {0: 1.0}
    assert set(draws(temperature=1.0, top_k=2, top_p=top[0].item() + 0.01)) == {0, 4}


def test_truncation_ranks_as_many_candidates_as_it_needs() -> None:
    flat = torch.zeros(1, 3_000)
    flat[0, 7] = 0.001
    drawn = {sample(flat.clone(), [sequence(temperature=1.0, top_p=0.5, seed=seed)])[0] for seed in range(300)}
    assert len(drawn) > 200, "only the first candidates were considered"
    steep = torch.arange(3_000, 0, -1).float().repeat(2, 1) * 0.05
    for seed in range(100):
        rows = [sequence(temperature=1.0, top_p=0.9, seed=seed), sequence(temperature=1.0, top_k=2_000, seed=seed)]
        together = sample(steep.clone(), rows)
        assert together == [sample(steep[:1].clone(), [row])[0] for row in rows]
        assert isinstance(together[0], int) and together[0] <= 46, "0.9 of the mass is in the first 46 tokens"


def test_tokens_as_probable_as_the_last_kept_stay() -> None:
    tied = torch.tensor([[1.0, 2.0, 1.0, 1.0, 0.0]])
    drawn = {sample(tied.clone(), [sequence(temperature=1.0, top_k=2, seed=seed)])[0] for seed in range(200)}
    assert drawn == {0, 1, 2, 3}


def test_min_p() -> None:
    kept = LOGITS.clone()
    kept[LOGITS.softmax(0) < 0.3 * LOGITS.softmax(0).max()] = -math.inf
    close(draws(temperature=1.0, min_p=0.3), kept.softmax(0))
    assert draws(temperature=1.0, min_p=1.0) == {0: 1.0}


def test_greedy_and_drawn_rows_mix() -> None:
    rows = [sequence(), sequence(temperature=1.0, seed=4), sequence(), sequence(temperature=1.0, seed=4, top_k=1)]
    tokens = sample(LOGITS.repeat(4, 1), rows)
    assert tokens[0] == tokens[2] == tokens[3] == 0
    assert tokens[1] == sample(LOGITS.repeat(1, 1), [sequence(temperature=1.0, seed=4)])[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_faulty_logits_fail_their_row_only(bad: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 2] = bad
    tokens = sample(logits, [sequence(), sequence(), sequence(temperature=1.0)])
    assert isinstance(tokens[1], NumericalFault)
    assert tokens[0] == 0 and isinstance(tokens[2], int)


def test_huge_but_finite_logits_are_no_fault() -> None:
    logits = torch.full((1, 6), 3e38)
    logits[0, 3] = 3.3e38
    assert sample(logits, [sequence()]) == [3]


def test_uniform_numbers_are_uniform_and_unrelated() -> None:
    numbers = [uniform(seed, position) for seed in range(60) for position in range(60)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert len(set(numbers)) > 3_590
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)
    neighbours = [(a - 0.5) * (b - 0.5) for a, b in pairwise(numbers)]
    assert sum(neighbours) / len(neighbours) == pytest.approx(0.0, abs=0.01)
    assert uniform(-5, 0) != uniform(5, 0) and uniform(2**80, 1) < 1.0


def test_seeds_do_not_depend_on_the_batch(model_dir: Path) -> None:
    rng = random.Random(1)
    prompts = [[rng.randrange(4, 380) for _ in range(rng.randrange(1, 40))] for _ in range(10)]
    asked = [
        request(f"r{i}", prompt, 20, temperature=1.0, seed=i, top_k=40 * (i % 2), top_p=0.95)
        for i, prompt in enumerate(prompts)
    ]
    wide = load_engine(EngineConfig(str(model_dir), threads=1), ManualClock())
    narrow = load_engine(EngineConfig(str(model_dir), threads=1, max_running=2, token_budget=18), ManualClock())
    together, apart = serve(wide, *asked), serve(narrow, *reversed(asked))
    assert {name: result.ids for name, result in together.items()} == {
        name: result.ids for name, result in apart.items()
    }
    assert together["r0"].ids != serve(wide, request("x", prompts[0], 20, temperature=1.0, seed=77))["x"].ids
