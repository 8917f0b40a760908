"""What `benchmarks.engine_gpu` measures: one function a figure. Decides no goals and stores nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import percentile
from benchmarks.gpu_model import (
    Scale,
    ask,
    build_weights,
    make_engine,
    make_runner,
    random_parameters,
    read_bytes,
    serve,
)
from engine.device_batch import BlockTables, DecodeLayout, Group, Shape, Uploads
from engine.device_runner import DeviceRunner
from engine.local import LocalEngine
from engine.models.decoder import Weights
from engine.ops import paged_attention
from engine.ops.paged_attention import Tiling
from engine.protocol import Tier


@dataclass(slots=True)
class Bench:
    """One run: sizes, seed, the 8B model once it is built, figures and detail as they come."""

    scale: Scale
    seed: int
    figures: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    copy_bytes_per_s: float = 0.0
    _large: tuple[Weights, DeviceRunner] | None = None

    def large(self) -> tuple[Weights, DeviceRunner]:
        """The 8B shape, built when first wanted."""
        if self._large is None:
            scale = self.scale
            weights = build_weights(scale.large, random_parameters(scale, self.seed))
            runner = make_runner(
                scale.large, weights, blocks=scale.large_blocks, max_running=64, host_blocks=scale.host_blocks
            )
            self._large = weights, runner
        return self._large

    def forget(self) -> None:
        """Free the 8B shape's memory."""
        self._large = None
        if self.scale.device == "cuda":
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        if self.scale.device == "cuda":
            torch.cuda.synchronize()

    def engine(self, *, budget: int, max_running: int = 64, host: bool = False, blocks: int = 0) -> LocalEngine:
        """An engine with an empty cache over the 8B shape."""
        _, runner = self.large()
        return make_engine(
            self.scale.large, runner, blocks=blocks or self.scale.large_blocks, max_running=max_running, budget=budget,
            host_blocks=self.scale.host_blocks if host else 0,
        )  # fmt: skip

    def prompt(self, rng: random.Random, tokens: int) -> list[int]:
        return [rng.randrange(self.scale.large.vocab_size) for _ in range(tokens)]


def seconds(run: Callable[[], None], scale: Scale, inner: int = 1) -> float:
    """Median device seconds of `run`, which is replayed from a CUDA graph so that gaps between launches do not count.

    `inner`: how many times `run` does what is timed.
    """
    if scale.device != "cuda":
        began = time.perf_counter()
        run()
        return (time.perf_counter() - began) / inner
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for _ in range(3):
        graph.replay()
    taken = []
    for _ in range(scale.repeats):
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begun.record()
        graph.replay()
        done.record()
        done.synchronize()
        taken.append(begun.elapsed_time(done) / 1e3 / inner)  # type: ignore[no-untyped-call]
    return float(np.median(taken))


