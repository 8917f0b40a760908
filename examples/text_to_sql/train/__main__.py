"""`python -m examples.text_to_sql.train`: makes the bundled model from a seed, in under an hour on two CPU cores.

Three stages: questions to SQL; both tasks, with repairs of edited SQL and of the model's own mistakes; the same once
more, with mistakes made on questions that lost words. The weights are the mean of the last two stages'.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import textwrap
import time
from pathlib import Path

import torch
from torch import Tensor

from examples.text_to_sql import geography
from examples.text_to_sql.train.dataset import Example, Generator, draw_training
from examples.text_to_sql.train.offline import Writer
from examples.text_to_sql.train.repairs import repairs, thin
from examples.text_to_sql.train.tokenizer import prompt, train_tokenizer
from examples.text_to_sql.train.training import Settings, encode, new_model, save, train

WORKERS = 2
_TOKENIZER_EXAMPLES = 40_000
_MISTAKEN = 5_000
_EDITED = 16_000
_REPAIRED_SHARE = 0.2
_VOCABULARY_QUESTIONS = 60_000


def main() -> None:
    """Parse the command line, make the data, train the stages and write the model directory."""
    parser = argparse.ArgumentParser(prog="python -m examples.text_to_sql.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument(
        "--steps", type=int, default=1500, help="steps of the first stage; the others take 30 and 21 %%"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--vocabulary", type=Path, help="write the known words here too (data/vocabulary.txt is one such)"
    )
    chosen = parser.parse_args()
    name = ("cuda" if torch.cuda.is_available() else "cpu") if chosen.device == "auto" else chosen.device
    make(chosen.out, chosen.steps, chosen.seed, torch.device(name))
    if chosen.vocabulary is not None:
        write_vocabulary(chosen.vocabulary)


def make(out: Path, steps: int, seed: int, device: torch.device) -> None:
    """Make the model directory `out`."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    first = Settings(steps=steps, seed=seed)
    stages = [
        (Settings(steps=max(1, steps * 30 // 100), rate=1.5e-3, average=0.995, seed=seed + 1), 0.0, 1.5),
        (Settings(steps=max(1, steps * 21 // 100), rate=1.2e-3, average=0.99, seed=seed + 2), 0.25, 1.2),
    ]
    with tempfile.TemporaryDirectory() as folder:
        database = geography.build(Path(folder) / "geography.db")
        examples = _draw(database, first.steps * first.batch, seed)
        _say(began, f"{len(examples)} questions drawn")
        tokenizer = train_tokenizer(
            text for one in examples[:_TOKENIZER_EXAMPLES] for text in (" " + one.linked.text, one.sql)
        )
        model = new_model(tokenizer)
        train(model, tokenizer, encode(tokenizer, _questions(examples)), first, device)
        save(model, tokenizer, out)
        _say(began, "first stage trained")
        weights: list[dict[str, Tensor]] = []
        for settings, thinning, temperature in stages:
            fresh = _draw(database, settings.steps * settings.batch, settings.seed * 1000)
            mended = _repairs(database, out, fresh, thinning, temperature, settings.seed)
            share = min(len(mended), int(_REPAIRED_SHARE * len(fresh)))
            mixed = encode(tokenizer, [*_questions(fresh[: len(fresh) - share]), *mended[:share]])
            train(model, tokenizer, mixed, settings, device)
            save(model, tokenizer, out)
            weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
            _say(began, f"a stage with {share} repairs trained")
        model.load_state_dict({name: (weights[0][name] + weights[1][name]) / 2 for name in weights[0]})
        save(model, tokenizer, out)
        _say(began, "done")


def write_vocabulary(path: Path) -> None:
    """Write the words of the generator's questions, for `plain.known_words`."""
    with tempfile.TemporaryDirectory() as folder:
        words = Generator(geography.build(Path(folder) / "geography.db")).vocabulary(_VOCABULARY_QUESTIONS, 0)
    path.write_text(textwrap.fill(" ".join(words), 118) + "\n")


def _questions(examples: list[Example]) -> list[tuple[str, str]]:
    return [(prompt("<sql>", one.linked.text), one.sql) for one in examples]


def _draw(database: Path, count: int, seed: int) -> list[Example]:
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        parts = pool.starmap(
            draw_training, [(database, count // WORKERS, seed * WORKERS + index) for index in range(WORKERS)]
        )
    return [example for part in parts for example in part]


def _repairs(
    database: Path, folder: Path, examples: list[Example], thinning: float, temperature: float, seed: int
) -> list[tuple[str, str]]:
    """Repairs of the model's own mistakes when it samples wildly on questions that lost words, and of edited SQL."""
    rng = random.Random(seed)
    chosen = rng.sample(examples, min(_EDITED, len(examples)))
    prompts = [prompt("<sql>", thin(rng, one.linked.text, thinning)) for one in chosen[:_MISTAKEN]]
    mistakes = Writer(folder).write(prompts, temperature, seed)
    found = repairs(database, chosen, mistakes, rng)
    rng.shuffle(found)
    return [(prompt("<repair>", text), sql) for text, sql in found]


def _say(began: float, text: str) -> None:
    print(f"{(time.perf_counter() - began) / 60:5.1f} min  {text}", flush=True)


if __name__ == "__main__":
    main()
