"""Chooses the next token from logits. A draw depends on the sequence's own logits, seed and position only.

Order: finite check, log probabilities, penalties and bias, grammar mask, temperature, top-k, top-p, min-p, draw.
Faulty logits fail their sequence only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from engine.protocol import EngineError, InvalidGrammar, NumericalFault, SamplingParams
from engine.sequence import Sequence
from engine.speculation import verify
from engine.step import Result, Step

_MASK64 = (1 << 64) - 1
_CANDIDATES = 256


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) of 32 bits that depends on nothing else: SplitMix64 (Steele et al. 2014) used as a counter."""
    value = (seed * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) & _MASK64
    for _ in range(2):
        value = (value + (position + 1) * 0x9E3779B97F4A7C15) & _MASK64
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
        value ^= value >> 31
    return (value >> 32) / 2**32


def is_greedy(sequence: Sequence) -> bool:
    """Whether the next token is the argmax of the raw logits, and nothing else is asked of them."""
    params = sequence.sampling
    return params.temperature == 0 and sequence.matcher is None and params.logprobs < 0 and not _changes(params)


def sample(
    logits: Tensor, sequences: Seq[Sequence], ahead: Seq[tuple[int, ...]] | None = None
) -> list[int | EngineError]:
    """The next token, or the error, of each row. logits [rows, vocab] fp32, overwritten.

    `sequences` are those of the rows; `ahead`: what each row's logits assume after its sequence's tokens (a draft).
    Log probabilities that a sequence asks for are appended to its `scores`.
    """
    if not sequences:
        return []
    errors: dict[int, EngineError] = {}
    # Any NaN or infinity makes the sum of all so: one pass over healthy logits, a closer look at others.
    if not math.isfinite(logits.sum().item()):
        for row in (~logits.isfinite().all(1)).nonzero().flatten().tolist():
            errors[row] = NumericalFault("the model's logits are NaN or infinite")
            logits[row] = 0.0
    scored = [row for row, sequence in enumerate(sequences) if sequence.sampling.logprobs >= 0]
    logprobs = logits[scored].log_softmax(1) if scored else None
    for row, sequence in enumerate(sequences):
        if _changes(sequence.sampling):
            _penalize(logits[row], sequence, ahead[row] if ahead else ())
    _constrain(logits, sequences, errors, ahead)
    drawn = [row for row, sequence in enumerate(sequences) if sequence.sampling.temperature > 0]
    tokens: list[int | EngineError] = list(logits.argmax(1).tolist())
    if drawn:
        positions = [sequences[row].generated + (len(ahead[row]) if ahead else 0) for row in drawn]
        for row, token in zip(drawn, _draw(logits, drawn, sequences, positions), strict=True):
            tokens[row] = token
    if logprobs is not None:
        _score(logprobs, scored, sequences, tokens)
    for row, error in errors.items():
        tokens[row] = error
    return tokens


def sample_step(logits: Tensor, step: Step) -> list[Result]:
    """What each of `step.sampled` gets. logits [rows, vocab] fp32, overwritten: one row for each, and for a piece that
    verifies a draft of k tokens k + 1 rows, in order."""
    drafts = {id(piece.sequence): piece.draft for piece in step.pieces if piece.draft}
    if not drafts:
        return list(sample(logits, step.sampled))
    rows: list[Sequence] = []
    ahead: list[tuple[int, ...]] = []
    for sequence in step.sampled:
        draft = drafts.get(id(sequence), ())
        rows += [sequence] * (len(draft) + 1)
        ahead += [draft[:count] for count in range(len(draft) + 1)]
    drawn = iter(sample(logits, rows, ahead))
    results: list[Result] = []
    for sequence in step.sampled:
        if id(sequence) in drafts:
            draft = drafts[id(sequence)]
            results.append(verify(sequence, draft, [next(drawn) for _ in range(len(draft) + 1)]))
        else:
            results.append(next(drawn))
    return results


def _changes(params: SamplingParams) -> bool:
    """Whether logits are changed before anything is drawn from them."""
    return bool(
        params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty or params.logit_bias
    )


def _penalize(logits: Tensor, sequence: Sequence, ahead: tuple[int, ...]) -> None:
    """Apply penalties and bias to logits [vocab], in place. Errors in `SamplingParams` were refused before."""
    params = sequence.sampling
    output = [*sequence.tokens[sequence.prompt_tokens :], *ahead]
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted({*sequence.tokens, *ahead}), device=logits.device)
        known = logits[seen]
        logits[seen] = torch.where(known > 0, known / params.repetition_penalty, known * params.repetition_penalty)
    if output and (params.presence_penalty or params.frequency_penalty):
        counts = torch.bincount(torch.tensor(output, device=logits.device), minlength=logits.shape[0])
        logits -= params.presence_penalty * (counts > 0) + params.frequency_penalty * counts
    if params.logit_bias:
        places, biases = zip(*params.logit_bias, strict=True)
        logits.index_add_(0, torch.tensor(places, device=logits.device), torch.tensor(biases, device=logits.device))


