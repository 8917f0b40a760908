"""What a step costs on hardware: a roofline with named constants, and profiles of common cards. Runs nothing.

The roofline (Williams et al., 2009): a step is bound by arithmetic or by memory, part by part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType

from engine.config import BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class Work:
    """What one step does: `tokens` computed; (query, key) `pairs` of prompt attention; KV tokens `read` by decodes;
    `pieces` of prompts."""

    tokens: int
    pairs: int = 0
    read: int = 0
    pieces: int = 0


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """An engine as the simulator sees it. Sizes in tokens and bytes, costs in seconds.

    A step costs `step_s + max(weights_s, token_s * tokens) + pair_s * pairs + read_s * read + sequence_s * sequences
    + piece_s * pieces`, and `matrix_s` if it computes more than one token: launch, linear layers (bound by reading the
    weights or by arithmetic), prompt attention (quadratic in the context), reading the KV of what decodes, sampling,
    what a piece of a prompt takes however short it is; a processor multiplies by one vector faster than by two. A
    request is heard `call_s` after it is sent. Copies to and from the host tier go at `copy_bytes_per_s`.
    With `shared_prefix_decode` a block that several decoding sequences share is read once a step.
    """

    name: str
    kv_tokens: int
    kv_bytes_per_token: int
    weights_s: float
    token_s: float
    pair_s: float
    read_s: float
    step_s: float = 0.002
    sequence_s: float = 0.0
    piece_s: float = 0.0
    matrix_s: float = 0.0
    call_s: float = 0.0
    token_budget: int = 2048
    max_running: int = 256
    context_tokens: int = 262_144
    host_bytes: int = 0
    copy_bytes_per_s: float = 50e9
    shared_prefix_decode: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not value >= 0:
                raise ValueError(f"profile {self.name!r}: {field.name} must not be negative, got {value!r}")
        if self.kv_tokens < BLOCK_TOKENS:
            raise ValueError(f"profile {self.name!r}: kv_tokens must be at least {BLOCK_TOKENS}, got {self.kv_tokens}")

    @property
    def blocks(self) -> int:
        """Blocks of device memory."""
        return self.kv_tokens // BLOCK_TOKENS

    def seconds(self, work: Work, sequences: int = 0) -> float:
        """What one step costs."""
        return (
            self.step_s
            + max(self.weights_s, self.token_s * work.tokens)
            + self.pair_s * work.pairs
            + self.read_s * work.read
            + self.sequence_s * sequences
            + self.piece_s * work.pieces
            + self.matrix_s * (work.tokens > 1)
        )

    def decode_seconds(self, sequences: int, read: int, steps: int) -> float:
        """What `steps` steps cost in which `sequences` sequences decode, which read `read` tokens in the first one."""
        fixed_s = self.seconds(Work(sequences), sequences)
        return steps * (fixed_s + self.read_s * (read + sequences * (steps - 1) / 2))

    def prefill_seconds(self, cached: int, tokens: int) -> float:
        """What computing the rest of a prompt of `tokens` costs on an idle engine, the first `cached` being there."""
        seconds = 0.0
        while cached < tokens:
            count = min(self.token_budget, tokens - cached)
            seconds += self.seconds(Work(count, pairs_of(cached, count), pieces=1), 1)
            cached += count
        return seconds


def pairs_of(start: int, count: int) -> int:
    """(query, key) pairs of causal attention for positions `start` .. `start + count`."""
    return count * start + count * (count + 1) // 2


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU's data sheet: dense bf16 arithmetic, memory speed and size; and what share of each kernels reach."""

    flops: float
    bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the roofline needs of a decoder in bf16; `cards` of tensor parallelism share it."""

    parameters: float
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    cards: int = 1

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "a100": Card(312e12, 2.04e12, 80e9, 25e9),
        "h100": Card(989e12, 3.35e12, 80e9, 50e9),
        "h200": Card(989e12, 4.8e12, 141e9, 50e9),
    }
)
MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {"8b": ModelShape(8.03e9, 32, 4096, 8, 128), "70b": ModelShape(70.6e9, 80, 8192, 8, 128, cards=4)}
)
_LINEAR_SHARE, _ATTENTION_SHARE, _MEMORY_SHARE, _MEMORY_USED = 0.6, 0.6, 0.75, 0.9
_ACTIVATIONS_BYTES = 0.8e9


def roofline(name: str, model: ModelShape, card: Card) -> EngineProfile:
    """A profile from data sheets alone. Linear layers do 2 FLOP a parameter and token, attention 4 * hidden a pair
    and layer; weights are 2 bytes a parameter. KV memory is what weights and activations leave of 90 %."""
    memory_s = 1 / (_MEMORY_SHARE * card.bytes_per_s * model.cards)
    flop_s = 1 / (card.flops * model.cards)
    kv_bytes = (_MEMORY_USED * card.memory_bytes - _ACTIVATIONS_BYTES) * model.cards - 2 * model.parameters
    return EngineProfile(
        name=name,
        kv_tokens=int(kv_bytes // model.kv_bytes_per_token),
        kv_bytes_per_token=model.kv_bytes_per_token,
        weights_s=2 * model.parameters * memory_s,
        token_s=2 * model.parameters * flop_s / _LINEAR_SHARE,
        pair_s=4 * model.hidden * model.layers * flop_s / _ATTENTION_SHARE,
        read_s=model.kv_bytes_per_token * memory_s,
        copy_bytes_per_s=card.link_bytes_per_s,
    )


PROFILES: Mapping[str, EngineProfile] = MappingProxyType(
    {
        f"{card}-{model}": roofline(f"{card}-{model}", shape, CARDS[card])
        for card in CARDS
        for model, shape in MODELS.items()
    }
)
"""Profiles by name: h200-8b has 839 thousand tokens of KV (110 GB)."""


class UnknownProfile(ValueError):
    """No profile has this name, or the file is none."""


def profile(name: str) -> EngineProfile:
    """A built-in profile, or one from a JSON file that `tenuto bench --fit` wrote. Raises `UnknownProfile`."""
    known = PROFILES.get(name)
    if known is not None:
        return known
    path = Path(name)
    if not path.is_file():
        raise UnknownProfile(f"no engine profile {name!r}: give a file or one of {', '.join(sorted(PROFILES))}")
    try:
        return EngineProfile(**json.loads(path.read_text()))
    except (TypeError, ValueError) as fault:
        raise UnknownProfile(f"{path}: is no engine profile: {fault}") from None


def save(fitted: EngineProfile, path: Path) -> None:
    """Write a profile as JSON."""
    path.write_text(json.dumps(asdict(fitted), indent=1) + "\n")
