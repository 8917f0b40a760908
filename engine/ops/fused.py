"""Row-wise kernels: residual sum with RMSNorm, and the gated activation. Each row is read and written once.

RMSNorm: Zhang and Sennrich 2019 (arXiv 1910.07467, eq. 4); SwiGLU: Shazeer 2020 (arXiv 2002.05202).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.ops.launch import check_type, next_power_of_2

_COLUMNS = 1024


@triton.jit
def _add_norm_kernel(
    delta: tl.tensor,
    hidden: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    size: tl.tensor,
    eps: tl.tensor,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One row: hidden += delta, out = norm(hidden). The sum is rounded to the stream's type before it is normed."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    there = column < size
    x = tl.load(hidden + row * size + column, mask=there, other=0.0)
    if ADD:
        more = tl.load(delta + row * size + column, mask=there, other=0.0)
        x = (x.to(tl.float32) + more.to(tl.float32)).to(hidden.dtype.element_ty)
        tl.store(hidden + row * size + column, x, mask=there)
    x = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / size + eps)
    w = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, (x * scale * w).to(out.dtype.element_ty), mask=there)


@triton.jit
def _silu_mul_kernel(
    gate_up: tl.tensor,
    out: tl.tensor,
    size: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Row x columns: silu(gate) * up in fp32."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < size
    gate = tl.load(gate_up + row * 2 * size + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * size + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=there)


def add_norm(delta: Tensor | None, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """hidden [rows, size] += delta, in place; its RMSNorm. All contiguous; weight [size]."""
    check_type(hidden, weight)
    rows, size = hidden.shape
    out = torch.empty_like(hidden)
    block = next_power_of_2(size)
    _add_norm_kernel[(rows,)](
        hidden if delta is None else delta, hidden, weight, out, size, eps,
        ADD=delta is not None, BLOCK=block, num_warps=norm_warps(block),
    )  # fmt: skip
    return out


def norm_warps(block: int) -> int:
    """Warps for a row of so many numbers: 8 to 16 numbers a thread."""
    return min(max(block // 512, 1), 16)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up: [rows, 2 * size] contiguous -> [rows, size]."""
    check_type(gate_up)
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul_kernel[(rows, triton.cdiv(size, _COLUMNS))](gate_up, out, size, BLOCK=_COLUMNS, num_warps=4)
    return out


def add_norm_reference(delta: Tensor | None, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`add_norm` in torch."""
    if delta is not None:
        hidden += delta
    normed = torch.nn.functional.rms_norm(hidden.float(), (hidden.shape[1],), weight.float(), eps)
    return normed.to(hidden.dtype)


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """`silu_mul` in torch."""
    gate, up = gate_up.float().chunk(2, -1)
    return (torch.nn.functional.silu(gate) * up).to(gate_up.dtype)
