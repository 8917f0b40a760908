"""Engines side by side, each in a process of its own: `python -m benchmarks.engine_peers NAME`, JSON lines in and out.

Owns how each peer is loaded and fed. Peers are never dependencies of the product: one that is not installed is absent.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from benchmarks.engine_programs import Load, Peer, drive, run_batch

PACKAGES = {"tenuto": "torch", "transformers": "transformers", "openvino": "openvino-genai"}
MAX_BATCH = 32
TOKEN_BUDGET = 512


@dataclass(frozen=True, slots=True)
class Setup:
    """What a peer is told: model directory, its GGUF, number type, threads, tokens of KV memory."""

    directory: str
    gguf: str
    dtype: str
    threads: int
    kv_tokens: int


class Tenuto(Peer):
    """This project's engine, told of programs: order by program, and a lease for each pause."""

    def __init__(self, setup: Setup) -> None:
        from engine.config import BLOCK_TOKENS, EngineConfig
        from engine.loading import load_engine

        config = EngineConfig(
            setup.directory,
            dtype=setup.dtype,
            threads=setup.threads,
            kv_blocks=setup.kv_tokens // BLOCK_TOKENS,
            max_running=MAX_BATCH,
            token_budget=TOKEN_BUDGET,
            lease_share=0.95,
        )
        self._engine = load_engine(config)
        self._outputs: dict[str, list[int]] = {}
        self._computed = 0

    def submit(self, name: str, prompt: list[int], tokens: int, program: str = "", order: int = 0) -> None:
        from engine.protocol import GenerateRequest, SamplingParams

        self._outputs[name] = []
        sampling = SamplingParams(max_tokens=tokens, ignore_eos=True)
        key = (float(order),)
        request = GenerateRequest(name, program, prompt_ids=tuple(prompt), sampling=sampling, key=key)
        self._engine.submit(replace(request, expected_tokens=tokens))

    def poll(self, wait_s: float) -> list[tuple[str, list[int]]]:
        from engine.protocol import EngineError, LeaseOutcome

        ended = []
        for name, item in self._engine.step():
            if isinstance(item, EngineError):
                raise item
            self._outputs[name] += item.token_ids
            if item.finish is not None:
                ended.append((name, self._outputs.pop(name)))
                assert item.usage is not None
                self._computed += item.usage.prompt_tokens - item.usage.cached_tokens
                self._engine.release(name.partition(":")[0], LeaseOutcome.HANDOFF)
        return ended

    @property
    def busy(self) -> bool:
        return self._engine.has_work

    def pauses(self, program: str, chain: list[int], order: int) -> None:
        from engine.protocol import Lease

        self._engine.retain(Lease(program, program, tuple(chain), ttl_s=60.0, rank=-float(order)))

    def computed_tokens(self) -> int:
        return self._computed


class Transformers(Peer):
    """transformers' continuous batching: sdpa, prefix sharing on, pages of 32 tokens (faster here than 64 to 256)."""

    PAGE = 32

    def __init__(self, setup: Setup) -> None:
        import torch
        import transformers
        from transformers.generation.configuration_utils import ContinuousBatchingConfig

        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(setup.threads)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            setup.directory, dtype=getattr(torch, setup.dtype), attn_implementation="sdpa"
        ).eval()
        config = ContinuousBatchingConfig(
            page_size=self.PAGE,
            num_blocks=setup.kv_tokens // self.PAGE,
            max_batch_tokens=TOKEN_BUDGET,
            max_requests_per_batch=MAX_BATCH,
        )
        greedy = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=64)
        self._manager = model.init_continuous_batching(generation_config=greedy, continuous_batching_config=config)
        self._manager.start()
        self._live: set[str] = set()

    def submit(self, name: str, prompt: list[int], tokens: int, program: str = "", order: int = 0) -> None:
        self._live.add(name)
        self._manager.add_request(prompt, request_id=name, max_new_tokens=tokens)

    def poll(self, wait_s: float) -> list[tuple[str, list[int]]]:
        result = self._manager.get_result(timeout=max(wait_s, 1e-3))
        if result is None:
            if not self._manager.is_running():
                raise RuntimeError("transformers' generation thread ended")
            return []
        if result.error:
            raise RuntimeError(f"transformers: {result.error}")
        if not result.is_finished():
            return []
        self._live.discard(result.request_id)
        return [(result.request_id, list(result.generated_tokens))]

    @property
    def busy(self) -> bool:
        return bool(self._live)

    def close(self) -> None:
        self._manager.stop(block=True)


