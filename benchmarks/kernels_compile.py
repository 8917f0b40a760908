"""`python -m benchmarks.kernels_compile`: every kernel, as its launcher launches it, compiled for sm_90 without a GPU.

Launches are recorded, not run: what is compiled has the types and constants that the engine ships. Reports registers,
shared memory and spills of each; a spill is a defect.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from benchmarks.common import Figure, conditions, finish, parser
from engine.ops import blocks, fused, paged_attention, rope_store
from engine.ops.paged_attention import DECODE, EXACT, EXTEND, EXTEND_SMALL, SHARED, Work, members_per_item

MODULES = (blocks, fused, paged_attention, rope_store)
CAPABILITY = 90
REGISTERS = 65536
"""Registers of one multiprocessor of Hopper; 228 KiB of shared memory, 1 KiB of it reserved for each program."""
SHARED_BYTES = 228 * 1024
_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that kernels are specialised for."""

    name: str
    heads: int
    kv_heads: int
    dim: int
    hidden: int
    intermediate: int
    qk_norm: bool = False


SHAPES = (
    Shape("llama-8b", 32, 8, 128, 4096, 14336),
    Shape("qwen3-0.6b", 16, 8, 128, 1024, 3072, qk_norm=True),
    Shape("llama-1b", 32, 8, 64, 2048, 8192),
    Shape("qwen2.5-7b", 28, 4, 128, 3584, 18944),
    Shape("smollm2-135m", 9, 3, 64, 576, 1536),
    Shape("multi-head", 16, 16, 128, 2048, 5504),
)


