"""One request's outputs: what a token means for each, when it ends and why, and which of several are told.

Knows a sequence and its text; neither memory, other requests nor the time.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from engine.config import BLOCK_TOKENS
from engine.protocol import EngineError, FinishReason, GenerateRequest, TokenChunk, TokenLogprob, Usage
from engine.sequence import Sequence

if TYPE_CHECKING:
    from engine.text import TextCodec, TextStream

Delivery = tuple[str, TokenChunk | EngineError]
"""A request's id and what it gets: a chunk, or the error that ends it."""


@dataclass(slots=True)
class Request:
    """A live request: what was asked, when what happened (seconds on the clock), and its outputs that have not ended.

    `ended` collects the outputs of which only the best will be told.
    """

    asked: GenerateRequest
    text: str
    arrived_s: float
    outputs: list[Output] = field(default_factory=list)
    started_s: float | None = None
    ended: list[tuple[float, list[TokenChunk]]] = field(default_factory=list)

    def told(self, output: Output, chunk: TokenChunk) -> list[Delivery]:
        """What goes out with a chunk of `output`: itself, or, if only the best are told, these with the last's end."""
        asked = self.asked
        if asked.best_of <= asked.n:
            return [(asked.id, chunk)]
        output.chunks.append(chunk)
        if chunk.finish is None:
            return []
        score = -math.inf if chunk.finish is FinishReason.ABORTED else output.sequence.mean_logprob
        self.ended.append((score, output.chunks))
        if len(self.ended) < asked.best_of:
            return []
        best = sorted(self.ended, key=lambda scored: -scored[0])[: asked.n]
        return [(asked.id, replace(chunk, index=index)) for index, (_, chunks) in enumerate(best) for chunk in chunks]


@dataclass(slots=True)
class Output:
    """One output of a request: its sequence and its text so far. `chunks` wait until the best output is known."""

    request: Request
    sequence: Sequence
    text: TextStream
    index: int = 0
    first_token_s: float | None = None
    queued: bool = False
    chunks: list[TokenChunk] = field(default_factory=list)

    def take(self, token: int, later: int, eos_ids: Set[int]) -> tuple[FinishReason | None, str]:
        """One token, which `later` others follow: why the output ends with it, if it does, and its text.

        Raises the `EngineError` of a grammar that does not allow the token.
        """
        sequence, matcher = self.sequence, self.sequence.matcher
        if token in eos_ids and (matcher is not None or not sequence.sampling.ignore_eos):
            return FinishReason.STOP, self.text.flush()
        text = self.text.push(token)
        if matcher is not None:
            matcher.accept(token)
        if self.text.stopped:
            return FinishReason.STOP, text
        if matcher is not None and matcher.written:
            return FinishReason.TOOL_CALL, text + self.text.flush()
        if matcher is not None and matcher.complete:
            return FinishReason.STOP, text + self.text.flush()
        if sequence.generated - later >= sequence.max_tokens:
            return FinishReason.LENGTH, text + self.text.flush()
        return None, text

    def cut(self, surplus: int) -> None:
        """Forget `surplus` accepted tokens, those beyond the output's last one."""
        sequence = self.sequence
        if surplus:
            sequence.logprob -= sum(logprob for logprob, _ in sequence.scores[-surplus:])
            sequence.tokens = sequence.tokens[: len(sequence.tokens) - surplus]
            sequence.computed = min(sequence.computed, len(sequence.tokens))
            del sequence.hashes[len(sequence.tokens) // BLOCK_TOKENS :]

    def logprobs(self, tokens: tuple[int, ...], codec: TextCodec) -> tuple[TokenLogprob, ...]:
        """What the sampler noted of `tokens`, if the request wants it; the notes are used up."""
        scores, self.sequence.scores = self.sequence.scores, []
        if self.request.asked.sampling.logprobs < 0 or not scores:
            return ()
        noted, spell = [], codec.spell
        for token, (logprob, top) in zip(tokens, scores, strict=False):
            best = tuple(TokenLogprob(other, spell((other,)), value) for other, value in top)
            noted.append(TokenLogprob(token, spell((token,)), logprob, best))
        return tuple(noted)

    def usage(self, now_s: float) -> Usage:
        """What it took until now."""
        sequence, request = self.sequence, self.request
        started_s = now_s if request.started_s is None else request.started_s
        first_s = now_s if self.first_token_s is None else self.first_token_s
        return Usage(
            prompt_tokens=sequence.prompt_tokens,
            cached_tokens=sequence.cached_tokens,
            output_tokens=sequence.generated,
            queue_s=started_s - request.arrived_s,
            prefill_s=first_s - started_s,
            decode_s=now_s - first_s,
            preemptions=sequence.preemptions,
            recomputed_tokens=sequence.recomputed_tokens,
            host_tokens=min(sequence.cached_tokens, (sequence.adopted - sequence.shared) * BLOCK_TOKENS),
        )
