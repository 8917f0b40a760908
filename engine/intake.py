"""From a request to what the step loop can queue: checks, ids, compiled grammar. Touches no KV: any thread may do it.

Everything slow that a request asks for, tokenizing and compiling, happens here and never between two steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.config import BLOCK_TOKENS
from engine.history import Chain, History
from engine.kv.cache import Path
from engine.kv.prefix import Digest, extend_chain
from engine.protocol import (
    GenerateRequest,
    InvalidRequest,
    ModelInfo,
    PriorityKey,
    PromptTooLong,
    SamplingParams,
    UnknownAdapter,
)

if TYPE_CHECKING:
    from engine.grammar import GrammarCompiler, Matcher
    from engine.lora import Adapter, AdapterPool
    from engine.text import TextCodec

_MAX_OUTPUTS = 64
_MAX_LOGPROBS = 20
_SEED_STRIDE = 0x9E3779B97F4A7C15
"""Between the seeds of one request's outputs: far apart, whatever seed the next request has."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be queued: its prompt's ids and rendered text, one matcher an output.

    `hashes`, `tail` and `path` as in `Sequence`: what is known of the chain that it continues.
    """

    request: GenerateRequest
    prompt: list[int]
    text: str
    matchers: tuple[Matcher | None, ...]
    hashes: list[Any]
    tail: tuple[Digest, int] | None = None
    path: Path | None = None
    adapter: Adapter | None = None

    def sampling(self, index: int) -> SamplingParams:
        """The parameters of output `index`: each draws with a seed of its own. The best are told by log probability."""
        sampling = self.request.sampling
        if self.request.best_of > self.request.n:
            sampling = replace(sampling, logprobs=max(sampling.logprobs, 0))
        return replace(sampling, seed=sampling.seed + index * _SEED_STRIDE) if index else sampling


class Intake:
    """Reads requests for one model. `prepare` may run in another thread than the steps, one call at a time."""

    def __init__(
        self,
        info: ModelInfo,
        codec: TextCodec,
        history: History,
        eos_ids: frozenset[int],
        adapters: AdapterPool | None = None,
    ) -> None:
        self._info, self._codec, self._history, self._eos_ids = info, codec, history, eos_ids
        self._adapters = adapters
        self._grammars: GrammarCompiler | None = None

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Raises `InvalidRequest`, `UnknownAdapter`, `PromptTooLong`, `InvalidGrammar`."""
        check_sampling(request.sampling)
        check_key(request.key)
        check_request(request)
        adapter = self._adapter(request.adapter)
        if adapter is not None:
            # What an adapter computes is of no use to others: its prefixes are named apart.
            request = replace(request, salt=f"{request.salt}\x1f{request.adapter}")
        chain = self._history.get(request.continues) if request.continues else None
        if chain is not None and chain.salt != request.salt:
            chain = None
        text = self._rendered(request)
        prompt, common = self._prompt(request, text, chain)
        hashes, tail, path = [], None, None
        if chain is not None:
            hashes = chain.hashes[: common // BLOCK_TOKENS]
            if common >= chain.computed:
                tail = None if chain.tail is None else (chain.tail, chain.computed)
                path = chain.path
        extend_chain(hashes, prompt, request.salt)
        count = max(request.n, request.best_of)
        matchers: tuple[Matcher | None, ...] = (None,) * count
        if request.grammar is not None:
            compiler = self._compiler()
            matchers = tuple(compiler.matcher(request.grammar) for _ in range(count))
        return Prepared(request, prompt, text, matchers, hashes, tail, path, adapter)

    def _adapter(self, name: str) -> Adapter | None:
        if not name:
            return None
        if self._adapters is None:
            raise UnknownAdapter(f"adapter {name!r} is unknown: the engine has none")
        return self._adapters.get(name)

    def _rendered(self, request: GenerateRequest) -> str:
        if bool(request.messages) == bool(request.prompt_ids):
            raise InvalidRequest("a request needs either messages or prompt_ids")
        if not request.messages:
            return ""
        text = self._codec.render(request.messages, request.tools)
        limit = self._info.context_tokens
        if len(text) > limit * self._codec.longest_token:
            raise PromptTooLong(f"the prompt has {len(text)} characters, the context is {limit} tokens")
        return text

    def _prompt(self, request: GenerateRequest, text: str, chain: Chain | None) -> tuple[list[int], int]:
        """The prompt's ids, and how many at its beginning are those of `chain`."""
        if request.messages:
            extended = chain.extended(self._codec, text) if chain is not None else None
            prompt, common = extended or (self._codec.encode(text), 0)
            if not prompt:
                raise InvalidRequest("the rendered prompt is empty")
        else:
            prompt = list(request.prompt_ids)
            common = chain.common(prompt) if chain is not None else 0
        limit = self._info.context_tokens
        if len(prompt) + 1 > limit:
            raise PromptTooLong(
                f"the prompt has {len(prompt)} tokens, the context is {limit} with at least 1 of output"
            )
        if request.prompt_ids:
            check_ids(prompt[common:], self._info.vocab_size)
        if request.sampling.logit_bias:
            check_ids([token for token, _ in request.sampling.logit_bias], self._info.vocab_size, "logit_bias")
        return prompt, common

    def _compiler(self) -> GrammarCompiler:
        """Built when the first grammar comes: large vocabularies take a second."""
        if self._grammars is None:
            from engine.grammar import GrammarCompiler

            self._grammars = GrammarCompiler(self._codec.to_json(), self._info.vocab_size, tuple(self._eos_ids))
        return self._grammars


def check_request(request: GenerateRequest) -> None:
    """Raise `InvalidRequest` for numbers of outputs, hold times and lengths that make no sense."""
    rules = (
        ("n", isinstance(request.n, int) and 1 <= request.n <= _MAX_OUTPUTS, f"1 to {_MAX_OUTPUTS}"),
        (
            "best_of",
            request.best_of == 0 or (isinstance(request.best_of, int) and request.n <= request.best_of <= _MAX_OUTPUTS),
            f"0 (off), or n to {_MAX_OUTPUTS}",
        ),
        ("hold_s", 0.0 <= request.hold_s < math.inf, "a number of seconds from 0"),
        ("expected_tokens", isinstance(request.expected_tokens, int) and request.expected_tokens >= 0, "0 or more"),
    )
    for name, fits, wanted in rules:
        if not fits:
            raise InvalidRequest(f"{name} must be {wanted}, not {getattr(request, name)!r}")


def check_ids(ids: Seq[int], vocab_size: int, place: str = "prompt") -> None:
    """Raise `InvalidRequest` naming the first id that the model does not know, and the `place` where it stands."""
    if set(map(type, ids)) <= {int} and min(ids, default=0) >= 0 and max(ids, default=0) < vocab_size:
        return
    for token in ids:
        if not isinstance(token, int) or not 0 <= token < vocab_size:
            raise InvalidRequest(f"{place} id {token!r} is outside the vocabulary of {vocab_size}")


def check_key(key: PriorityKey) -> None:
    """Raise `InvalidRequest` unless keys can be ordered: a tuple of one number or more, none of them NaN."""
    if not isinstance(key, tuple) or not key or not all(isinstance(part, int | float) and part == part for part in key):
        raise InvalidRequest(f"a priority key must be a tuple of numbers, not {key!r}")


def check_sampling(params: SamplingParams) -> None:
    """Raise `InvalidRequest` naming the parameter that is out of range."""
    rules = (
        ("max_tokens", isinstance(params.max_tokens, int) and params.max_tokens >= 1, "a whole number from 1"),
        ("temperature", 0.0 <= params.temperature < math.inf, "a number from 0"),
        ("top_p", 0.0 < params.top_p <= 1.0, "above 0 and at most 1"),
        ("top_k", isinstance(params.top_k, int) and params.top_k >= 0, "0 (off) or a whole number above"),
        ("min_p", 0.0 <= params.min_p <= 1.0, "0 to 1"),
        ("seed", isinstance(params.seed, int), "a whole number"),
        ("stop", all(isinstance(stop, str) and stop for stop in params.stop), "strings that are not empty"),
        ("repetition_penalty", 0.0 < params.repetition_penalty < math.inf, "a number above 0"),
        ("presence_penalty", math.isfinite(params.presence_penalty), "a finite number"),
        ("frequency_penalty", math.isfinite(params.frequency_penalty), "a finite number"),
        ("logit_bias", all(math.isfinite(bias) for _, bias in params.logit_bias), "pairs of an id and a finite number"),
        (
            "logprobs",
            isinstance(params.logprobs, int) and -1 <= params.logprobs <= _MAX_LOGPROBS,
            f"-1 (none) to {_MAX_LOGPROBS}",
        ),
    )
    for name, fits, wanted in rules:
        if not fits:
            raise InvalidRequest(f"sampling.{name} must be {wanted}, not {getattr(params, name)!r}")
