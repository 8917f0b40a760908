"""Chains of requests that have ended, so that leases and later requests can name them. Bounded; holds no KV.

What a request computed lies in blocks that the cache owns: a chain here is only the ids that lead to them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

_DROPPED = 8
"""How many ids at the end of an output may lie beyond its text: those that completed a stop string."""


class Codec(Protocol):
    """What continuing a chain needs of a tokenizer."""

    def encode(self, text: str) -> list[int]: ...

    def spell(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Chain:
    """The ids of an ended request: `prompt_tokens` of prompt and the output. The KV of the first `computed` was made.

    `text` is the rendered prompt, "" if it came as ids. `hashes` name the full blocks. `tail`: digest of the partial
    last block of what was computed, None if there is none.
    """

    request: str
    salt: str
    tokens: list[int]
    prompt_tokens: int
    computed: int
    hashes: list[bytes]
    text: str = ""
    tail: bytes | None = None

    def extended(self, codec: Codec, text: str) -> list[int] | None:
        """Ids of a rendered prompt that begins with this chain: its own ids, then those of what is new.

        Ids at the output's end that the prompt does not spell (the rest of a stop string) are left out; an output
        that it spells differently is tokenized again, its prompt is not. None if the prompt begins differently.
        """
        if not self.text or not text.startswith(self.text):
            return None
        output = self.tokens[self.prompt_tokens :]
        for kept in range(len(output), max(len(output) - _DROPPED, 0), -1):
            known = self.text + codec.spell(output[:kept])
            if text.startswith(known):
                return self.tokens[: self.prompt_tokens + kept] + codec.encode(text[len(known) :])
        return self.tokens[: self.prompt_tokens] + codec.encode(text[len(self.text) :])


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

    def get(self, request: str, salt: str) -> Chain | None:
        """The chain of an ended request of this salt; None if it is unknown or was let go of."""
        chain = self._chains.get(request)
        return chain if chain is not None and chain.salt == salt else None
