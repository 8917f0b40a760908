"""Does the engine say what the models say? `python -m benchmarks.engine_parity [--json FILE] [--quick] [--seed N]`.

Greedy output in fp32 against transformers, token for token: every family of models, in every way that the scheduler,
the cache and the sampler can bring an output about. And constrained output, which must always parse.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Figure, conditions, finish, parser
from engine.clock import ManualClock
from engine.config import EngineConfig
from engine.kv.cache import CopyKind
from engine.loading import load_engine
from engine.local import LocalEngine
from engine.protocol import EngineError, FinishReason, GenerateRequest, Grammar, GrammarKind, SamplingParams, Usage
from engine.sequence import Sequence
from engine.step import Step
from tests.engine.models import FAMILIES, make_adapter, make_model, merged, reference, reference_greedy

VOCAB = 380
OUTPUT = 24
GROWING = 40
ADAPTERS = ("first", "second")


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt and what transformers makes of it, plain and with each adapter."""

    name: str
    prompt: list[int]
    expected: list[int]
    adapted: dict[str, list[int]]


@dataclass(slots=True)
class Output:
    ids: list[int]
    text: str = ""
    finish: FinishReason | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class Tally:
    """What a mode did: outputs compared, those that differ, and a count that shows that the mode happened at all."""

    compared: int = 0
    mismatches: int = 0
    happened: int = 0

    def compare(self, output: Output, expected: list[int]) -> None:
        self.compared += 1
        self.mismatches += output.ids != expected


