"""`python -m examples.rag.train --out DIR`: makes the bundled model for documents from a seed, in under half an hour on
two CPU cores.

A small Llama that learns two tasks: which searches a question asks for, and which sentence of a passage answers one.
"""

from __future__ import annotations

import argparse
import random
import textwrap
import time
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from examples.rag.corpus import World, render
from examples.rag.prompts import NONE, PLAN, QUOTE
from examples.rag.train import questions, reading
from examples.rag.wording import known_words
from examples.text_to_sql.train.tokenizer import ANSWER, EOS, PAD, save_tokenizer, train_tokenizer
from examples.text_to_sql.train.training import Settings, Shape, encode, new_model, save, train

SPECIAL = (PAD, EOS, ANSWER, PLAN, QUOTE, "<in>", *(f"<task{index}>" for index in range(10)))
VOCABULARY = 1024
SHAPE = Shape(width=160, inner=480, layers=4, heads=5, kv_heads=5, spread=0.04)
"""1.5 M parameters."""
_PIECES = r"\[\d\]| ?\[\d\]| ?[\p{L}]+\p{N}?| ?\p{N}| ?[^\s\p{L}\p{N}_]|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ message['content'].split('<normal>')[-1] }}<answer>"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}<eos>{% endif %}{% endfor %}"
)
"""System messages, and what stands before `<normal>`, are for general models."""
_COMMON = """\
a an in on at for by with from to and or not no is are was were be been has have had do does did it its this
that these those there here what which who whom whose when where why how many much more most less least than
then as if of the i you we they he she me us them my your our their one two three four five six seven eight
nine ten first second third last next all any some each every both few several other another such same also
only just about over under between into after before during since until very too can could will would shall
should may might must please"""


def main() -> None:
    """Parse the command line, draw the examples, train and write the model directory."""
    parser = argparse.ArgumentParser(prog="python -m examples.rag.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the model directory to write")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="go on from this model directory, at a lower rate")
    parser.add_argument("--vocabulary", type=Path, help="write the known words here, and end")
    chosen = parser.parse_args()
    if chosen.vocabulary is not None:
        chosen.vocabulary.write_text(textwrap.fill(" ".join(sorted(vocabulary())), 118) + "\n")
        return
    make(chosen.out, chosen.steps, chosen.batch, chosen.seed, chosen.start)


def vocabulary() -> set[str]:
    """The words that stay themselves in the normal form: those of the templates, and the commonest of English."""
    return questions.vocabulary() | reading.vocabulary() | set(_COMMON.split())


def make(out: Path, steps: int, batch: int, seed: int, start: Path | None = None) -> None:
    """Make the model directory `out`."""
    began = time.perf_counter()
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = random.Random(seed)
    world = World()
    examples = draw(world, steps * batch, rng)
    print(f"{time.perf_counter() - began:5.0f} s  {len(examples)} examples drawn", flush=True)
    if start is None:
        tokenizer, rate = learn_tokenizer(examples[:20_000], world), 4e-3
        model = new_model(tokenizer, SHAPE)
    else:
        tokenizer, rate = Tokenizer.from_file(str(start / "tokenizer.json")), 1.2e-3
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32, attn_implementation="eager")
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    settings = Settings(steps=steps, batch=batch, rate=rate, average=0.997, seed=seed)
    train(model, tokenizer, encode(tokenizer, examples), settings, torch.device("cpu"))
    save(model, tokenizer, out, partial(save_tokenizer, special=SPECIAL, template=CHAT_TEMPLATE))
    print(f"{time.perf_counter() - began:5.0f} s  done", flush=True)


def draw(world: World, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Prompts and answers of both tasks."""
    reader, known = reading.Reader(world), known_words()
    examples = []
    for _ in range(count):
        if rng.random() < 0.4:
            question, searches = questions.draw(rng)
            examples.append((f"{PLAN} {question}{ANSWER}", searches))
        else:
            prompt, answer = reader.draw(rng, known)
            examples.append((f"{QUOTE} {prompt}{ANSWER}", answer))
    return examples


def learn_tokenizer(examples: list[tuple[str, str]], world: World) -> Tokenizer:
    """Byte-level BPE over the normal forms, and over the corpus itself: quotes are written in its words."""
    corpus = (sentence.text for page in render(world)[::8] for part in page.paragraphs for sentence in part)
    texts = [text for example in examples for text in example] + [NONE] * 50 + [f"[{n}]" for n in range(1, 10)] * 50
    return train_tokenizer([*texts, *corpus], _PIECES, SPECIAL, VOCABULARY)


if __name__ == "__main__":
    main()
