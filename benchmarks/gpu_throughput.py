"""Many requests at once on a 0.6B shape: this engine against transformers' continuous batching, same weights and ids.

The peer has its best settings: the fastest of its attention implementations that work here, CUDA graphs, asynchronous
batching, as much KV memory as it asks for.
"""

from __future__ import annotations

import gc
import random
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_figures import Bench
from benchmarks.gpu_model import Scale, ask, build_weights, make_engine, make_runner
from engine.config import ModelSpec

Requests = list[tuple[list[int], int]]
ATTENTION = ("flash_attention_3", "flash_attention_2", "sdpa")


def make_peer(spec: ModelSpec, scale: Scale, seed: int) -> Any:
    """transformers' own model of this shape, with random weights, on the device."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(seed)
    config = transformers.Qwen3Config(
        vocab_size=spec.vocab_size, hidden_size=spec.hidden, intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers, num_attention_heads=spec.heads, num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim, max_position_embeddings=spec.context_tokens, rms_norm_eps=spec.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope.theta}, tie_word_embeddings=spec.tied_head,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.device(scale.device):
        model: Any = transformers.Qwen3ForCausalLM(config)
    return model.to(scale.dtype).eval()


def make_requests(spec: ModelSpec, scale: Scale, seed: int) -> Requests:
    """Prompts and outputs of uniformly drawn lengths."""
    rng = random.Random(seed)

    def draw() -> int:
        return rng.randint(scale.least_tokens, scale.most_tokens)

    return [([rng.randrange(spec.vocab_size) for _ in range(draw())], draw()) for _ in range(scale.requests)]


def run_ours(model: Any, requests: Requests, scale: Scale) -> tuple[float, list[list[int]]]:
    """Seconds from the first request to the last token, after a warm-up with a few of them; and the tokens."""
    spec = scale.small
    parameters: dict[str, Tensor] = dict(model.state_dict())
    weights = build_weights(spec, lambda name, shape: parameters[name].view(shape))
    batch = min(max(scale.requests, 4), 256)
    blocks = scale.small_blocks
    if scale.device == "cuda":  # half of what is free here: the large cards' share is more than the requests need
        block_bytes = spec.kv_bytes_per_token(spec.dtype) * 16
        blocks = min(blocks, torch.cuda.mem_get_info()[0] // 2 // block_bytes)
    runner = make_runner(spec, weights, blocks=blocks, max_running=batch)
    if scale.device == "cuda":
        runner.warm_up([1, 2, 4, *range(8, batch + 1, 8)])
    outputs: list[list[int]] = []
    taken = 0.0
    for part in (requests[: max(len(requests) // 8, 1)], requests):
        engine = make_engine(
            spec, runner, blocks=blocks, max_running=batch, budget=8192 if scale.device == "cuda" else 300
        )
        outputs = [[] for _ in part]
        began = time.perf_counter()
        for index, (prompt, tokens) in enumerate(part):
            engine.submit(ask(str(index), prompt, tokens))
        while engine.has_work:
            for name, item in engine.step():
                if isinstance(item, Exception):
                    raise item
                outputs[int(name)] += item.token_ids
        taken = time.perf_counter() - began
    return taken, outputs


def run_peer(model: Any, requests: Requests, attention: str, scale: Scale) -> tuple[float, list[list[int]]]:
    """Seconds of the peer's whole run, its set-up and warm-up excluded; and the tokens."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    model.set_attn_implementation(attention)
    settings: dict[str, Any] = {"eos_token_id": -1, "pad_token_id": 0, "max_new_tokens": scale.most_tokens}
    greedy = GenerationConfig(do_sample=False, **settings)  # type: ignore[no-untyped-call]
    cuda = scale.device == "cuda"
    settings = {"use_cuda_graph": True, "use_async_batching": True} if cuda else {"num_blocks": 8}
    manager = model.init_continuous_batching(
        generation_config=greedy, continuous_batching_config=ContinuousBatchingConfig(**settings)
    )
    manager.start()
    try:
        taken = 0.0
        outputs: list[list[int]] = []
        for turn, part in enumerate((requests[: max(len(requests) // 8, 1)], requests)):
            began = time.perf_counter()
            for index, (prompt, tokens) in enumerate(part):
                manager.add_request(prompt, request_id=f"{turn}-{index}", max_new_tokens=tokens)
            outputs = [[] for _ in part]
            left = len(part)
            while left:
                result = manager.get_result(timeout=60.0)
                if result is None or result.error:
                    raise RuntimeError(f"transformers' generation ended: {None if result is None else result.error}")
                if result.is_finished():
                    outputs[int(result.request_id.split("-")[1])] = list(result.generated_tokens)
                    left -= 1
            taken = time.perf_counter() - began
        return taken, outputs
    finally:
        manager.stop(block=True)


def throughput(bench: Bench) -> None:
    """Both, one after the other; tokens per second, and how far their greedy outputs agree."""
    scale = bench.scale
    spec = scale.small
    requests = make_requests(spec, scale, bench.seed)
    tokens = sum(count for _, count in requests)
    model = make_peer(spec, scale, bench.seed)
    ours, mine = run_ours(model, requests, scale)
    gc.collect()
    if scale.device == "cuda":
        torch.cuda.empty_cache()
    peers: dict[str, Any] = {}
    theirs: list[list[int]] = []
    trial = requests[: max(len(requests) // 4, 1)]
    for attention in ATTENTION if scale.device == "cuda" else ATTENTION[-1:]:
        try:
            peers[attention] = run_peer(model, trial, attention, scale)[0]
        except Exception as error:  # an implementation that is not installed
            peers[attention] = f"{type(error).__name__}: {error}"[:300]
    working = {name: value for name, value in peers.items() if isinstance(value, float)}
    assert working, f"no attention implementation of transformers works here: {peers}"
    best = min(working, key=working.__getitem__)
    taken, theirs = run_peer(model, requests, best, scale)
    same = sum(_agree(a, b) for a, b in zip(mine, theirs, strict=True)) / tokens
    bench.figures["throughput_vs_transformers_cb"] = taken / ours
    bench.detail["throughput"] = {
        "requests": len(requests), "output_tokens": tokens, "ours_s": ours, "transformers_s": taken,
        "ours_tokens_per_s": tokens / ours, "transformers_tokens_per_s": tokens / taken, "attention": best,
        "trials": peers, "tokens_before_outputs_part": same,
    }  # fmt: skip


def _agree(a: list[int], b: list[int]) -> int:
    """Tokens before two outputs part: in half types two right engines part at near ties."""
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