@dataclass(frozen=True, slots=True)
class Launch:
    """One recorded launch, as Triton's compiler wants it: types and constants by argument name."""

    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    options: dict[str, int]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__.strip("_").removesuffix("_kernel")

    @property
    def key(self) -> str:
        return repr((self.name, sorted(self.signature.items()), sorted(map(str, self.constants.items())), self.aligned,
                     sorted(self.options.items())))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes: registers a thread, bytes shared and spilled, programs a multiprocessor holds."""

    registers: int
    shared_bytes: int
    spill_bytes: int
    stack_bytes: int
    programs: int
    cubin_bytes: int


@dataclass(slots=True)
class Recorder:
    """Stands in for a kernel: `kernel[grid](...)` is noted down."""

    kernel: JITFunction[Any]
    launches: dict[str, Launch] = field(default_factory=dict)

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return self._record

    def _record(self, *args: Any, **named: Any) -> None:
        names = self.kernel.arg_names
        options = {key: value for key, value in named.items() if key not in names}
        values = dict(zip(names, args, strict=False)) | {k: v for k, v in named.items() if k in names}
        constant = {parameter.name for parameter in self.kernel.params if parameter.is_constexpr}
        general = {parameter.name for parameter in self.kernel.params if parameter.do_not_specialize}
        signature, constants, aligned = {}, {}, []
        for name in names:
            value = values[name]
            # As Triton's own launcher: an argument that is 1 is a constant, 16-byte alignment is part of the type.
            if name in constant or (type(value) is int and value == 1 and name not in general):
                signature[name], constants[name] = "constexpr", value
            elif isinstance(value, Tensor):
                signature[name] = _POINTERS[value.dtype]
                aligned.append(name)
            elif isinstance(value, float):
                signature[name] = "fp32"
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                if value % 16 == 0 and name not in general:
                    aligned.append(name)
        launch = Launch(self.kernel, signature, constants, tuple(aligned), options)
        self.launches[launch.key] = launch


@contextmanager
def recording() -> Iterator[list[Recorder]]:
    """Within, kernels are not run but recorded."""
    recorders: list[Recorder] = []
    replaced: list[tuple[ModuleType, str, Any]] = []
    for module in MODULES:
        for name, value in list(vars(module).items()):
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                recorder = Recorder(value)
                recorders.append(recorder)
                replaced.append((module, name, value))
                setattr(module, name, recorder)
    try:
        yield recorders
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


def launches(shape: Shape, dtype: torch.dtype) -> list[Launch]:
    """Everything that a forward pass, a tier copy and a fork of such a model launch."""
    heads, kv_heads, dim = shape.heads, shape.kv_heads, shape.dim
    with recording() as recorders:
        kv = torch.zeros(2, 2, kv_heads, 64, dim, dtype=dtype)
        tables = torch.zeros(16, 64, dtype=torch.int32)
        index = torch.zeros(16, dtype=torch.int32)
        q = torch.zeros(16, heads, dim, dtype=dtype)
        norms = (torch.ones(dim, dtype=dtype), torch.ones(dim, dtype=dtype)) if shape.qk_norm else None
        qkv = torch.zeros(16, heads + 2 * kv_heads, dim, dtype=dtype)
        rope_store.rope_store(qkv, kv[0], tables, index, index, torch.zeros(64, 2, dim // 2), norms, 1e-6)
        _attention(q, kv[0], tables, index)
        hidden = torch.zeros(16, shape.hidden, dtype=dtype)
        fused.add_norm(None, hidden, hidden[0], 1e-6)
        fused.add_norm(hidden, hidden, hidden[0], 1e-6)
        fused.silu_mul(torch.zeros(16, 2 * shape.intermediate, dtype=dtype))
        planes, size = blocks.planes_of(kv)
        packed = torch.zeros(16, planes * size, dtype=dtype)
        blocks.gather_blocks(kv, index, packed)
        blocks.scatter_blocks(kv, index, packed)
        blocks.copy_blocks(kv, torch.zeros(2, 16, dtype=torch.int32))
    return [launch for recorder in recorders for launch in recorder.launches.values()]


def _attention(q: Tensor, kv: Tensor, tables: Tensor, index: Tensor) -> None:
    """Decode, decode with shared prefixes, and both sizes of extend."""
    kv_heads = kv.shape[1]
    own = torch.zeros(2, 16, dtype=torch.int32)

    def work(tiling: paged_attention.Tiling, items: int) -> Work:
        memory = torch.zeros(paged_attention.ITEM_FIELDS, items, dtype=torch.int32)
        made = Work(memory, q, tiling, kv_heads=kv_heads, units_per_head=132)
        made.plan()
        return made

    exact = q.dtype == torch.float32
    decode, shared = (work(EXACT if exact else tiling, 16) for tiling in (DECODE, SHARED))
    assert members_per_item(DECODE, q.shape[1] // kv_heads) >= 1
    out = torch.empty_like(q)
    paged_attention.attend(q, kv, tables, decode, index, out, causal=False, direct=True)
    paged_attention.merge(out, decode, own, kv_heads, direct=True)
    paged_attention.attend(q, kv, tables, shared, index, out, causal=False, direct=False)
    paged_attention.merge(out, decode, own, kv_heads, direct=True, shared=(shared, own))
    for tiling in (EXACT,) if exact else (EXTEND_SMALL, EXTEND):
        extend = work(tiling, 16)
        paged_attention.attend(q, kv, tables, extend, index, out, causal=True, direct=True)
        paged_attention.merge(out, extend, own, kv_heads, direct=True)


def compile_launch(launch: Launch) -> Resources:
    """A cubin for sm_90, and what it takes. Raises Triton's error if it cannot be compiled."""
    names = launch.kernel.arg_names
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in launch.aligned}
    source = ASTSource(
        launch.kernel, launch.signature, {(names.index(k),): v for k, v in launch.constants.items()}, attributes
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=launch.options)
    report = assembler_report(compiled.asm["ptx"])
    registers, stack, stores, loads = (
        int(re.search(pattern, report)[1])  # type: ignore[index]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack", r"(\d+) bytes spill st", r"(\d+) bytes spill lo")
    )
    shared: int = compiled.metadata.shared
    threads = 32 * compiled.metadata.num_warps
    fits = min(REGISTERS // (-(-registers // 8) * 8 * threads), SHARED_BYTES // (shared + 1024), 2048 // threads)
    return Resources(registers, shared, stores + loads, stack, fits, len(compiled.asm["cubin"]))


def assembler_report(ptx: str) -> str:
    """What the bundled ptxas says of a kernel's resources."""
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        target = re.search(r"\.target (\w+)", ptx)
        assert target is not None
        command = [assembler, "-v", f"--gpu-name={target[1]}", file, "-o", Path(folder) / "kernel.cubin"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def describe(launch: Launch) -> str:
    """The constants that tell launches of one kernel apart."""
    shown = {k.lower(): int(v) if isinstance(v, bool) else v for k, v in launch.constants.items() if k.isupper()}
    for fixed in ("block_tokens", "unit_fields", "precision"):
        shown.pop(fixed, None)
    return " ".join(f"{key}={value}" for key, value in shown.items())


def main() -> None:
    args = parser("kernels_compile", __doc__ or "").parse_args()
    at_start = conditions(args.seed, args.quick)
    seen: set[str] = set()
    rows = []
    for shape in SHAPES[:1] if args.quick else SHAPES:
        for dtype in (torch.bfloat16, torch.float16, torch.float32) if shape is SHAPES[0] else (torch.bfloat16,):
            for launch in launches(shape, dtype):
                if launch.key in seen:
                    continue
                seen.add(launch.key)
                made = compile_launch(launch)
                row = {
                    "kernel": launch.name,
                    "shape": shape.name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "constants": describe(launch),
                    **launch.options,
                    **{name: getattr(made, name) for name in made.__dataclass_fields__},
                }
                rows.append(row)
                print(f"{row['kernel']:12} {shape.name:13} regs {made.registers:3} shared {made.shared_bytes:6} "
                      f"spills {made.spill_bytes:3} fit {made.programs:2}  {row['constants']}", flush=True)  # fmt: skip
    figures = [
        Figure("kernels_compiled", len(rows)),
        Figure("kernels_with_spills", sum(row["spill_bytes"] > 0 for row in rows), "==", 0),
    ]
    finish(
        "kernels_compile", figures, args=args, at_start=at_start, detail={"target": f"sm_{CAPABILITY}", "kernels": rows}
    )


if __name__ == "__main__":
    main()
