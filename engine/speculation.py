"""Speculation by prompt lookup: guesses what comes next from what stands in prompt and output, and how far it pays.

Guesses only change how many tokens a step brings, never which: a guessed token is kept exactly if the sampler draws it.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from engine.protocol import EngineError
from engine.sequence import Sequence
from engine.step import Result, Step

_GRAMS = (4, 3, 2)
"""A guess needs this many equal tokens before it; the longest match is believed first."""
_PRIOR_TESTS = 4.0
_PRIOR_SHARE = 0.5
_MEMORY = 0.95
_FIXED_TOKENS = 8.0
"""Until steps were timed: a step's fixed cost, in the time of tokens."""


@dataclass(slots=True)
class PromptLookup:
    """Where in one sequence's tokens each short run of tokens was last followed by another (Saxena 2023)."""

    _places: dict[tuple[int, ...], int] = field(default_factory=dict)
    _known: int = 0

    def guess(self, tokens: Seq[int], most: int) -> tuple[int, ...]:
        """At most `most` tokens that followed the last ones the last time; () if they are new."""
        for end in range(max(self._known, 1), len(tokens)):
            for size in _GRAMS:
                if end >= size:
                    self._places[tuple(tokens[end - size : end])] = end
        self._known = len(tokens)
        for size in _GRAMS:
            place = self._places.get(tuple(tokens[len(tokens) - size :]))
            if place is not None:
                return tuple(tokens[place : place + most])
        return ()


@dataclass(slots=True)
class StepCost:
    """Seconds of a step that decodes `tokens` tokens: fixed + per token, by least squares over steps, old ones fading.

    Relative until two different sizes were seen.
    """

    _sums: list[float] = field(default_factory=lambda: [0.0] * 5)

    def learn(self, tokens: int, seconds: float) -> None:
        if seconds > 0:
            new = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
            self._sums = [_MEMORY * old + value for old, value in zip(self._sums, new, strict=True)]

    def seconds(self, tokens: float) -> float:
        count, n, t, nn, nt = self._sums
        spread = count * nn - n * n
        if count < 2 or spread < 1e-3 * nn:
            return _FIXED_TOKENS + tokens
        slope = max((count * nt - n * t) / spread, 1e-9)
        # Never below a tenth of the mean: a fit through noise must not promise free steps.
        return max((t - slope * n) / count + slope * tokens, 0.1 * t / count)


class Speculator:
    """Chooses drafts for the sequences that decode: the length that maximises goodput, tokens expected per second.

    Goodput as in SmartSpec (Liu et al. 2024, arXiv 2406.14066, section 4): a draft of k tokens, each accepted with
    probability a, is expected to bring (1 - a^(k+1)) / (1 - a) tokens, and makes the step k tokens larger for all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._cost = StepCost()
        self._lookups: dict[str, PromptLookup] = {}
        self._tests: dict[str, tuple[float, float]] = {}
        self._share = _PRIOR_SHARE

    def drafts(self, decoding: Iterable[Sequence]) -> list[tuple[Sequence, tuple[int, ...]]]:
        """What to verify in the next step: looked up, or what a grammar forces."""
        running, guesses = 0, []
        for sequence in decoding:
            running += 1
            lookup = self._lookups.setdefault(sequence.id, PromptLookup())
            guess = lookup.guess(sequence.tokens, self._most)
            if sequence.matcher is not None:
                guess = sequence.matcher.expected(guess, self._most)
            if guess:
                guesses.append((sequence, guess, self._acceptance(sequence.id)))
        length = self._length(running, [(len(guess), share) for _, guess, share in guesses])
        return [(sequence, guess[:length]) for sequence, guess, _ in guesses] if length else []

    def learn(self, step: Step, results: Seq[Result], seconds: float) -> None:
        """What a step's drafts were worth and how long it took."""
        verified = 0
        for sequence, result in zip(step.sampled[len(step.decodes) :], results[len(step.decodes) :], strict=True):
            if isinstance(result, tuple):
                verified += 1
                self._count(sequence.id, len(result) - 1, step)
        if verified == len(step.pieces):
            self._cost.learn(step.tokens, seconds)

    def forget(self, sequence: str) -> None:
        """An output has ended."""
        self._lookups.pop(sequence, None)
        self._tests.pop(sequence, None)

    def _acceptance(self, sequence: str) -> float:
        """Probability that the next guessed token is right: the sequence's own share, drawn towards everyone's."""
        right, tests = self._tests.get(sequence, (0.0, 0.0))
        return min((right + _PRIOR_TESTS * self._share) / (tests + _PRIOR_TESTS), 0.98)

    def _count(self, sequence: str, accepted: int, step: Step) -> None:
        piece = next(piece for piece in step.pieces if piece.sequence.id == sequence)
        tested = min(accepted + 1, len(piece.draft))
        right, tests = self._tests.get(sequence, (0.0, 0.0))
        self._tests[sequence] = (_MEMORY * right + accepted, _MEMORY * tests + tested)
        weight = 0.02 * tested
        self._share = (1 - weight) * self._share + weight * accepted / tested

    def _length(self, running: int, guesses: list[tuple[int, float]]) -> int:
        """The draft length with the highest goodput; 0 if plain decoding is as good."""
        best, best_rate = 0, running / self._cost.seconds(running)
        for length in range(1, max((size for size, _ in guesses), default=0) + 1):
            tokens, brought = float(running), float(running - len(guesses))
            for size, share in guesses:
                drafted = min(length, size)
                tokens += drafted
                brought += (1 - share ** (drafted + 1)) / (1 - share)
            rate = brought / self._cost.seconds(tokens)
            if rate > best_rate:
                best, best_rate = length, rate
        return best


def verify(sequence: Sequence, draft: tuple[int, ...], drawn: Seq[int | EngineError]) -> Result:
    """What a draft brings. `drawn[i]` was drawn after the sequence and the first i tokens of `draft`.

    Each is a draw from the model's own distribution with the seed of its position; it counts while what it assumed was
    drawn itself. So outputs, greedy or sampled, are those of plain decoding with the same seed: for guesses without a
    distribution of their own this is speculative sampling (Leviathan et al. 2023, arXiv 2211.17192, algorithm 1).
    """
    tokens: list[int] = []
    for place, token in enumerate(drawn):
        if isinstance(token, EngineError):
            if not tokens:
                return token
            break
        tokens.append(token)
        if place < len(draft) and token != draft[place]:
            break
    surplus = len(drawn) - len(tokens)
    if surplus and sequence.scores:
        sequence.logprob -= sum(logprob for logprob, _ in sequence.scores[-surplus:])
        del sequence.scores[-surplus:]
    return tuple(tokens)
