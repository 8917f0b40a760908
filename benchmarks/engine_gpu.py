"""`python -m benchmarks.engine_gpu`: the engine's figures on a CUDA device. `benchmarks/gpu.sh` runs it on a bare box.

`--dry-run` goes the same way on a CPU, with tiny shapes in Triton's interpreter: its numbers mean nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from benchmarks.common import Figure, conditions, finish, parser

if TYPE_CHECKING:
    from benchmarks.gpu_figures import Bench

GOALS: dict[str, tuple[str, float]] = {
    "decode_8b_share_of_bandwidth": (">=", 0.70),
    "decode_kernel_share_of_bandwidth": (">=", 0.75),
    "shared_prefix_vs_plain_decode": (">=", 2.0),
    "throughput_vs_transformers_cb": (">=", 2.0),
    "p99_itl_under_16k_prompts_vs_idle": ("<=", 2.0),
    "resume_10k_from_host_s": ("<=", 0.040),
    "resume_vs_recompute": (">=", 8.0),
    "gpu_busy_share": (">=", 0.98),
}
NO_DEVICE = 2


class OutOfTime(BaseException):
    """The process was told to end: what was measured is stored."""


def _end(number: int, frame: object) -> None:
    raise OutOfTime


def main() -> int:
    options = parser("engine_gpu", __doc__ or "")
    options.add_argument("--dry-run", action="store_true", help="tiny shapes on CPU: does the script work at all")
    options.add_argument("--only", nargs="*", default=[], help="measure these only, by function name")
    args = options.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # the peer's kernels come from what is installed, or not at all
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which is below
    import torch

    if not args.dry_run and not torch.cuda.is_available():
        print("engine_gpu: torch sees no CUDA device here; --dry-run tries the script on a CPU", file=sys.stderr)
        return NO_DEVICE
    from benchmarks.gpu_figures import Bench
    from benchmarks.gpu_model import DRY, FULL

    at_start = conditions(args.seed, args.quick) | device_conditions(args.dry_run)
    bench = Bench(DRY if args.dry_run else FULL, args.seed)
    signal.signal(signal.SIGTERM, _end)
    failed = measure(bench, args.only)
    figures = [Figure(name, value, *GOALS[name]) for name, value in bench.figures.items()]
    missing = sorted(set(GOALS) - set(bench.figures)) if not args.only else []
    if missing:
        print(f"not measured: {', '.join(missing)}", file=sys.stderr)
    name = "engine_gpu_dry" if args.dry_run else "engine_gpu"
    finish(name, figures, args=args, at_start=at_start, detail=bench.detail)
    return 1 if failed or missing else 0


def measure(bench: Bench, only: list[str]) -> bool:
    """All measurements, in order of worth; one that fails leaves its traceback in the detail. Whether any failed."""
    from benchmarks import gpu_figures, gpu_throughput
    from benchmarks.gpu_figures import Bench

    torch_threads_of_one()
    parts: list[Callable[[Bench], None]] = [
        gpu_figures.copy_bandwidth, gpu_figures.decode_kernel, gpu_figures.shared_prefix, gpu_figures.one_stream,
        gpu_figures.busy, gpu_figures.latency_under_prompts, gpu_figures.resume, Bench.forget,
        gpu_throughput.throughput,
    ]  # fmt: skip
    needed = ("copy_bandwidth", "forget")
    failed = False
    seconds: dict[str, float] = {}
    for part in parts:
        if only and part.__name__ not in (*only, *needed):
            continue
        began = time.perf_counter()
        try:
            part(bench)
        except OutOfTime:
            print(f"{part.__name__}: out of time", file=sys.stderr)
            bench.detail[f"{part.__name__}_failed"] = "out of time"
            return True
        except Exception:
            failed = True
            bench.detail[f"{part.__name__}_failed"] = traceback.format_exc()
            traceback.print_exc()
        seconds[part.__name__] = time.perf_counter() - began
        print(f"{part.__name__}: {seconds[part.__name__]:.1f} s", flush=True)
    bench.detail["seconds"] = seconds
    return failed


def torch_threads_of_one() -> None:
    """The host's part of a step is small: more threads only wait for each other."""
    import torch

    torch.set_num_threads(1)


def device_conditions(dry_run: bool) -> dict[str, Any]:
    """The device and the libraries that matter on it."""
    import torch

    versions = {}
    for library in ("triton", "numpy", "flash-attn", "kernels"):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "absent"
    if dry_run:
        return {"device": "cpu, Triton's interpreter", "device_versions": versions}
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "device_memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "device_versions": versions | {"cuda": str(torch.version.cuda)},
    }


if __name__ == "__main__":
    sys.exit(main())
