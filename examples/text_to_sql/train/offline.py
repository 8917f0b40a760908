"""Offline evaluation without the engine: greedy single shots, and the program (candidates, repair, vote) simulated.

Owns batched sampling with transformers' weights under the SQL grammar. Never trains.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llguidance
import llguidance.torch as llgtorch
import torch
from llguidance.hf import from_tokenizer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from examples.text_to_sql.answers import FIRST_BONUS
from examples.text_to_sql.database import SqlError, run_sql, vote_key
from examples.text_to_sql.evaluate import execution_match
from examples.text_to_sql.faults import TRUST, doubt
from examples.text_to_sql.linking import Linked, Linker, LinkError, restore
from examples.text_to_sql.sql_grammar import SQL_GRAMMAR
from examples.text_to_sql.train.tokenizer import prompt


@dataclass(frozen=True, slots=True)
class Question:
    """One evaluation question with its gold SQL."""

    id: str
    question: str
    sql: str
    order_matters: bool
    level: str = ""


class Writer:
    """Writes SQL for prompts, in batches, greedily or by sampling, within the grammar."""

    def __init__(self, folder: Path, constrained: bool = True) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self._model.train(False)
        self._end = int(self._model.config.eos_token_id)
        self._constrained = constrained
        fast: Any = PreTrainedTokenizerFast
        hf = fast(tokenizer_object=self.tokenizer, eos_token="<eos>", pad_token="<pad>")
        self._guide = from_tokenizer(hf)

    @torch.no_grad()
    def write(self, prompts: list[str], temperature: float, seed: int, limit: int = 110) -> list[str]:
        """One completion for each prompt."""
        found: list[str] = []
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), 256):
            rows = order[start : start + 256]
            found += self._batch([prompts[row] for row in rows], temperature, seed + start, limit)
        back = dict(zip(order, found, strict=True))
        return [back[index] for index in range(len(prompts))]

    def _batch(self, prompts: list[str], temperature: float, seed: int, limit: int) -> list[str]:
        ids = [self.tokenizer.encode(text, add_special_tokens=False).ids for text in prompts]
        width = max(map(len, ids))
        count = len(ids)
        tokens = torch.zeros((count, width), dtype=torch.long)
        mask = torch.zeros((count, width), dtype=torch.long)
        for row, one in enumerate(ids):
            tokens[row, width - len(one) :] = torch.tensor(one)
            mask[row, width - len(one) :] = 1
        generator = torch.Generator().manual_seed(seed)
        grammar = llguidance.LLMatcher.grammar_from_lark(SQL_GRAMMAR)
        first = llguidance.LLMatcher(self._guide, grammar)
        matchers = [first.deep_copy() for _ in range(count)]
        bitmask = llgtorch.allocate_token_bitmask(count, self._guide.vocab_size)
        done = [False] * count
        written: list[list[int]] = [[] for _ in range(count)]
        past = None
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        inputs, where = tokens, positions
        for _ in range(limit):
            out = self._model(inputs, attention_mask=mask, position_ids=where, past_key_values=past, use_cache=True)
            past = out.past_key_values
            logits = out.logits[:, -1].float()
            if self._constrained:
                for row, matcher in enumerate(matchers):
                    if not done[row]:
                        llgtorch.fill_next_token_bitmask(matcher, bitmask, row)
                llgtorch.apply_token_bitmask_inplace(logits, bitmask)
            if temperature:
                chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
            else:
                chosen = logits.argmax(-1)
            for row in range(count):
                token = int(chosen[row])
                if done[row]:
                    continue
                if token == self._end:
                    done[row] = True
                    continue
                written[row].append(token)
                if self._constrained:
                    matchers[row].consume_token(token)
            if all(done):
                break
            inputs = chosen[:, None]
            where = where[:, -1:] + 1
            mask = torch.cat([mask, torch.ones((count, 1), dtype=torch.long)], 1)
        return [self.tokenizer.decode(one) for one in written]


@dataclass(slots=True)
class Try:
    """One candidate: its linking, SQL with placeholders, and how running it ended ('' or a fault's name)."""

    linked: Linked
    raw: str
    sql: str
    fault: str
    key: str


def attempt(database: Path, linked: Linked, raw: str) -> Try:
    """Restore and run one candidate."""
    try:
        sql = restore(raw, linked.values)
    except LinkError:
        return Try(linked, raw, "", "placeholder", "")
    try:
        result = run_sql(database, sql)
    except SqlError:
        return Try(linked, raw, sql, "error", "")
    fault = doubt(linked, raw, result.rows)
    return Try(linked, raw, sql, fault, vote_key(result.rows, "ORDER BY" in sql))


def repair_prompt(text: str, raw: str, fault: str) -> str:
    """The prompt for mending one candidate that failed."""
    return prompt("<repair>", f"{text}<bad> {raw}<err> {fault}")


def run_program(
    writer: Writer, linker: Linker, database: Path, questions: list[str], candidates: int, temperature: float, seed: int
) -> list[str]:
    """The program for many questions at once: candidates over the likeliest linkings, two rounds of repair, a vote."""
    owners: list[int] = []
    links: list[Linked] = []
    first: set[int] = set()
    for index, question in enumerate(questions):
        linked = linker.link(question)
        readings = [linked] * (candidates - len(linked.alternatives[:2])) + list(linked.alternatives[:2])
        first.add(len(owners))
        owners += [index] * len(readings)
        links += readings
    prompts = [prompt("<sql>", linked.text) for linked in links]
    sampled = writer.write(prompts, temperature, seed)
    greedy = writer.write([prompts[at] for at in sorted(first)], 0.0, seed)
    for at, text in zip(sorted(first), greedy, strict=True):
        sampled[at] = text
    tries = [attempt(database, linked, raw) for linked, raw in zip(links, sampled, strict=True)]
    for turn in range(2):
        broken = [at for at, one in enumerate(tries) if one.fault]
        again = writer.write(
            [repair_prompt(tries[at].linked.text, tries[at].raw, tries[at].fault) for at in broken],
            0.0 if not turn else temperature,
            seed + turn,
        )
        for at, raw in zip(broken, again, strict=True):
            mended = attempt(database, tries[at].linked, raw)
            if TRUST.get(mended.fault, 0.0) > TRUST.get(tries[at].fault, 0.0):
                tries[at] = mended
    return [_vote([one for at, one in enumerate(tries) if owners[at] == index]) for index in range(len(questions))]


def _vote(tries: list[Try]) -> str:
    """The SQL whose result most candidates share; the first (greedy) one counts more, doubtful results little."""
    weights: Counter[str] = Counter()
    for at, one in enumerate(tries):
        if one.fault in ("error", "placeholder"):
            continue
        weights[one.key] += int(1000 * TRUST[one.fault]) + (0 if at else int(1000 * FIRST_BONUS))
    if not weights:
        return tries[0].sql
    best = weights.most_common(1)[0][0]
    return next(one.sql for one in tries if one.key == best and one.sql)


def accuracy(database: Path, questions: list[Question], predicted: list[str]) -> list[bool]:
    """Which predictions give the gold result."""
    return [execution_match(database, q.sql, sql, q.order_matters) for q, sql in zip(questions, predicted, strict=True)]
