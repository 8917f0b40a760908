"""The torch path with its element-wise parts compiled into one kernel each (`EngineConfig.compile`).

Owns which functions are compiled, and when: before the first request, for every kind of batch. Products with weights
and attention are left to the libraries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import ModelSpec
from engine.ops.norm import RmsNorm, silu_mul
from engine.ops.torch_ops import TorchOps


def _norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight.float()).to(hidden.dtype)


def _add_norm(delta: Tensor, hidden: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = delta + hidden
    return _norm(total, weight, eps), total


class CompiledOps(TorchOps):
    """`TorchOps` whose norms and activation are kernels of their own."""

    def __init__(self, spec: ModelSpec, like: Tensor, context_tokens: int) -> None:
        """Compile. Raises what torch's compiler raises: without a C++ compiler, say."""
        super().__init__(spec, like, context_tokens)
        self._first = torch.compile(_norm, dynamic=True)
        self._next = torch.compile(_add_norm, dynamic=True)
        self._gate = torch.compile(silu_mul, dynamic=True)
        weight = like.new_ones(spec.hidden)
        with torch.inference_mode():
            for rows in (1, 2, 3):  # one row is a kernel of its own
                hidden = like.new_ones(rows, spec.hidden)
                self._first(hidden, weight, spec.norm_eps)
                self._next(hidden, hidden, weight, spec.norm_eps)
                self._gate(like.new_ones(rows, 2 * spec.intermediate))

    def add_norm(self, delta: Tensor | None, hidden: Tensor, norm: RmsNorm) -> tuple[Tensor, Tensor]:
        """(norm of the sum, the sum) of the residual stream and `delta`."""
        if delta is None:
            return self._first(hidden, norm.weight, norm.eps), hidden
        normed, total = self._next(delta, hidden, norm.weight, norm.eps)
        return normed, total

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up: [tokens, 2 * intermediate] -> [tokens, intermediate]."""
        return self._gate(gate_up)
