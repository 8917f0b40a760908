"""Rotary position embeddings: inverse frequencies of each scaling, and the table that the decoder looks up.

Formulas: RoPE, Su et al. 2021 (arXiv 2104.09864, eq. 34); position interpolation (linear), Chen et al. 2023
(arXiv 2306.15595); NTK by parts and temperature (yarn), Peng et al. 2023 (arXiv 2309.00071, eq. 17-25); llama3, the
smoothed frequency bands of the Llama 3.1 release.
"""

from __future__ import annotations

import math

import torch

from engine.config import RopeSpec


def inverse_frequencies(rope: RopeSpec, head_dim: int) -> tuple[torch.Tensor, float]:
    """Radians per position of each of the head_dim / 2 pairs, fp32, and the factor on cos and sin.

    `dynamic` equals `default` up to the model's own context, beyond which this engine does not go.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / torch.pow(torch.tensor(rope.theta), pairs)
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.kind == "yarn":
        attention = rope.attention_factor
        if attention is None:
            attention = 0.1 * math.log(rope.factor) + 1.0 if rope.factor > 1.0 else 1.0
        return _yarn(rope, plain, head_dim), attention
    return plain, 1.0


def _llama3(rope: RopeSpec, plain: torch.Tensor) -> torch.Tensor:
    """Long waves are slowed by `factor`, short ones kept, those between interpolated."""
    turns = rope.original_context / (2 * math.pi / plain)
    smooth = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    smooth = smooth.clamp(0.0, 1.0)
    return (1 - smooth) * plain / rope.factor + smooth * plain


def _yarn(rope: RopeSpec, plain: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Pairs that turn often within the original context are kept, rare ones interpolated, a ramp between."""

    def pair_of(turns: float) -> float:
        return head_dim * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_of(rope.beta_fast), pair_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)
    keep = 1 - ramp.clamp(0.0, 1.0)
    return plain / rope.factor * (1 - keep) + plain * keep


def rope_table(rope: RopeSpec, head_dim: int, positions: int, dtype: torch.dtype) -> torch.Tensor:
    """[positions, 2, 2, head_dim]: (cos, sin) of a rotation, then (1, 0) of none, for `rotate`.

    The first half of sin carries the minus sign.
    """
    frequencies, attention = inverse_frequencies(rope, head_dim)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * frequencies[None, :]
    cos, sin = angles.cos() * attention, angles.sin() * attention
    turn = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1)
    still = torch.tensor((1.0, 0.0))[None, :, None].expand_as(turn)
    return torch.stack((turn, still), 1).to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate pairs (i, i + D/2) of x [tokens, heads, D] by cos and sin of the same shape."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
