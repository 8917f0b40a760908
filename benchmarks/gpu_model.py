"""Models of real shapes with random weights, on the device at once, and engines around them. Reads and writes no files.

`Scale` holds all sizes of `benchmarks.engine_gpu`, so that a dry run on CPU takes the same way with tiny ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.clock import SystemClock
from engine.config import EngineConfig, ModelSpec, RopeSpec
from engine.device_runner import DeviceRunner
from engine.local import LocalEngine
from engine.models.decoder import Decoder, Layer, Weights
from engine.ops.linear import Linear
from engine.ops.norm import RmsNorm
from engine.ops.triton_ops import TritonOps
from engine.protocol import EngineError, GenerateRequest, ModelInfo, SamplingParams

LLAMA_8B = ModelSpec(
    family="llama", vocab_size=128256, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, head_dim=128,
    context_tokens=20480, norm_eps=1e-5, rope=RopeSpec(theta=500000.0), tied_head=False, qkv_bias=False, o_bias=False,
    mlp_bias=False, qk_norm=False, dtype="bfloat16", eos_ids=(),
)  # fmt: skip
QWEN3_06B = ModelSpec(
    family="qwen3", vocab_size=151936, hidden=1024, intermediate=3072, layers=28, heads=16, kv_heads=8, head_dim=128,
    context_tokens=4096, norm_eps=1e-6, rope=RopeSpec(theta=1000000.0), tied_head=True, qkv_bias=False, o_bias=False,
    mlp_bias=False, qk_norm=True, dtype="bfloat16", eos_ids=(),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scale:
    """Everything that a dry run makes smaller. Lengths are in tokens, memory in blocks of 16."""

    device: str
    dtype: torch.dtype
    large: ModelSpec
    small: ModelSpec
    copy_bytes: int
    repeats: int
    kernel_batch: int
    kernel_tokens: int
    siblings: int
    shared_tokens: int
    own_tokens: int
    kv_layers: int
    stream_tokens: int
    decoders: int
    decode_tokens: int
    prompt_tokens: int
    prompts: int
    chunk: int
    resume_tokens: int
    requests: int
    least_tokens: int
    most_tokens: int
    large_blocks: int
    host_blocks: int
    small_blocks: int


FULL = Scale(
    device="cuda", dtype=torch.bfloat16, large=LLAMA_8B, small=QWEN3_06B, copy_bytes=4 << 30, repeats=20,
    kernel_batch=64, kernel_tokens=8192, siblings=16, shared_tokens=8192, own_tokens=64, kv_layers=8,
    stream_tokens=256, decoders=16, decode_tokens=400, prompt_tokens=16384, prompts=4, chunk=128, resume_tokens=10000,
    requests=256, least_tokens=100, most_tokens=1024, large_blocks=9000, host_blocks=700, small_blocks=36000,
)  # fmt: skip


def dry(spec: ModelSpec) -> ModelSpec:
    """A model that Triton's interpreter can run."""
    return replace(
        spec, vocab_size=64, hidden=32, intermediate=32, layers=1, heads=2, kv_heads=1, head_dim=16, context_tokens=128,
        dtype="float32",
    )  # fmt: skip


DRY = replace(
    FULL, device="cpu", dtype=torch.float32, large=dry(LLAMA_8B), small=dry(QWEN3_06B), copy_bytes=1 << 16, repeats=1,
    kernel_batch=2, kernel_tokens=70, siblings=4, shared_tokens=64, own_tokens=4, kv_layers=1, stream_tokens=2,
    decoders=2, decode_tokens=3, prompt_tokens=20, prompts=1, chunk=16, resume_tokens=33, requests=2, least_tokens=2,
    most_tokens=4, large_blocks=40, host_blocks=8, small_blocks=16,
)  # fmt: skip


Get = Callable[[str, tuple[int, ...]], Tensor]
"""A parameter by its checkpoint name and shape."""