def run(engine: LocalEngine, requests: list[GenerateRequest]) -> dict[str, Output]:
    """Serve all requests at once; outputs by request id, further ones of one request as `id#1`, `id#2`."""
    outputs: dict[str, Output] = {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for name, item in engine.step():
            if isinstance(item, EngineError):
                raise item
            output = outputs.setdefault(f"{name}#{item.index}" if item.index else name, Output([]))
            output.ids += item.token_ids
            output.text += item.text
            output.finish, output.usage = item.finish, item.usage
    return outputs


def ask(case: Case, **changes: Any) -> GenerateRequest:
    sampling = SamplingParams(max_tokens=len(case.expected), ignore_eos=True)
    return replace(GenerateRequest(case.name, "p", prompt_ids=tuple(case.prompt), sampling=sampling), **changes)


def engine_for(directory: Path, **settings: Any) -> LocalEngine:
    return load_engine(EngineConfig(str(directory), threads=1, dtype="float32", **settings), ManualClock())


def check_all(engine: LocalEngine, cases: list[Case], tally: Tally, **changes: Any) -> dict[str, Output]:
    outputs = run(engine, [ask(case, **changes) for case in cases])
    for case in cases:
        tally.compare(outputs[case.name], case.expected)
    return outputs


# the ways an output can come about


def plain(directory: Path, cases: list[Case], tally: Tally) -> None:
    """All prompts in one batch."""
    tally.happened = len(check_all(engine_for(directory), cases, tally))


def chunked(directory: Path, cases: list[Case], tally: Tally) -> None:
    """Prompts in pieces of at most 20 tokens, beside others' decodes."""
    engine = engine_for(directory, token_budget=20, max_running=4)
    check_all(engine, cases, tally)
    tally.happened = sum(len(case.prompt) > 20 for case in cases)


def cached(directory: Path, cases: list[Case], tally: Tally) -> None:
    """One after the other, twice: prefixes come from the cache."""
    engine = engine_for(directory)
    for case in cases + cases:
        output = check_all(engine, [case], tally)[case.name]
        tally.happened += output.usage.cached_tokens if output.usage else 0


def preempted(directory: Path, cases: list[Case], tally: Tally) -> None:
    """Memory for a third: outputs are stopped, given up and computed again."""
    # Who expects short outputs admits too many.
    outputs = check_all(engine_for(directory, kv_blocks=_scarce(cases)), cases, tally, expected_tokens=1)
    tally.happened = sum(output.usage.preemptions for output in outputs.values() if output.usage)


def swapped(directory: Path, cases: list[Case], tally: Tally) -> None:
    """The same with a host tier: they are copied out and in again."""
    engine = engine_for(directory, kv_blocks=_scarce(cases), host_blocks=200)
    runner: Any = engine._runner
    copy = runner.copy

    def noted(kind: CopyKind, pairs: Any) -> None:
        tally.happened += len(pairs) if kind is CopyKind.HOST_TO_DEVICE else 0
        copy(kind, pairs)

    runner.copy = noted
    check_all(engine, cases, tally, expected_tokens=1)


def forked(directory: Path, cases: list[Case], tally: Tally) -> None:
    """Three outputs of one prompt, whose last block is shared until they part."""
    outputs = run(engine_for(directory), [ask(case, n=3) for case in cases])
    for case in cases:
        for suffix in ("", "#1", "#2"):
            tally.compare(outputs[case.name + suffix], case.expected)
    tally.happened = len(outputs) - len(cases)


def speculated(directory: Path, cases: list[Case], tally: Tally) -> None:
    """Drafts by prompt lookup, and drafts that are right but for every fifth token: both must change nothing."""
    engine = engine_for(directory, draft_tokens=6)
    lookup: Any = engine._speculator
    oracle = Oracle({tuple(case.prompt): case.expected for case in cases})
    for guesser in (lookup, oracle):
        engine._speculator = guesser
        for case, partner in zip(cases, cases[1:] + cases[:1], strict=True):
            outputs = run(engine, [ask(case), ask(partner, id="partner")])
            tally.compare(outputs[case.name], case.expected)
    tally.happened = oracle.accepted


class Oracle:
    """Stands in for the engine's speculator: knows the outputs, and lies now and then."""

    def __init__(self, outputs: dict[tuple[int, ...], list[int]]) -> None:
        self._outputs = outputs
        self.accepted = 0

    def drafts(self, decoding: Iterable[Sequence]) -> list[tuple[Sequence, tuple[int, ...]]]:
        out = []
        for sequence in decoding:
            expected = self._outputs[tuple(sequence.tokens[: sequence.prompt_tokens])]
            done = sequence.generated
            guess = [(token + (place % 5 == 4)) % VOCAB for place, token in enumerate(expected[done : done + 4], done)]
            out.append((sequence, tuple(guess)))
        return out

    def learn(self, step: Step, results: Iterable[Any], seconds: float) -> None:
        self.accepted += sum(len(result) - 1 for result in results if isinstance(result, tuple))

    def forget(self, sequence: str) -> None:
        """Nothing is kept of a sequence."""


def adapted(directory: Path, cases: list[Case], tally: Tally) -> None:
    """Rows with either adapter and with none in the same batch."""
    names = ("", *ADAPTERS)
    engine = engine_for(directory, adapters=tuple((name, str(directory / name)) for name in ADAPTERS))
    asked = [ask(case, id=f"{case.name}:{name}", adapter=name) for case in cases for name in names]
    outputs = run(engine, asked)
    for case in cases:
        for name in names:
            tally.compare(outputs[f"{case.name}:{name}"], case.adapted[name] if name else case.expected)
        tally.happened += len({tuple(outputs[f"{case.name}:{name}"].ids) for name in names}) - 1


MODES: dict[str, Callable[[Path, list[Case], Tally], None]] = {
    "plain": plain,
    "chunked": chunked,
    "cached": cached,
    "preempted": preempted,
    "swapped": swapped,
    "forked": forked,
    "speculated": speculated,
    "lora": adapted,
}


def _scarce(cases: list[Case]) -> int:
    """Blocks for about a third of what all would hold at once, and for the longest."""
    blocks = [(len(case.prompt) + len(case.expected)) // 16 + 1 for case in cases]
    return max(sum(blocks) // 3, max(blocks) + 1)


# cases


def make_cases(directory: Path, prompts: int, seed: int) -> list[Case]:
    """Prompts of many lengths, some with a common beginning, some that repeat themselves, as transformers answers."""
    rng = random.Random(seed)
    plain_network = reference(directory)
    networks = {name: merged(directory, directory / name) for name in ADAPTERS}
    shared = [rng.randrange(4, VOCAB) for _ in range(37)]
    lengths = (1, 15, 16, 17, 33, 60, 90)
    cases = []
    for index in range(prompts):
        prompt = [rng.randrange(4, VOCAB) for _ in range(lengths[index % len(lengths)])]
        count = GROWING if index % 5 == 0 else OUTPUT
        if index % 3 == 1:
            prompt = shared + prompt
        expected = reference_greedy(plain_network, prompt, count)
        if index % 4 == 3:
            # What it will say now stands in the prompt already: not the same output any more, but often like it.
            prompt = (prompt + expected)[-100:] + prompt[:10]
            expected = reference_greedy(plain_network, prompt, count)
        adapted = {name: reference_greedy(network, prompt, count) for name, network in networks.items()}
        cases.append(Case(f"c{index}", prompt, expected, adapted))
    outputs = {tuple(case.expected) for case in cases}
    assert len(outputs) > prompts // 2 and any(len(set(out)) > 6 for out in outputs), "the model is degenerate"
    return cases


# constrained output

SCHEMAS: tuple[dict[str, Any], ...] = (
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 1, "maxItems": 5},
    {
        "type": "object",
        "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}, "ok": {"type": "boolean"}},
        "required": ["kind", "ok"],
        "additionalProperties": False,
    },
)
REGEXES = (r"\d{4}-\d{2}-\d{2}", r"(yes|no|perhaps)", r"[a-c]{2,5}=[0-9]{1,3}")


def constrained(directory: Path, count: int, seed: int) -> tuple[int, int]:
    """(outputs that ended by themselves, those of them that do not parse): greedy and hot, speculation on."""
    import jsonschema_rs

    engine = engine_for(directory, draft_tokens=4)
    rng = random.Random(seed)
    asked, checks = [], {}
    for index in range(count):
        name = f"g{index}"
        if index % 2:
            regex = REGEXES[index // 2 % len(REGEXES)]
            grammar = Grammar(GrammarKind.REGEX, regex)
            checks[name] = lambda text, regex=regex: re.fullmatch(regex, text) is not None
        else:
            schema = SCHEMAS[index // 2 % len(SCHEMAS)]
            grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
            checks[name] = lambda text, schema=schema: jsonschema_rs.is_valid(
                schema, json.loads(text, parse_float=_finite)
            )
        prompt = tuple(rng.randrange(4, VOCAB) for _ in range(rng.randrange(1, 30)))
        sampling = SamplingParams(max_tokens=120, temperature=1.5 * (index % 3 > 0), seed=index)
        asked.append(GenerateRequest(name, "p", prompt_ids=prompt, sampling=sampling, grammar=grammar))
    ended = wrong = 0
    for name, output in run(engine, asked).items():
        if output.finish is FinishReason.LENGTH:
            continue  # cut off by max_tokens: no grammar can help
        ended += 1
        try:
            parses = checks[name](output.text)
        except ValueError:
            parses = False
        if not parses:
            wrong += 1
            print(f"{directory.name} {name}: {output.finish} {output.text!r}", file=sys.stderr)
    return ended, wrong


def _finite(number: str) -> float:
    """JSON has no largest number, floats have."""
    return max(min(float(number), sys.float_info.max), -sys.float_info.max)


def main() -> int:
    """Run everything, print the table, write the JSON."""
    args = parser("engine_parity", __doc__ or "").parse_args()
    at_start = conditions(args.seed, args.quick)
    torch.set_num_threads(1)
    prompts = 7 if args.quick else 36
    tallies: dict[str, dict[str, Tally]] = {}
    ended = wrong = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, family in enumerate(FAMILIES):
            directory = make_model(Path(folder) / family, family, seed=args.seed + number)
            for index, name in enumerate(ADAPTERS):
                make_adapter(directory / name, directory, seed=args.seed + 10 * number + index)
            cases = make_cases(directory, prompts, args.seed + number)
            total += len(cases)
            tallies[family] = {}
            for name, mode in MODES.items():
                tally = tallies[family][name] = Tally()
                mode(directory, cases, tally)
                assert tally.happened, f"{family}, {name}: it did not happen"
            more, bad = constrained(directory, 12 if args.quick else 60, args.seed + number)
            ended, wrong = ended + more, wrong + bad
    every = [tally for modes in tallies.values() for tally in modes.values()]
    figures = [
        Figure("prompts", total, ">=", 200),
        Figure("families", len(tallies), ">=", 5),
        Figure("modes", len(MODES), ">=", 8),
        Figure("outputs_compared", sum(tally.compared for tally in every)),
        Figure("mismatches", sum(tally.mismatches for tally in every), "==", 0),
        Figure("constrained_outputs", ended),
        Figure("constrained_outputs_unparsable", wrong, "==", 0),
    ]
    detail = {
        family: {name: [tally.compared, tally.mismatches, tally.happened] for name, tally in modes.items()}
        for family, modes in tallies.items()
    }
    finish("engine_parity", figures, args=args, at_start=at_start, detail=detail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
