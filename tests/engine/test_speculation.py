"""Speculation: guesses from the text so far, lengths that pay, and outputs that are those of plain decoding."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.loading import load_engine
from engine.local import LocalEngine
from engine.protocol import Grammar, GrammarKind, NumericalFault, SamplingParams
from engine.sampler import sample, sample_step
from engine.sequence import Sequence
from engine.speculation import PromptLookup, Speculator, StepCost, verify
from engine.step import Piece, Step
from tests.engine.models import reference, reference_greedy
from tests.engine.serve import request, serve


def sequence(tokens: list[int], name: str = "s", **sampling: Any) -> Sequence:
    return Sequence(name, "p", tokens, 100, SamplingParams(**sampling))


# guesses


def test_a_guess_is_what_followed_the_same_tokens_last() -> None:
    lookup = PromptLookup()
    assert lookup.guess([1, 2, 3, 9, 1, 2, 3], 4) == (9, 1, 2, 3)
    assert lookup.guess([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], 1) == (8,)
    assert lookup.guess([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3, 7], 4) == ()


def test_the_longer_match_is_believed() -> None:
    tokens = [5, 1, 2, 3, 4, 70, 6, 3, 4, 80, 5, 1, 2, 3, 4]
    assert PromptLookup().guess(tokens, 1) == (70,)


@pytest.mark.parametrize("tokens", [[], [1], [1, 1], [1, 2, 3]])
def test_short_sequences_have_no_guess_or_a_true_one(tokens: list[int]) -> None:
    assert PromptLookup().guess(tokens, 4) == ()


def test_growing_and_new_lookups_agree() -> None:
    rng = random.Random(3)
    tokens = [rng.randrange(3) for _ in range(5)]
    grown = PromptLookup()
    for _ in range(200):
        assert grown.guess(tokens, 5) == PromptLookup().guess(tokens, 5)
        tokens.append(rng.randrange(3))


# lengths


def test_step_cost_finds_the_line_through_what_it_saw() -> None:
    cost = StepCost()
    for tokens in (1, 4, 8, 2, 16, 3):
        cost.learn(tokens, 0.02 + 0.001 * tokens)
    assert cost.seconds(32) == pytest.approx(0.052, rel=1e-6)
    assert StepCost().seconds(3) < StepCost().seconds(4), "unknown costs still grow"


def chosen(running: int, drafting: int, accepted: list[int], cost: StepCost | None = None) -> int:
    """Draft length for `drafting` of `running` sequences that can all guess, after `accepted` of 4 guesses each."""
    speculator = Speculator(8)
    if cost is not None:
        speculator._cost = cost
    looping = [sequence([1, 2, 3, 4] * 10, f"d{index}") for index in range(drafting)]
    others = [sequence([100 + index], f"o{index}") for index in range(running - drafting)]
    for one in looping:
        for count in accepted:
            piece = Piece(one, 39, 5, (1, 2, 3, 4))
            speculator.learn(Step([], [piece], [one]), [tuple(range(count + 1))], 0.0)
    drafts = speculator.drafts([*looping, *others])
    return len(drafts[0][1]) if drafts else 0


def test_drafts_are_longer_where_they_are_accepted_and_stop_where_not() -> None:
    assert chosen(1, 1, [4] * 6) > chosen(1, 1, [1] * 6) > 0
    assert chosen(1, 1, [0] * 30) == 0


def test_drafts_shrink_with_load() -> None:
    """With a full batch each guessed token costs what a sure one would."""
    lengths = [chosen(size, size, [2] * 6) for size in (1, 4, 16, 64)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 0 and lengths[-1] == 0


def test_dear_tokens_are_not_guessed() -> None:
    cost = StepCost()
    for tokens in (1, 2, 8):
        cost.learn(tokens, 1.0 * tokens)
    assert chosen(1, 1, [1] * 3, cost) == 0


# verification


def test_tokens_count_up_to_the_first_wrong_guess() -> None:
    one = sequence([1])
    assert verify(one, (5, 6), [5, 6, 7]) == (5, 6, 7)
    assert verify(one, (5, 6), [5, 9, 7]) == (5, 9)
    assert verify(one, (5, 6), [8, 6, 7]) == (8,)


def test_a_fault_counts_only_where_it_is_reached() -> None:
    fault = NumericalFault("NaN")
    assert verify(sequence([1]), (5,), [fault, 6]) is fault
    assert verify(sequence([1]), (5,), [5, fault]) == (5,)
    assert verify(sequence([1]), (5,), [4, fault]) == (4,)


def test_verified_draws_are_those_of_plain_decoding_and_follow_the_distribution() -> None:
    """Three positions with known logits, 1,200 seeds: speculated outputs equal plain ones draw by draw, so their
    distribution is the model's; the first token's frequencies are compared with it besides."""
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(2))
    counts: Counter[int] = Counter()
    accepted = 0
    total = 1_200
    for seed in range(total):
        plain = sequence([1], temperature=0.9, top_p=0.95, seed=seed)
        expected: list[int] = []
        for row in logits:
            (token,) = sample(row[None].clone(), [plain])
            assert isinstance(token, int)
            plain.tokens.append(token)
            expected.append(token)
        guessed = sequence([1], temperature=0.9, top_p=0.95, seed=seed)
        piece = Piece(guessed, 0, 3, (2, 3))
        (result,) = sample_step(logits.clone(), Step([], [piece], [guessed]))
        assert isinstance(result, tuple) and list(result) == expected[: len(result)]
        assert len(result) == 1 + (expected[0] == 2) + (expected[:2] == [2, 3])
        counts[result[0]] += 1
        accepted += len(result) - 1
    assert accepted > 40
    probabilities = (logits[0] / 0.9).softmax(0)
    kept = probabilities.sort(descending=True)
    inside = kept.values.cumsum(0) - kept.values < 0.95
    shares = torch.zeros(6).scatter(0, kept.indices, kept.values * inside)
    for token, probability in enumerate((shares / shares.sum()).tolist()):
        spread = 5 * math.sqrt(probability * (1 - probability) / total)
        assert counts[token] / total == pytest.approx(probability, abs=spread + 1e-9)


def test_penalties_see_the_guessed_tokens() -> None:
    """Each row of a draft is drawn as if the guesses before it were written."""
    logits = torch.tensor([[1.0, 0.9, 0.0]]).repeat(2, 1)
    one = sequence([2], frequency_penalty=0.5, logprobs=0)
    assert sample_step(logits, Step([], [Piece(one, 0, 2, (0,))], [one])) == [(0, 1)]
    assert len(one.scores) == 2


# in the engine


def looping_engine(directory: Path, **settings: Any) -> tuple[LocalEngine, list[int]]:
    """An engine, and a list that fills with the lengths of its drafts."""
    engine = load_engine(EngineConfig(str(directory), threads=1, **settings), ManualClock())
    lengths: list[int] = []
    draft = engine._scheduler.draft

    def noted(one: Sequence, tokens: tuple[int, ...]) -> None:
        lengths.append(len(tokens))
        draft(one, tokens)

    engine._scheduler.draft = noted  # type: ignore[method-assign]
    return engine, lengths


FEW = tuple((token, 30.0) for token in (10, 11, 12))
"""A bias that leaves three tokens: what was said once is said again."""


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.0, "seed": 5, "logprobs": 1, "logit_bias": FEW}], ids=["greedy", "sampled"]
)
def test_outputs_do_not_depend_on_speculation(family_dir: Any, sampling: dict[str, Any]) -> None:
    """SmolLM2's tied head repeats itself: guesses are often right."""
    directory = family_dir("smollm2")
    rng = random.Random(4)
    prompts = [[rng.randrange(4, 380) for _ in range(rng.randrange(3, 40))] for _ in range(6)]
    prompts += [prompt * 2 for prompt in prompts]
    asked = [request(f"r{index}", prompt, 30, **sampling) for index, prompt in enumerate(prompts)]
    plain = load_engine(EngineConfig(str(directory), threads=1), ManualClock())
    engine, lengths = looping_engine(directory, draft_tokens=5)
    for one in asked:
        assert serve(engine, one)[one.id].ids == serve(plain, one)[one.id].ids
    assert sum(lengths) > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("source", ["(ab){30}", "(one|two|three){1,20}", r'\{"name": "[a-z]{3}", "age": \d\}'])