def random_parameters(scale: Scale, seed: int) -> Get:
    """Normal numbers, small enough that activations stay finite; norms are 1."""
    generator = torch.Generator(scale.device).manual_seed(seed)

    def get(name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.empty(shape, dtype=scale.dtype, device=scale.device)
        return tensor.fill_(1.0) if "norm" in name else tensor.normal_(0.0, 0.02, generator=generator)

    return get


def build_weights(spec: ModelSpec, get: Get) -> Weights:
    """Weights packed as `engine.weights` packs them."""
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim

    def linear(inputs: int, parts: dict[str, int]) -> Linear:
        tensors = [get(f"{name}.weight", (size, inputs)) for name, size in parts.items()]
        return Linear((torch.cat(tensors) if len(tensors) > 1 else tensors[0]).t())

    def norm(name: str, size: int) -> RmsNorm:
        return RmsNorm(get(f"{name}.weight", (size,)), spec.norm_eps)

    layers = []
    for index in range(spec.layers):
        at, mlp = f"model.layers.{index}.self_attn.", f"model.layers.{index}.mlp."
        layers.append(
            Layer(
                attention_norm=norm(f"model.layers.{index}.input_layernorm", spec.hidden),
                qkv=linear(spec.hidden, {f"{at}q_proj": q, f"{at}k_proj": kv, f"{at}v_proj": kv}),
                q_norm=norm(f"{at}q_norm", spec.head_dim) if spec.qk_norm else None,
                k_norm=norm(f"{at}k_norm", spec.head_dim) if spec.qk_norm else None,
                out=linear(q, {f"{at}o_proj": spec.hidden}),
                mlp_norm=norm(f"model.layers.{index}.post_attention_layernorm", spec.hidden),
                gate_up=linear(spec.hidden, {f"{mlp}gate_proj": spec.intermediate, f"{mlp}up_proj": spec.intermediate}),
                down=linear(spec.intermediate, {f"{mlp}down_proj": spec.hidden}),
            )
        )
    embedding = get("model.embed_tokens.weight", (spec.vocab_size, spec.hidden))
    head = Linear(embedding.t()) if spec.tied_head else linear(spec.hidden, {"lm_head": spec.vocab_size})
    return Weights(embedding, tuple(layers), norm("model.norm", spec.hidden), head)


def read_bytes(weights: Weights) -> int:
    """Bytes of weights that one decoded token reads: all but the embedding's, of which it reads a row."""
    linears = [x for layer in weights.layers for x in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    tensors = [linear.weight for linear in (*linears, weights.head)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


class NoText:
    """An output without text."""

    stopped = False

    def push(self, token: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


class NoCodec:
    """A codec for prompts that are ids."""

    longest_token = 1

    def stream(self, stops: Sequence[str] = ()) -> NoText:
        return NoText()


def make_runner(
    spec: ModelSpec, weights: Weights, *, blocks: int, max_running: int, host_blocks: int = 0
) -> DeviceRunner:
    return DeviceRunner(
        Decoder(spec, weights, TritonOps(spec, weights.embedding, spec.context_tokens)),
        blocks=blocks, max_running=max_running, context_tokens=spec.context_tokens, host_blocks=host_blocks,
    )  # fmt: skip


def make_engine(
    spec: ModelSpec, runner: DeviceRunner, *, blocks: int, max_running: int, budget: int, host_blocks: int = 0
) -> LocalEngine:
    """An engine with an empty cache over a runner, which engines may use one after the other."""
    config = EngineConfig("random", max_running=max_running, token_budget=budget, lease_share=0.9)
    info = ModelInfo("random", spec.context_tokens, spec.vocab_size, spec.kv_bytes_per_token(spec.dtype))
    return LocalEngine(
        config, info, runner, NoCodec(), SystemClock(), blocks=blocks, host_blocks=host_blocks  # type: ignore[arg-type]
    )  # fmt: skip


def ask(name: str, prompt: Sequence[int], tokens: int, *, hold_s: float = 0.0) -> GenerateRequest:
    """A greedy request that ends after so many tokens."""
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return GenerateRequest(
        name, name, prompt_ids=tuple(prompt), sampling=sampling, hold_s=hold_s, expected_tokens=tokens
    )


def serve(engine: LocalEngine, until: Callable[[], bool] | None = None) -> dict[str, list[float]]:
    """Step until nothing is left to do, or `until` says so. Seconds (of the host's clock) at which tokens came.

    Raises the first error that a request gets.
    """
    times: dict[str, list[float]] = {}
    while engine.has_work and not (until is not None and until()):
        deliveries = engine.step()
        now = time.perf_counter()
        for name, item in deliveries:
            if isinstance(item, EngineError):
                raise item
            times.setdefault(name, []).extend([now] * len(item.token_ids))
    return times