class OpenVino(Peer):
    """openvino-genai's continuous batching with prefix caching.

    Whole prompts at once: with `dynamic_split_fuse` it admits more prompts than fit and computes them in vain, five
    times slower or worse when memory is short.
    Under pressure it may give a request up as IGNORED; a client has to ask again, and so does this one.
    """

    BLOCK = 32

    def __init__(self, setup: Setup) -> None:
        import openvino_genai

        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = setup.kv_tokens // self.BLOCK
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = False
        scheduler.max_num_seqs = MAX_BATCH
        scheduler.max_num_batched_tokens = 4 * TOKEN_BUDGET  # at least the longest prompt
        precision = {"bfloat16": "bf16", "float32": "f32", "float16": "f16"}[setup.dtype]
        properties = {
            "INFERENCE_PRECISION_HINT": precision,
            "KV_CACHE_PRECISION": precision,
            "INFERENCE_NUM_THREADS": setup.threads,
        }
        self._pipe = openvino_genai.ContinuousBatchingPipeline(setup.gguf, scheduler, "CPU", properties)
        self._live: dict[str, Any] = {}
        self._asked: dict[str, tuple[list[int], int]] = {}
        self._numbers = 0
        self.given_up = 0
        self._dead: list[Any] = []

    def submit(self, name: str, prompt: list[int], tokens: int, program: str = "", order: int = 0) -> None:
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.ignore_eos = True
        config.do_sample = False
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        self._numbers += 1
        self._asked[name] = (prompt, tokens)
        self._live[name] = self._pipe.add_request(self._numbers, ids, config)

    def poll(self, wait_s: float) -> list[tuple[str, list[int]]]:
        import openvino_genai

        self._pipe.step()
        ended = []
        for name, handle in list(self._live.items()):
            status = handle.get_status()
            if status == openvino_genai.GenerationStatus.FINISHED:
                ended.append((name, list(handle.read_all()[0].generated_ids)))
                del self._live[name]
            elif status == openvino_genai.GenerationStatus.IGNORED:
                self.given_up += 1
                self._dead.append(self._live.pop(name))  # the pipeline may still look at it
                self.submit(name, *self._asked[name])
            elif status != openvino_genai.GenerationStatus.RUNNING:
                raise RuntimeError(f"openvino: request {name} ended as {status}")
        return ended

    @property
    def busy(self) -> bool:
        return bool(self._live)


PEERS: dict[str, Callable[[Setup], Peer]] = {
    "tenuto": Tenuto,
    "transformers": Transformers,
    "openvino": OpenVino,
}


def version(name: str) -> str:
    """The version of a peer's package; "absent" if it is not installed."""
    try:
        return importlib.metadata.version(PACKAGES[name])
    except importlib.metadata.PackageNotFoundError:
        return "absent"


class Child:
    """A peer in its own process. Its memory is its own, and it does nothing between commands."""

    def __init__(self, name: str, setup: Setup) -> None:
        self.name = name
        environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads), "GOMP_SPINCOUNT": "10000"}
        command = [sys.executable, "-m", "benchmarks.engine_peers", name]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=environment
        )
        self._tell({field: getattr(setup, field) for field in Setup.__dataclass_fields__})

    def ready(self) -> None:
        """Wait until it is loaded and warm; call once, before anything else."""
        self._answer()

    def batch(self, size: int, prompt: int, tokens: int, seed: int, vocab: int) -> dict[str, Any]:
        self._tell({"do": "batch", "size": size, "prompt": prompt, "tokens": tokens, "seed": seed, "vocab": vocab})
        return self._answer()

    def programs(self, load: Load, seed: int, *, hold: bool, limit_s: float) -> dict[str, Any]:
        sizes = {field: getattr(load, field) for field in Load.__dataclass_fields__}
        self._tell({"do": "programs", "load": sizes, "seed": seed, "hold": hold, "limit_s": limit_s})
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> int:
    """Serve one peer: the first line is its `Setup`, each further one a command."""
    # What libraries print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines = iter(sys.stdin.readline, "")
    peer = PEERS[sys.argv[1]](Setup(**json.loads(next(lines))))
    _warm_up(peer)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in lines:
        message = json.loads(line)
        if message.pop("do") == "batch":
            seconds, outputs = run_batch(peer, **message)
            answer: dict[str, Any] = {"seconds": seconds, "outputs": outputs}
        else:
            load = Load(**message["load"])
            hold = load.kv_tokens if message["hold"] else 0
            outcome = drive(
                peer, load.make(message["seed"]), hold_tokens=hold, shared=load.shared, limit_s=message["limit_s"]
            )
            answer = {field: getattr(outcome, field) for field in outcome.__dataclass_fields__}
            if isinstance(peer, OpenVino):
                answer["given_up"] = peer.given_up
        print(json.dumps(answer), file=answers, flush=True)
    peer.close()
    return 0


def _warm_up(peer: Peer) -> None:
    """Run each kind of work once: small and large batches, a long prompt."""
    rng = random.Random(-1)
    for size, prompt in ((1, 200), (MAX_BATCH, 20)):
        run_batch(peer, size, prompt, 3, rng.randrange(1 << 30), 1000)


if __name__ == "__main__":
    sys.exit(main())
