"""`python -m examples.text_to_sql.train`: makes the bundled model from a seed, in about half an hour on two CPU cores.

Two stages: questions to SQL; then both tasks, with repairs of edited SQL and of the first stage's own mistakes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from pathlib import Path

import torch

from examples.text_to_sql import geography
from examples.text_to_sql.train.dataset import Example, Generator
from examples.text_to_sql.train.offline import Writer
from examples.text_to_sql.train.repairs import repairs
from examples.text_to_sql.train.tokenizer import prompt, train_tokenizer
from examples.text_to_sql.train.training import Settings, encode, new_model, save, train

WORKERS = 2
_TOKENIZER_EXAMPLES = 40_000
_SAMPLED = 6_000
_SAMPLING_TEMPERATURE = 1.5
_REPAIRED_SHARE = 0.15


def main() -> None:
    """Parse the command line, make the data, train both stages and write the model directory."""
    parser = argparse.ArgumentParser(prog="python -m examples.text_to_sql.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument(
        "--steps", type=int, default=1500, help="steps of the first stage; the second takes half as many"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    chosen = parser.parse_args()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if chosen.device == "auto" else chosen.device
    make(chosen.out, chosen.steps, chosen.seed, torch.device(name))


def make(out: Path, steps: int, seed: int, device: torch.device) -> None:
    """Make the model directory `out`."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    first, second = Settings(steps=steps, seed=seed), Settings(steps=steps // 2, rate=1.5e-3, seed=seed + 1)
    with tempfile.TemporaryDirectory() as folder:
        database = geography.build(Path(folder) / "geography.db")
        examples = _draw(database, first.steps * first.batch, seed)
        _say(began, f"{len(examples)} questions drawn")
        tokenizer = train_tokenizer(
            text for one in examples[:_TOKENIZER_EXAMPLES] for text in (" " + one.linked.text, one.sql)
        )
        model = new_model(tokenizer)
        pairs = [(prompt("<sql>", one.linked.text), one.sql) for one in examples]
        train(model, tokenizer, encode(tokenizer, pairs), first, device)
        save(model, tokenizer, out)
        _say(began, "first stage trained")
        mended = _repairs(database, out, examples, seed)
        share = int(_REPAIRED_SHARE * second.steps * second.batch)
        mixed = encode(
            tokenizer,
            [*pairs[-(second.steps * second.batch - share) :], *(mended * (1 + share // len(mended)))[:share]],
        )
        train(model, tokenizer, mixed, second, device)
        save(model, tokenizer, out)
        _say(began, f"second stage trained, with {len(mended)} repairs")


def _draw(database: Path, count: int, seed: int) -> list[Example]:
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        parts = pool.starmap(_part, [(database, count // WORKERS, seed * WORKERS + index) for index in range(WORKERS)])
    return [example for part in parts for example in part]


def _part(database: Path, count: int, seed: int) -> list[Example]:
    return list(Generator(database).generate("train", count, seed))


def _repairs(database: Path, folder: Path, examples: list[Example], seed: int) -> list[tuple[str, str]]:
    """Repairs of the model's own mistakes when it samples wildly, and of edited SQL."""
    rng = random.Random(seed)
    chosen = rng.sample(examples, min(2 * _SAMPLED, len(examples)))
    prompts = [prompt("<sql>", one.linked.text) for one in chosen[:_SAMPLED]]
    mistakes = Writer(folder).write(prompts, _SAMPLING_TEMPERATURE, seed)
    found = repairs(database, chosen, mistakes, rng)
    return [(prompt("<repair>", text), sql) for text, sql in found]


def _say(began: float, text: str) -> None:
    print(f"{(time.perf_counter() - began) / 60:5.1f} min  {text}", flush=True)


if __name__ == "__main__":
    main()
