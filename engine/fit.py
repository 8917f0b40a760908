"""Measures a running engine through its protocol and fits the simulator's cost model to it.

Knows nothing of how the engine works, only that it decodes what runs together and computes prompts in steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from engine.clock import Clock
from engine.costs import EngineProfile, pairs_of
from engine.protocol import Engine, GenerateRequest, SamplingParams, TokenChunk

_NAMES = ("call_s", "step_s", "token_s", "pair_s", "read_s", "sequence_s", "piece_s", "matrix_s")
_BATCHES = (1, 2, 4, 8, 16, 32)
_SWEEPS = 20_000
_WATCHED = 24
"""Steps in which a batch is watched."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: how often each cost of `_NAMES` occurred in it, and the seconds it took."""

    what: str
    counts: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A profile, what it was fitted to, and its relative error: root mean square over the samples."""

    profile: EngineProfile
    samples: tuple[Sample, ...]
    error: float


class Meter:
    """Runs requests on an idle engine. Prompts are random, so none begins as another does."""

    def __init__(self, engine: Engine, clock: Clock, seed: int = 0) -> None:
        self._engine, self._clock = engine, clock
        self._rng = Random(seed)
        self._requests = 0

    async def prefill(self, tokens: int, budget: int) -> Sample:
        """From a prompt of `tokens` being sent to its first token."""
        arrivals = await self._run(tokens, 1, began := self._clock.now())
        steps = [(start, min(budget, tokens - start)) for start in range(0, tokens, budget)]
        pairs = sum(pairs_of(start, count) for start, count in steps)
        matrices = sum(count > 1 for _, count in steps)
        counts = (1.0, len(steps), tokens, pairs, 0.0, len(steps), len(steps), matrices)
        return Sample(f"prefill {tokens}", counts, arrivals[0] - began)

    async def decode(self, batch: int, context: int, budget: int) -> Sample:
        """`batch` sequences that decode together, from when all have begun to when the first ends.

        The first to begin has to go on until the last prompt is done, so outputs are as long as that takes.
        """
        steps_each = batch / max(budget - batch, 1)
        context = max(min(context, int((self._engine.model.context_tokens - _WATCHED - 4) / (1 + steps_each))), 1)
        outputs = _WATCHED + 2 + int(context * steps_each)
        began = self._clock.now()
        arrivals = await asyncio.gather(*(self._run(context, outputs, began) for _ in range(batch)))
        start_s, end_s = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
        watched = [at_s for at_s in arrivals[0] if start_s <= at_s <= end_s]
        steps = len(watched) - 1
        if steps < 1:
            raise RuntimeError(f"{batch} sequences of {outputs} tokens never decoded together: raise `outputs`")
        first = arrivals[0].index(watched[0])
        read = batch * (context + first + steps / 2)
        counts = (0.0, steps, steps * batch, 0.0, steps * read, steps * batch, 0.0, steps * (batch > 1))
        return Sample(f"decode {batch} x {context}", counts, watched[-1] - watched[0])

    async def join(self, tokens: int, context: int) -> Sample:
        """The step in which a prompt of `tokens` is computed beside a sequence that decodes.

        It tells what a piece of a prompt costs the engine, apart from what is lost on the way to it and back.
        """
        began, half = self._clock.now(), asyncio.Event()
        beside = asyncio.ensure_future(self._run(context, _WATCHED, began, half))
        await half.wait()
        first_s = (await self._run(tokens, 1, began))[0]
        arrivals = await beside
        at = min(range(1, len(arrivals)), key=lambda index: abs(arrivals[index] - first_s))
        counts = (0.0, 1.0, tokens + 1.0, float(pairs_of(0, tokens)), float(context + at), 2.0, 1.0, 1.0)
        return Sample(f"join {tokens}", counts, arrivals[at] - arrivals[at - 1])

    async def _run(self, prompt: int, outputs: int, began_s: float, half: asyncio.Event | None = None) -> list[float]:
        """When each of a request's tokens came; `half` of them are told of."""
        self._requests += 1
        vocabulary = self._engine.model.vocab_size
        request = GenerateRequest(
            id=f"fit-{self._requests}",
            program=f"fit-{self._requests}",
            prompt_ids=tuple(self._rng.randrange(vocabulary) for _ in range(prompt)),
            sampling=SamplingParams(max_tokens=outputs, ignore_eos=True),
        )
        times: list[float] = []
        chunk: TokenChunk
        async for chunk in self._engine.generate(request):
            times += [self._clock.now()] * len(chunk.token_ids)
            if half is not None and len(times) >= outputs // 2:
                half.set()
        return times


