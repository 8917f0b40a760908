"""Trains the bundled model from scratch: examples to batches by length, the loss on answers only, a cosine schedule.

Owns the model's size and the training loop. Never draws questions and never runs SQL.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from examples.text_to_sql.train.tokenizer import EOS, PAD, save_tokenizer

IGNORED = -100
LENGTH_STEP = 8
"""Lengths are rounded up to a multiple of this: each new shape costs the CPU's matrix library some seconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train: steps of `batch` examples, the peak learning rate, and when the moving average begins to count."""

    steps: int
    batch: int = 160
    rate: float = 3e-3
    warmup: int = 60
    average: float = 0.998
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """One training example: the prompt's token ids and the answer's, which end with the end-of-answer token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a model is: 4.3 M parameters."""

    width: int = 256
    inner: int = 768
    layers: int = 5
    heads: int = 8
    kv_heads: int = 4
    spread: float = 0.03


def new_model(tokenizer: Tokenizer, shape: Shape = Shape()) -> LlamaForCausalLM:
    """A Llama with tied embeddings."""
    config: Any = LlamaConfig(  # type: ignore[call-arg]
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=32,
        max_position_embeddings=512,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        attn_implementation="eager",  # on a CPU, in bf16, 1.4 times faster than sdpa at these lengths
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD),
        initializer_range=shape.spread,
    )
    return LlamaForCausalLM(config)


def _id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a control token, which the tokenizer is sure to have."""
    found = tokenizer.token_to_id(token)
    assert found is not None
    return int(found)


def encode(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[Tokens]:
    """Prompts and answers as token ids."""
    end = _id(tokenizer, EOS)
    prompts = tokenizer.encode_batch([prompt for prompt, _ in pairs], add_special_tokens=False)
    answers = tokenizer.encode_batch([answer for _, answer in pairs], add_special_tokens=False)
    return [Tokens(tuple(p.ids), (*a.ids, end)) for p, a in zip(prompts, answers, strict=True)]


def batches(examples: list[Tokens], size: int, rng: random.Random) -> Iterator[list[Tokens]]:
    """Endless batches of examples of like length, in random order."""
    while True:
        order = list(range(len(examples)))
        rng.shuffle(order)
        chunk = size * 50
        groups = []
        for start in range(0, len(order) - size + 1, chunk):
            piece = sorted(
                order[start : start + chunk], key=lambda i: len(examples[i].prompt) + len(examples[i].answer)
            )
            groups += [piece[at : at + size] for at in range(0, len(piece) - size + 1, size)]
        rng.shuffle(groups)
        for group in groups:
            yield [examples[index] for index in group]


def collate(batch: list[Tokens], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both [batch, length], padded on the right; the prompt's labels are ignored."""
    longest = max(len(one.prompt) + len(one.answer) for one in batch)
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP + 1
    ids = torch.full((len(batch), length), pad)
    labels = torch.full((len(batch), length), IGNORED)
    for row, one in enumerate(batch):
        whole = len(one.prompt) + len(one.answer)
        ids[row, :whole] = torch.tensor(one.prompt + one.answer)
        labels[row, len(one.prompt) : whole] = torch.tensor(one.answer)
    return ids.to(device), labels.to(device)


def answer_loss(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the answers' tokens."""
    logits = model(ids[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


def optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the layers' matrices with AdamW's scale of steps, AdamW for the rest."""
    matrices = [
        p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name
    ]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name or "lm_head" in name]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def schedule(step: int, settings: Settings) -> float:
    """The share of the peak rate at `step`: a linear warm-up, then a cosine down to 2 %."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def train(
    model: LlamaForCausalLM, tokenizer: Tokenizer, examples: list[Tokens], settings: Settings, device: torch.device
) -> LlamaForCausalLM:
    """Train `model` in place; it ends with the moving average of its weights."""
    rng = random.Random(settings.seed)
    nn.Module.to(model, device).train()
    optims = optimizers(model, settings.rate)
    pad = _id(tokenizer, PAD)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    began, seen, running = time.perf_counter(), 0, 0.0
    source = batches(examples, settings.batch, rng)
    for step in range(settings.steps):
        ids, labels = collate(next(source), pad, device)
        for optimizer in optims:
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * schedule(step, settings)
        with torch.autocast(device.type, torch.bfloat16):
            loss = answer_loss(model, ids, labels)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optims:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(settings.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, p in model.named_parameters():
                average[name].lerp_(p, 1 - decay)
        seen += len(ids)
        running = loss.item() if not step else 0.95 * running + 0.05 * loss.item()
        if step % 25 == 0 or step == settings.steps - 1:
            speed = seen / (time.perf_counter() - began)
            print(f"step {step:5d}  loss {running:.4f}  {speed:.0f} examples/s", flush=True)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(average[name])
    model.train(False)
    return model


def save(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    folder: Path,
    write_tokenizer: Callable[[Tokenizer, Path], None] = save_tokenizer,
) -> None:
    """Write the model directory in half precision: config, weights, tokenizer, generation settings."""
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.token_to_id(EOS)
    half: Any = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    generation = {
        "eos_token_id": end,
        "pad_token_id": tokenizer.token_to_id(PAD),
        "do_sample": False,
        "max_new_tokens": 128,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    write_tokenizer(tokenizer, folder)