def test_constrained_outputs_are_the_same_and_forced_tokens_are_free(
    model_dir: Path, source: str, temperature: float
) -> None:
    grammar = Grammar(GrammarKind.REGEX, source)
    asked = replace(request("g", [5, 6], 80, temperature=temperature, seed=3, ignore_eos=False), grammar=grammar)
    plain = load_engine(EngineConfig(str(model_dir), threads=1), ManualClock())
    engine, lengths = looping_engine(model_dir, draft_tokens=4)
    ours, expected = serve(engine, asked)["g"], serve(plain, asked)["g"]
    assert (ours.ids, ours.text, ours.finish) == (expected.ids, expected.text, expected.finish)
    assert re.fullmatch(source, ours.text) and sum(lengths) > 0


def test_an_output_ends_within_an_accepted_draft(family_dir: Any) -> None:
    """Length limits and stop tokens hold inside a draft too: nothing after them is told or kept."""
    directory = family_dir("smollm2")
    prompt = [30, 31, 32, 33] * 6
    expected = reference_greedy(reference(directory), prompt, 40)
    engine, _ = looping_engine(directory, draft_tokens=6)
    for count in (1, 2, 7, 23):
        results = serve(engine, request(f"a{count}", prompt, count, logprobs=0))
        assert results[f"a{count}"].ids == expected[:count]
    assert serve(engine, request("again", prompt + expected[:23], 10))["again"].ids == expected[23:33]