def _score(logprobs: Tensor, rows: list[int], sequences: Seq[Sequence], tokens: list[int | EngineError]) -> None:
    """Append to the sequences of `rows` what the model gave the chosen token and the most probable ones."""
    most = max(sequences[row].sampling.logprobs for row in rows)
    values, places = logprobs.topk(min(most, logprobs.shape[1]), dim=1)
    tops = zip(places.tolist(), values.tolist(), strict=True)
    for index, (row, (ids, best)) in enumerate(zip(rows, tops, strict=True)):
        sequence, token = sequences[row], tokens[row]
        assert isinstance(token, int)
        logprob = logprobs[index, token].item()
        asked = sequence.sampling.logprobs
        sequence.scores.append((logprob, list(zip(ids[:asked], best[:asked], strict=True))))
        sequence.logprob += logprob


def _constrain(
    logits: Tensor,
    sequences: Seq[Sequence],
    errors: dict[int, EngineError],
    ahead: Seq[tuple[int, ...]] | None,
) -> None:
    """Set to -inf what the grammars of the sequences do not allow next."""
    masks: dict[int, bytes] = {}
    for row, sequence in enumerate(sequences):
        if sequence.matcher is not None and row not in errors:
            try:
                masks[row] = sequence.matcher.allowed(ahead[row] if ahead else ())
            except InvalidGrammar as error:
                errors[row] = error
    if not masks:
        return
    rows = list(masks)
    words = np.frombuffer(b"".join(masks.values()), dtype=np.uint8).reshape(len(rows), -1)
    allowed = torch.from_numpy(np.unpackbits(words, axis=1, bitorder="little", count=logits.shape[1])).bool()
    for row, empty in zip(rows, (~allowed.any(1)).tolist(), strict=True):
        if empty:
            errors[row] = InvalidGrammar("no token of the model's vocabulary continues the output within the grammar")
    forbidden = allowed.logical_not_().to(logits.device)
    if len(rows) == len(sequences):
        logits.masked_fill_(forbidden, -math.inf)
    else:
        logits[rows] = logits[rows].masked_fill_(forbidden, -math.inf)


def _draw(logits: Tensor, rows: list[int], sequences: Seq[Sequence], positions: Seq[int]) -> list[int]:
    """One token for each of `rows` by inverting the cumulative distribution at a seeded uniform number.

    `positions`: how many tokens of the output precede each.
    """
    chosen = [sequences[row].sampling for row in rows]
    probabilities = (logits[rows] / _column([p.temperature for p in chosen], logits)).softmax(1)
    truncated = [row for row, p in enumerate(chosen) if p.top_k or p.top_p < 1]
    if truncated:
        probabilities[truncated] = _truncate(probabilities[truncated], [chosen[row] for row in truncated])
    if any(p.min_p for p in chosen):
        least = _column([p.min_p for p in chosen], logits) * probabilities.amax(1, keepdim=True)
        probabilities = probabilities.masked_fill_(probabilities < least, 0.0)
    # Always in the order of the vocabulary: how a row is drawn must not depend on what its neighbours ask for.
    cumulative = probabilities.double().cumsum(1)
    numbers = [uniform(params.seed, position) for params, position in zip(chosen, positions, strict=True)]
    points = torch.tensor(numbers, dtype=torch.float64, device=logits.device).unsqueeze(1)
    picks = torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True)
    tokens: list[int] = picks.flatten().tolist()
    return tokens


def _truncate(probabilities: Tensor, chosen: Seq[SamplingParams]) -> Tensor:
    """Keep the top_k most probable tokens of each row, and of these the fewest that make up the share top_p.

    Tokens that are as probable as the last one kept are kept too. Most rows need a few candidates only: all are ranked
    when a row's candidates do not reach its share.
    """
    size = probabilities.shape[1]
    counts = [min(p.top_k or size, size) for p in chosen]
    top_k, top_p = _column(counts, probabilities), _column([p.top_p for p in chosen], probabilities)
    width = min(max(count if count < size else _CANDIDATES for count in counts), size)
    while True:
        ranked = probabilities.topk(width, dim=1).values
        ranked = ranked.masked_fill_(torch.arange(width, device=ranked.device) >= top_k, 0.0)
        upto = ranked.cumsum(1)
        share = top_p * torch.where(top_k < size, upto[:, -1:], 1.0)
        if width == size or bool(((top_k <= width) | (upto[:, -1:] >= share)).all()):
            break
        width = size
    kept = (ranked > 0) & ((upto - ranked < share) | (top_p == 1.0))
    last = kept.sum(1, keepdim=True).sub_(1).clamp_(min=0)
    return probabilities.masked_fill_(probabilities < ranked.gather(1, last), 0.0)


def _column(values: Seq[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).unsqueeze(1)
