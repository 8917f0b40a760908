"""Chains of requests that have ended, so that leases and later requests can name them. Bounded; holds no KV.

What a request computed lies in blocks that the cache owns: a chain here is only the ids that lead to them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.config import BLOCK_TOKENS
from engine.kv.cache import Path
from engine.kv.prefix import Digest

_DROPPED = 8
"""How many ids at the end of an output may lie beyond its text: those that completed a stop string."""


class Codec(Protocol):
    """What continuing a chain needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def spell(self, ids: Sequence[int]) -> str: ...


@dataclass(slots=True)
class Chain:
    """The ids of an ended request: `prompt_tokens` of prompt and the output. The KV of the first `computed` was made.

    `text` is the rendered prompt, "" if it came as ids. `hashes` name the full blocks, `tail` the partial last one of
    what was computed, if there is one; `path` is where the full ones lay.
    """

    request: str
    salt: str
    tokens: list[int]
    prompt_tokens: int
    computed: int
    hashes: list[Any]
    text: str = ""
    tail: Digest | None = None
    path: Path | None = None
    _digests: list[Digest] = field(default_factory=list)

    def digests(self) -> list[Digest]:
        """The names of all blocks that were computed: one list, made when it is first asked for."""
        if not self._digests:
            self._digests = self.hashes[: self.computed // BLOCK_TOKENS] + ([] if self.tail is None else [self.tail])
        return self._digests

    def common(self, prompt: list[int]) -> int:
        """How many of this chain's tokens `prompt` begins with: all, those of its prompt, or none."""
        for count in (len(self.tokens), self.prompt_tokens):
            if prompt[:count] == self.tokens[:count]:
                return count
        return 0

    def extended(self, codec: Codec, text: str) -> tuple[list[int], int] | None:
        """Ids of a rendered prompt that begins with this chain, and how many of them are its own.

        Ids at the output's end that the prompt does not spell (the rest of a stop string) are left out; an output
        that it spells differently is tokenized again, its prompt is not. None if the prompt begins differently.
        """
        if not self.text or not text.startswith(self.text):
            return None
        output = self.tokens[self.prompt_tokens :]
        for kept in range(len(output), max(len(output) - _DROPPED, 0), -1):
            known = self.text + codec.spell(output[:kept])
            if text.startswith(known):
                count = self.prompt_tokens + kept
                return self.tokens[:count] + codec.encode(text[len(known) :]), count
        return self.tokens[: self.prompt_tokens] + codec.encode(text[len(self.text) :]), self.prompt_tokens


class History:
    """The latest chains, at most `max_chains` of together at most `max_tokens` tokens; the oldest go first.

    `add` is for the engine's thread; `get` may be called from any.
    """

    def __init__(self, max_chains: int = 4096, max_tokens: int = 16_000_000) -> None:
        self._chains: OrderedDict[str, Chain] = OrderedDict()
        self._max_chains, self._max_tokens = max_chains, max_tokens
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._chains)

    def add(self, chain: Chain) -> None:
        known = self._chains.pop(chain.request, None)
        if known is not None:
            self._tokens -= len(known.tokens)
        self._chains[chain.request] = chain
        self._tokens += len(chain.tokens)
        while len(self._chains) > self._max_chains or (self._tokens > self._max_tokens and len(self._chains) > 1):
            _, oldest = self._chains.popitem(last=False)
            self._tokens -= len(oldest.tokens)

    def get(self, request: str) -> Chain | None:
        """The chain of an ended request; None if it is unknown or was let go of."""
        return self._chains.get(request)
