"""RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4) and the gated activation, in torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class RmsNorm:
    """x / rms(x) * weight over the last dimension. Holds its constants, so that a call is only kernels."""

    __slots__ = ("_eps", "_mean", "_wide", "eps", "size", "weight")

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps
        self.size = weight.shape[0]
        self._eps = torch.full((1,), eps, device=weight.device)
        self._mean = torch.full((self.size, 1), 1.0 / self.size, device=weight.device)
        self._wide: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, size], or any shape that ends in size. Half types are normed in fp32."""
        if x.device.type != "cpu" and x.dtype != torch.float32:
            return functional.rms_norm(x, (self.size,), self.weight, self.eps)
        if self._wide is None:  # not before: weights are filled after their norms are made
            self._wide = self.weight.float()
        rows = x.reshape(-1, self.size).float()
        # The mean of squares as a matrix product: fewer kernels than pow, mean, add; few rows are all overhead.
        scale = torch.addmm(self._eps, rows * rows, self._mean).rsqrt_()
        return (rows * scale).mul_(self._wide).view(x.shape).to(x.dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up: [tokens, 2 * intermediate] -> [tokens, intermediate] (Shazeer 2020, arXiv 2002.05202)."""
    gate, up = gate_up.chunk(2, -1)
    return functional.silu(gate).mul_(up)