async def measure(
    engine: Engine,
    clock: Clock,
    *,
    budget: int,
    rounds: int = 5,
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> list[Sample]:
    """Samples of prompts of many lengths and of batches over short and long contexts, `rounds` of each.

    Each round measures everything once, so that a machine that is slow for a while is slow for all of it. `done` is
    told of each round.
    """
    meter = Meter(engine, clock, seed)
    longest = engine.model.context_tokens - 2
    lengths = sorted(
        {min(max(round(longest * share), 8), longest) for share in (0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)}
    )
    limit = engine.capabilities.max_running or max(_BATCHES)
    fitting = (engine.capabilities.kv_tokens or longest * max(_BATCHES)) // longest
    samples: list[Sample] = []
    await meter.prefill(lengths[0], budget)  # warm up
    for _ in range(rounds):
        samples += [await meter.prefill(length, budget) for length in lengths]
        samples += [await meter.join(length, lengths[0]) for length in lengths if length < budget]
        for batch in _BATCHES:
            for context in (lengths[0], lengths[len(lengths) // 2], longest):
                if batch <= limit and (batch <= fitting or context < longest):
                    samples.append(await meter.decode(batch, context, budget))
        done()
    return samples


def _together(samples: Sequence[Sample]) -> list[Sample]:
    """The mean of all samples of one thing."""
    of: dict[str, list[Sample]] = {}
    for sample in samples:
        of.setdefault(sample.what, []).append(sample)
    return [
        Sample(
            what,
            tuple(sum(sample.counts[column] for sample in group) / len(group) for column in range(len(_NAMES))),
            sum(sample.seconds for sample in group) / len(group),
        )
        for what, group in of.items()
    ]


def fit(samples: Sequence[Sample], engine: Engine, *, name: str, budget: int, max_running: int) -> Fit:
    """The costs, none negative, with the least squares of relative errors.

    Of the bound by weights (`weights_s`) only what the samples show is fitted: a floor under `token_s * tokens`.
    """
    samples = _together(samples)
    counts = np.array([sample.counts for sample in samples])
    seconds = np.array([sample.seconds for sample in samples])
    found: tuple[float, float, NDArray[np.float64]] | None = None
    costs = _non_negative(counts / seconds[:, None], np.ones(len(samples)))
    per_step = np.array([sample.counts[2] / sample.counts[1] for sample in samples])
    for floor_tokens in (0.0, *sorted(set(per_step.tolist()))[:-1]):
        floored = counts.copy()
        floored[:, 2] = counts[:, 1] * np.maximum(per_step, floor_tokens)
        costs = _non_negative(floored / seconds[:, None], np.ones(len(samples)))
        error = float(np.sqrt(np.mean((floored @ costs / seconds - 1) ** 2)))
        if found is None or error < found[0] * 0.98:
            found = (error, floor_tokens, costs)
    assert found is not None
    error, floor_tokens, costs = found
    values = dict(zip(_NAMES, costs.tolist(), strict=True))
    capabilities, model = engine.capabilities, engine.model
    profile = EngineProfile(
        name=name,
        kv_tokens=capabilities.kv_tokens or model.context_tokens * max_running,
        kv_bytes_per_token=model.kv_bytes_per_token,
        weights_s=values["token_s"] * floor_tokens,
        token_budget=budget,
        max_running=max_running,
        context_tokens=model.context_tokens,
        **values,
    )
    return Fit(profile, tuple(samples), error)


def _non_negative(matrix: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with no negative unknown, by coordinate descent on scaled columns."""
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    gram, wanted = scaled.T @ scaled, scaled.T @ target
    solution = np.zeros(matrix.shape[1])
    for _ in range(_SWEEPS):
        before = solution.copy()
        for column in range(len(solution)):
            if gram[column, column] > 0:
                rest = gram[column] @ solution - gram[column, column] * solution[column]
                solution[column] = max((wanted[column] - rest) / gram[column, column], 0.0)
        if np.abs(solution - before).max() < 1e-12:
            break
    result: NDArray[np.float64] = solution / scale
    return result