def copy_bandwidth(bench: Bench) -> None:
    """Bytes read plus bytes written per second of a large copy on the device: what shares are shares of."""
    scale = bench.scale
    source = torch.ones(scale.copy_bytes // 4, dtype=torch.float32, device=scale.device)
    target = torch.empty_like(source)
    taken = seconds(lambda: target.copy_(source), scale)  # type: ignore[arg-type]
    bench.copy_bytes_per_s = 2 * scale.copy_bytes / taken
    bench.detail["copy_bytes_per_s"] = bench.copy_bytes_per_s


# kernels


class _Attention:
    """Decodes of the 8B shape over `layers` caches, more than the L2 cache holds, in blocks in random order."""

    def __init__(self, bench: Bench, lengths: list[int], layers: int, shared_blocks: int = 0) -> None:
        scale, spec = bench.scale, bench.scale.large
        device = torch.device(scale.device)
        own = [-(-length // 16) - (shared_blocks if index else 0) for index, length in enumerate(lengths)]
        count = sum(own) + 1
        form = (2, spec.kv_heads, count * 16, spec.head_dim)
        self.kv = [torch.randn(form, dtype=scale.dtype, device=device) for _ in range(layers)]
        self.spec, self.batch, self.device = spec, len(lengths), device
        self.tables = BlockTables(len(lengths), -(-max(lengths) // 16), count - 1, device)
        free = np.random.default_rng(bench.seed).permutation(count - 1)
        first = np.empty(0, dtype=np.int32)
        for row, size in enumerate(own):
            blocks, free = free[:size], free[size:]
            table = np.concatenate((first[:shared_blocks], blocks)).astype(np.int32) if row else blocks.astype(np.int32)
            first = first if row else table
            self.tables.write(row, 0, table)
        uploads = Uploads(device)
        self.tables.flush(uploads)
        self.shape = Shape(spec, device, self.batch, scale.dtype)
        self.positions = [length - 1 for length in lengths]
        self.q = torch.randn(self.batch, spec.heads, spec.head_dim, dtype=scale.dtype, device=device)
        self.out = torch.empty_like(self.q)
        self._uploads = uploads

    def layout(self, groups: list[Group]) -> DecodeLayout:
        layout = DecodeLayout(self.shape, self.batch, self.batch, grouped=bool(groups))
        layout.fill([0] * self.batch, self.positions, list(range(self.batch)))
        if groups:
            layout.group(groups)
        layout.send(self._uploads)
        return layout

    def run(self, layout: DecodeLayout) -> None:
        """All layers' attention, planned once as in a step."""
        part, shared, both = layout.part, layout.shared_part, None
        part.work.plan()
        if shared is not None:
            shared.work.plan()
            both = (shared.work, shared.places)
        for kv in self.kv:
            tables, kv_heads = self.tables.device, self.spec.kv_heads
            paged_attention.attend(self.q, kv, tables, part.work, part.members, self.out, causal=False, direct=True)
            if shared is not None:
                paged_attention.attend(
                    self.q, kv, tables, shared.work, shared.members, self.out, causal=False, direct=False
                )
            paged_attention.merge(self.out, part.work, part.places, kv_heads, direct=True, shared=both)


def decode_kernel(bench: Bench) -> None:
    """One layer's attention of a batch of decodes, its KV read once; other tilings are reported beside the shipped."""
    scale = bench.scale
    attention = _Attention(bench, [scale.kernel_tokens] * scale.kernel_batch, 1)
    kv_bytes = scale.kernel_batch * scale.kernel_tokens * 2 * attention.spec.kv_heads * attention.spec.head_dim
    kv_bytes *= attention.q.element_size()
    shipped = attention.shape.decode_tiling
    tilings = [shipped, Tiling(16, 64, 4, 5), Tiling(16, 128, 4, 3), Tiling(16, 128, 8, 5), Tiling(16, 32, 2, 5)]
    taken = {}
    for tiling in tilings if scale.device == "cuda" else tilings[:1]:
        attention.shape.decode_tiling = tiling
        layout = attention.layout([])
        taken[f"{tiling.tokens}x{tiling.warps}x{tiling.stages}"] = seconds(lambda at=layout: attention.run(at), scale)  # type: ignore[misc]
    share = {name: kv_bytes / value / bench.copy_bytes_per_s for name, value in taken.items()}
    bench.figures["decode_kernel_share_of_bandwidth"] = next(iter(share.values()))
    bench.detail["decode_kernel"] = {"kv_bytes": kv_bytes, "seconds": taken, "share_by_tokens_warps_stages": share}


def shared_prefix(bench: Bench) -> None:
    """Siblings over one long prefix: each by itself against all at once, and that both agree."""
    scale = bench.scale
    shared_blocks = scale.shared_tokens // 16
    lengths = [scale.shared_tokens + scale.own_tokens] * scale.siblings
    attention = _Attention(bench, lengths, scale.kv_layers, shared_blocks)
    plain, grouped = attention.layout([]), attention.layout([Group(tuple(range(scale.siblings)), shared_blocks)])
    taken = []
    results: list[Tensor] = []
    for layout in (plain, grouped):
        taken.append(seconds(lambda at=layout: attention.run(at), scale, inner=scale.kv_layers))  # type: ignore[misc]
        results.append(attention.out.float())
    error = float((results[0] - results[1]).abs().max() / results[0].abs().max())
    assert error < 0.02, f"shared-prefix decode differs from plain decode by {error}"
    bench.figures["shared_prefix_vs_plain_decode"] = taken[0] / taken[1]
    bench.detail["shared_prefix"] = {"plain_s": taken[0], "shared_s": taken[1], "relative_difference": error}


# the 8B shape


def one_stream(bench: Bench) -> None:
    """Tokens of a single request: the time a token takes against that of reading the weights once."""
    scale = bench.scale
    weights, _ = bench.large()
    rng = random.Random(bench.seed)
    engine = bench.engine(budget=2048)
    steady = 0.0
    for name in ("warm-up", "measured"):
        engine.submit(ask(name, bench.prompt(rng, min(128, scale.prompt_tokens)), scale.stream_tokens))
        at = serve(engine)[name]
        steady = (at[-1] - at[len(at) // 4]) / (len(at) - 1 - len(at) // 4)
    ideal = read_bytes(weights) / bench.copy_bytes_per_s
    bench.figures["decode_8b_share_of_bandwidth"] = ideal / steady
    bench.detail["one_stream"] = {"token_s": steady, "weights_read_s": ideal, "weight_bytes": read_bytes(weights)}


@contextmanager
def device_timeline(runner: DeviceRunner, on: bool) -> Iterator[list[tuple[Any, Any]]]:
    """Events before and after the launches of each decode step."""
    spans: list[tuple[Any, Any]] = []
    plain = runner._launch

    def launch(*args: Any, **named: Any) -> Any:
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begun.record()
        launched = plain(*args, **named)
        done.record()
        spans.append((begun, done))
        return launched

    if on:
        runner._launch = launch  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        runner._launch = plain  # type: ignore[method-assign]


def busy(bench: Bench) -> None:
    """Share of the time in which the device has a decode step to compute, while `decoders` requests decode.

    On the device's own timeline: from the first step's begin to the last one's end, less the gaps between steps.
    """
    scale = bench.scale
    _, runner = bench.large()
    engine = bench.engine(budget=2048)
    rng = random.Random(bench.seed + 1)
    for index in range(scale.decoders):
        engine.submit(ask(f"d{index}", bench.prompt(rng, min(256, scale.prompt_tokens)), scale.decode_tokens))
    steps = 0

    def warm() -> bool:
        nonlocal steps
        steps += 1
        return steps > scale.decode_tokens // 4

    serve(engine, warm)
    with device_timeline(runner, scale.device == "cuda") as spans:
        began, steps = time.perf_counter(), 0
        times = serve(engine)
        bench.synchronize()
        wall = time.perf_counter() - began
    if scale.device != "cuda":
        bench.figures["gpu_busy_share"] = 1.0
        return
    spans = spans[: len(spans) * 3 // 4]  # before the first requests end
    whole = spans[0][0].elapsed_time(spans[-1][1])
    working = sum(begun.elapsed_time(done) for begun, done in spans)
    bench.figures["gpu_busy_share"] = working / whole
    tokens = sum(map(len, times.values()))
    bench.detail["busy"] = {"steps": len(spans), "step_s": whole / len(spans) / 1e3, "tokens_per_s": tokens / wall}


def latency_under_prompts(bench: Bench) -> None:
    """Inter-token latencies of `decoders` requests: alone, and while long prompts keep arriving."""
    scale = bench.scale
    quantiles: dict[str, dict[str, float]] = {}
    for phase in ("warm-up", "idle", "loaded"):
        rng = random.Random(bench.seed + 2)
        engine = bench.engine(budget=scale.chunk + 64)
        prompts = scale.prompts if phase == "loaded" else 1 if phase == "warm-up" else 0
        # As long as the prompts take: each has a step for every `chunk` of its tokens, which makes one token of each.
        steps = prompts * (-(-scale.prompt_tokens // scale.chunk) + 2)
        tokens = max(scale.decode_tokens, steps * 5 // 4)
        tokens = min(tokens, scale.large.context_tokens - 64)
        names = [f"d{index}" for index in range(scale.decoders)]
        for name in names:
            engine.submit(ask(name, bench.prompt(rng, min(32, scale.prompt_tokens)), tokens))
        times: dict[str, list[float]] = {}
        skip = 8 if scale.device == "cuda" else 1
        for _ in range(skip):
            _collect(engine, times)
        sent = 0
        pending = ""
        while any(len(times.get(name, ())) < tokens for name in names):
            if sent < prompts and (not pending or pending in times):
                pending, sent = f"p{sent}", sent + 1
                engine.submit(ask(pending, bench.prompt(rng, scale.prompt_tokens), 1))
            if prompts and sent == prompts and pending in times:
                break
            _collect(engine, times)
        gaps = [b - a for name in names for a, b in zip(times[name][skip - 1 :], times[name][skip:], strict=False)]
        quantiles[phase] = {
            "p50_s": percentile(gaps, 0.5), "p99_s": percentile(gaps, 0.99), "largest_s": max(gaps), "gaps": len(gaps),
        }  # fmt: skip
        for name in [*names, *(f"p{index}" for index in range(sent))]:
            engine.abort(name)
        serve(engine)
    idle = max(quantiles["idle"]["p99_s"], 1e-9)
    bench.figures["p99_itl_under_16k_prompts_vs_idle"] = quantiles["loaded"]["p99_s"] / idle
    bench.detail["latency_under_prompts"] = quantiles | {"chunk": scale.chunk, "prompts": scale.prompts}


def _collect(engine: LocalEngine, times: dict[str, list[float]]) -> None:
    for name, item in engine.step():
        if isinstance(item, Exception):
            raise item
        times.setdefault(name, []).extend([time.perf_counter()] * len(item.token_ids))


def resume(bench: Bench) -> None:
    """First token of a call that continues a chain of 10k tokens: from the host's memory, and computed again."""
    scale = bench.scale
    taken: dict[str, list[float]] = {"host": [], "recompute": []}
    for turn in range(4 if scale.device == "cuda" else 1):  # the first is warm-up
        rng = random.Random(bench.seed + 10 + turn)
        # Room for one chain: the next one takes the first one's place on the device.
        blocks = scale.resume_tokens // 16 + 3
        engine = bench.engine(budget=2048 if scale.device == "cuda" else 128, host=True, blocks=blocks)
        chain = bench.prompt(rng, scale.resume_tokens)
        engine.submit(ask("first", chain, 1, hold_s=300.0))
        serve(engine)
        grant = engine.demote("first")
        assert grant.tier is Tier.HOST, f"the chain did not go to the host: {grant}"
        serve(engine)
        engine.submit(ask("other", bench.prompt(rng, 16 * blocks - 2), 1))
        serve(engine)
        cached = engine.estimate(tuple(chain)).cached_tokens
        assert cached[Tier.DEVICE] < 64 and cached[Tier.HOST] > scale.resume_tokens - 96, (
            f"the chain is not on the host alone: {cached}"
        )
        bench.synchronize()
        for kind in ("host", "recompute"):
            more = bench.prompt(rng, 16)
            begin = chain if kind == "host" else [*more, *chain[16:]]
            engine.submit(ask(kind, [*begin, *more], 1))
            began = time.perf_counter()
            times = serve(engine)
            if turn or scale.device != "cuda":
                taken[kind].append(times[kind][0] - began)
    medians = {kind: float(np.median(values)) for kind, values in taken.items()}
    bench.figures["resume_10k_from_host_s"] = medians["host"]
    bench.figures["resume_vs_recompute"] = medians["recompute"] / medians["host"]
    _, runner = bench.large()
    block_bytes = scale.large.kv_bytes_per_token(scale.large.dtype) * 16
    bench.detail["resume"] = taken | {"block_bytes": block_bytes, "copy_s_per_block": runner.copy_s_per_block}
