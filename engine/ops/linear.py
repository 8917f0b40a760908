"""Products with weights. On CPU the weights are reordered once for oneDNN: about twice as fast for 2 to 32 rows."""

from __future__ import annotations

import torch
from torch import Tensor


class Linear:
    """y = x w + b for x [rows, in], w [in, out] (either memory order), b [out] or None."""

    __slots__ = ("_packed", "bias", "weight")

    def __init__(self, weight: Tensor | None, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self._packed: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed is not None and (self.weight is None or x.shape[0] > 1):
            return _packed_product(x, self._packed, self.bias)
        assert self.weight is not None
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def pack(self, *, keep_plain: bool) -> None:
        """Reorder filled weights, where the build of torch can; nothing changes but the speed.

        `keep_plain` keeps a plain copy as well, for single rows: faster while the model fits the cache.
        """
        weight = self.weight
        if weight is None or not _can_pack(weight):
            return
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous())
        self.weight = weight.contiguous() if keep_plain and weight.dtype == torch.float32 else None


def _packed_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    operators = torch.ops.mkldnn
    if not (hasattr(operators, "_reorder_linear_weight") and hasattr(operators, "_linear_pointwise")):
        return False
    if weight.dtype == torch.float32:
        return True
    supported = "_is_mkldnn_bf16_supported" if weight.dtype == torch.bfloat16 else "_is_mkldnn_fp16_supported"
    return hasattr(operators, supported) and bool(getattr(operators, supported)())
