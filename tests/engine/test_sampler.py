"""Draws: seeded, independent of the batch, with the distribution that the parameters ask for."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.loading import load_engine
from engine.protocol import NumericalFault, SamplingParams, TokenChunk
from engine.sampler import is_greedy, sample, uniform
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


# penalties and bias, as transformers' processors understand them

PROMPT, OUTPUT = [1, 4, 4], [0, 0, 5]


def penalized(**sampling: Any) -> torch.Tensor:
    """Probabilities of the next token after PROMPT and OUTPUT, as 4,000 seeds draw it."""
    rows = []
    for seed in range(4_000):
        row = Sequence("s", "p", PROMPT.copy(), 10, SamplingParams(temperature=1.0, seed=seed, **sampling))
        row.tokens += OUTPUT
        rows.append(row)
    tokens = sample(LOGITS.repeat(len(rows), 1), rows)
    return torch.tensor([tokens.count(token) / len(rows) for token in range(len(LOGITS))])


@pytest.mark.parametrize("penalty", [1.5, 0.6])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    expected = processor(torch.tensor([PROMPT + OUTPUT]), LOGITS[None].clone())[0].softmax(0)
    assert torch.allclose(penalized(repetition_penalty=penalty), expected, atol=0.03)


def test_presence_counts_once_and_frequency_each_time_in_the_output_only() -> None:
    counts = torch.tensor([2.0, 0, 0, 0, 0, 1])
    once = (LOGITS - 0.8 * (counts > 0)).softmax(0)
    assert torch.allclose(penalized(presence_penalty=0.8), once, atol=0.03)
    each = (LOGITS - 0.7 * counts).softmax(0)
    assert torch.allclose(penalized(frequency_penalty=0.7), each, atol=0.03)


def test_bias_is_added_and_can_forbid_or_force() -> None:
    assert sample(LOGITS[None].clone(), [sequence(logit_bias=((3, 100.0),))]) == [3]
    assert sample(LOGITS[None].clone(), [sequence(logit_bias=((0, -100.0),))]) == [4]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"top_k": 2}, lambda: transformers.TopKLogitsWarper(2)),
        ({"top_p": 0.7}, lambda: transformers.TopPLogitsWarper(0.7)),
        ({"min_p": 0.2}, lambda: transformers.MinPLogitsWarper(0.2)),
    ],
)
def test_truncation_keeps_what_transformers_keeps(ours: dict[str, Any], theirs: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        logits = torch.randn(12, generator=generator) * 2
        kept = set(theirs()(torch.tensor([[1]]), logits[None].clone())[0].isfinite().nonzero().flatten().tolist())
        rows = [sequence(temperature=1.0, seed=seed, **ours) for seed in range(400)]
        drawn = set(sample(logits.repeat(len(rows), 1), rows))
        rare = {t for t in kept if logits.softmax(0)[t] < 0.02}
        assert kept - rare <= drawn <= kept


# log probabilities


def test_log_probabilities_are_the_models_own() -> None:
    asked = [sequence(logprobs=2, temperature=5.0, seed=1, frequency_penalty=1.0), sequence(), sequence(logprobs=0)]
    tokens = sample(LOGITS.repeat(3, 1), asked)
    expected = LOGITS.log_softmax(0)
    (logprob, top) = asked[0].scores[0]
    assert isinstance(tokens[0], int) and logprob == pytest.approx(expected[tokens[0]].item())
    assert [token for token, _ in top] == [0, 4]
    assert [value for _, value in top] == pytest.approx(expected[[0, 4]].tolist())
    assert not asked[1].scores and asked[1].logprob == 0.0
    assert asked[2].scores == [(pytest.approx(expected[0].item()), [])]


def test_only_plain_greedy_rows_may_skip_the_sampler() -> None:
    assert is_greedy(sequence())
    for other in ({"temperature": 0.1}, {"logprobs": 0}, {"repetition_penalty": 1.1}, {"logit_bias": ((1, 1.0),)}):
        assert not is_greedy(sequence(**other))


def test_log_probabilities_come_with_their_chunks(model_dir: Path) -> None:
    engine = load_engine(EngineConfig(str(model_dir), threads=1), ManualClock())
    engine.submit(request("a", [5, 6, 7], 6, logprobs=3))
    engine.submit(request("b", [5, 6, 7], 6))
    seen = 0
    while engine.has_work:
        for name, chunk in engine.step():
            assert isinstance(chunk, TokenChunk)
            assert len(chunk.logprobs) == (len(chunk.token_ids) if name == "a" else 0)
            for token, scored in zip(chunk.token_ids, chunk.logprobs, strict=False):
                seen += 1
                assert scored.token == token == scored.top[0].token and scored.logprob == scored.top[0].logprob
                assert len(scored.top) == 3 and scored.logprob <= 0.0
    assert seen == 6
