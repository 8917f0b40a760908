"""From a model directory to a running engine: the one place that joins spec, weights, tokenizer, runner and core."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

import torch

from engine.checked import CheckedRunner, Inspectable
from engine.clock import Clock, SystemClock
from engine.config import BLOCK_TOKENS, EngineConfig, ModelSpec, read_spec
from engine.local import LocalEngine
from engine.lora import ActiveAdapters, AdapterPool, adapted
from engine.models.decoder import Decoder, Weights
from engine.ops.torch_ops import TorchOps
from engine.protocol import ModelInfo, ModelLoadError
from engine.runner import ModelRunner
from engine.sequence import blocks_for
from engine.text import TextCodec
from engine.weights import load_weights


def load_engine(config: EngineConfig, clock: Clock | None = None) -> LocalEngine:
    """Load the model of `config` and build its engine, in the thread that will run it. Raises `ModelLoadError`."""
    directory = model_directory(config.model)
    spec = read_spec(directory)
    codec = TextCodec(directory)
    if codec.vocab_size > spec.vocab_size:
        raise ModelLoadError(
            f"{directory / 'tokenizer.json'}: has {codec.vocab_size} ids, the model's vocabulary {spec.vocab_size}"
        )
    device = _device(config)
    dtype = _dtype(config, spec, device)
    if device.type == "cpu":
        # More threads only wait for each other when a step is mostly overhead.
        torch.set_num_threads(config.threads or (1 if spec.is_small else len(os.sched_getaffinity(0))))
    try:
        weights = load_weights(directory, spec, dtype, device)
    except MemoryError as error:
        raise ModelLoadError(f"{directory}: no memory for the weights: {error}") from None
    adapters, active = None, None
    if config.adapters:
        paths = {adapter: Path(path) for adapter, path in config.adapters}
        adapters = AdapterPool(paths, spec, dtype, device, config.adapters_kept)
        active = ActiveAdapters()
        weights = adapted(weights, active)
    name = str(dtype).removeprefix("torch.")
    token_bytes = spec.kv_bytes_per_token(name)
    context = min(config.context_tokens or spec.context_tokens, spec.context_tokens)
    blocks = config.kv_blocks or min(
        config.kv_bytes // (token_bytes * BLOCK_TOKENS), config.max_running * blocks_for(context)
    )
    if blocks < 1:
        raise ModelLoadError(f"kv_bytes {config.kv_bytes} holds no block of {token_bytes * BLOCK_TOKENS} bytes")
    host_blocks = config.host_blocks or config.host_bytes // (token_bytes * BLOCK_TOKENS)
    context = min(context, blocks * BLOCK_TOKENS)
    try:
        runner = make_runner(
            spec,
            weights,
            blocks=blocks,
            max_running=config.max_running,
            context_tokens=context,
            host_blocks=host_blocks,
            adapters=active,
            compile=config.compile,
        )
    except (RuntimeError, MemoryError) as error:
        raise ModelLoadError(f"no memory for {blocks} KV blocks and {host_blocks} on the host: {error}") from None
    info = ModelInfo(config.name or directory.resolve().name, context, spec.vocab_size, token_bytes)
    eos_ids = tuple(dict.fromkeys(spec.eos_ids + codec.eos_ids))
    return LocalEngine(
        config,
        info,
        CheckedRunner(runner) if config.debug else runner,
        codec,
        clock or SystemClock(),
        blocks=blocks,
        host_blocks=host_blocks,
        eos_ids=eos_ids,
        adapters=adapters,
    )


def model_directory(model: str) -> Path:
    """The directory of a model: itself, or, for the id of one on the hub, where its files are once downloaded."""
    directory = Path(model)
    if directory.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model):
        return directory
    from huggingface_hub import snapshot_download

    try:
        # Weights as safetensors only: pickled ones are never read.
        files = ["*.json", "*.jinja", "model*.safetensors"]
        return Path(snapshot_download(model, allow_patterns=files))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ModelLoadError(
            f"{model}: no such directory, and the hub does not give it: {type(error).__name__}: {error}"
        ) from None


def make_runner(
    spec: ModelSpec,
    weights: Weights,
    *,
    blocks: int,
    max_running: int,
    context_tokens: int,
    host_blocks: int = 0,
    adapters: ActiveAdapters | None = None,
    compile: bool = False,
) -> Inspectable:
    """What runs the model where its weights are: Triton's kernels on CUDA, torch elsewhere and without Triton."""
    like = weights.embedding
    if compile and like.device.type != "cpu":
        raise ModelLoadError("compile is for CPUs: on CUDA the kernels are compiled as they are. Leave it out")
    if like.device.type == "cuda" and find_spec("triton") is not None:
        from engine.device_runner import DeviceRunner
        from engine.ops.triton_ops import TritonOps

        return DeviceRunner(
            Decoder(spec, weights, TritonOps(spec, like, context_tokens)),
            blocks=blocks,
            max_running=max_running,
            context_tokens=context_tokens,
            host_blocks=host_blocks,
            adapters=adapters,
        )
    return ModelRunner(
        Decoder(
            spec, weights, _compiled(spec, like, context_tokens) if compile else TorchOps(spec, like, context_tokens)
        ),
        blocks=blocks,
        max_running=max_running,
        context_tokens=context_tokens,
        host_blocks=host_blocks,
        adapters=adapters,
    )


def _compiled(spec: ModelSpec, like: torch.Tensor, context_tokens: int) -> TorchOps:
    from engine.ops.compiled import CompiledOps

    try:
        return CompiledOps(spec, like, context_tokens)
    except Exception as error:  # of the compiler, or of what it calls
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelLoadError(f"compile: torch's compiler does not work here: {reason[0]}. Leave it out") from None


def _device(config: EngineConfig) -> torch.device:
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # kernels are launched on the current one
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {config.device!r} cannot be used: {error}") from None
    return device


def _dtype(config: EngineConfig, spec: ModelSpec, device: torch.device) -> torch.dtype:
    name = config.dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else spec.dtype
    dtype: torch.dtype = getattr(torch, name)
    return dtype
