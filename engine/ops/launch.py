"""What all launches share: which types a kernel takes where, sizes, and the device's shape. Launches nothing itself."""

from __future__ import annotations

import functools
import os

import torch
from torch import Tensor


class UnsupportedType(TypeError):
    """A kernel was given numbers that it would get wrong."""


def interpreting() -> bool:
    """Whether Triton interprets kernels, on the CPU: TRITON_INTERPRET=1, set before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def check_type(*tensors: Tensor) -> None:
    """Raise `UnsupportedType` for anything but fp32, fp16, bf16; and for bf16 in the interpreter.

    The interpreter computes with the raw bits of bf16: sums and products are garbage, without an error.
    """
    for tensor in tensors:
        if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise UnsupportedType(f"kernels take float32, float16 and bfloat16, not {tensor.dtype}")
        if tensor.dtype == torch.bfloat16 and interpreting():
            raise UnsupportedType("bfloat16 arithmetic is wrong in Triton's interpreter: use float32 or float16 there")


def next_power_of_2(number: int) -> int:
    """The least power of 2 that is not below `number` (>= 1)."""
    return 1 << max(number - 1, 0).bit_length()


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a CUDA device; 1 where there are none."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
