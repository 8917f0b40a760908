"""Agents on a real engine whose memory is short: `python -m benchmarks.real_engine [--json FILE] [--quick]`.

Forty agents that pause for tools, on the CPU engine in its own process, through the production runtime. Both sides
alternate in one run on equal engines: fcfs with prefix caching and LRU eviction, and the project's own.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import Figure, conditions, finish, parser, percentile
from engine.client import EngineProcess
from engine.config import BLOCK_TOKENS, EngineConfig
from orchestrator.clock import LoopClock
from orchestrator.engines import EnginePool
from orchestrator.journal import NullJournal
from orchestrator.limits import Limits
from orchestrator.retention import make_rule
from orchestrator.runtime import Runtime
from orchestrator.scheduling import make_policy
from orchestrator.tools import WorkerPool
from tenuto.wire import (
    Call,
    Constant,
    EffectClass,
    EventKind,
    FunctionCall,
    FunctionTask,
    Graph,
    LLMCall,
    Message,
    ProgramSubmission,
    Sampling,
    TaskResult,
    TextPart,
    TextType,
    ToolSpec,
    VariablePart,
    WorkerRegistration,
)

PROGRAMS, QUICK_PROGRAMS, TURNS = 40, 9, (4, 8)
SYSTEM_TOKENS, TASK_TOKENS, RESULT_TOKENS, OUTPUT_TOKENS = 128, (500, 1100), (40, 200), (8, 24)
ARRIVALS_S = 4.0
DEMAND_SHARE = 1 / 3
TENANT, TOOLSET, WORDS = "default", "bench", 2048
TOOLS = {"read": (0.05, 0.6), "search": (0.4, 0.5), "test": (1.5, 0.6)}
"""Tools: median seconds and log-standard deviation."""
SHAPE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 640,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
}
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
METHOD = """\
A random Llama of {parameters:.1f} million parameters, float32, one thread; every token is one word of its own, so texts
and tokens are the same thing. Each agent is a declared program of {turns[0]} to {turns[1]} LLM calls, one function call
between any two, and reads all it has said and been told before. Programs arrive over {arrivals:g} s. KV memory: a third
of the largest sum of live programs' private tokens, measured under fcfs with memory for everything. Completion runs
from submission to the program's end. Sides alternate ({order}); each has an engine of its own, started fresh.
The ratio is that of the sums over rounds; its spread is that of single rounds."""


@dataclass(frozen=True, slots=True)
class Side:
    """A way of serving. `memory`: share of the demand; inf = everything fits."""

    name: str
    policy: str
    retention: str
    memory: float = DEMAND_SHARE


EVERYTHING = Side("fcfs, memory for everything", "fcfs", "lru", math.inf)
BASELINE, OURS = Side("fcfs + LRU", "fcfs", "lru"), Side("tenuto", "tenuto", "tenuto")


@dataclass(frozen=True, slots=True)
class Agent:
    """A program: when it arrives, its calls, and the seconds and text of each function call's result."""

    at_s: float
    calls: tuple[Call, ...]
    results: dict[str, tuple[float, str]]
    tokens: int


@dataclass(slots=True)
class Outcome:
    """What came of one side in one round."""

    seconds: list[float]
    texts: dict[str, str]
    prompt_tokens: int
    cached_tokens: int
    demand_tokens: int
    took_s: float
    leases: dict[str, int]
    wasted_share: float

    @property
    def mean_s(self) -> float:
        return statistics.mean(self.seconds)


def word(number: int) -> str:
    """Token `number` as text: four characters, no two alike."""
    letters = "abcdefghijklmnop"
    return "".join(letters[number >> shift & 15] for shift in (8, 4, 0)) + " "


def write_model(directory: Path, seed: int) -> int:
    """Write a random Llama whose every token is a word of its own. Returns its number of parameters."""
    import torch
    import transformers
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    directory.mkdir(parents=True, exist_ok=True)
    specials = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    vocabulary = {name: number for number, name in enumerate(specials)}
    vocabulary |= {word(number): len(specials) + number for number in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(".{4}"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": TEMPLATE}))
    torch.manual_seed(seed)
    network = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(vocabulary), **SHAPE))
    network.save_pretrained(directory)
    return sum(parameter.numel() for parameter in network.parameters())


def make_agents(count: int, seed: int) -> list[Agent]:
    """Agents of a seed."""
    rng = random.Random(seed)

    def text(bounds: tuple[int, int]) -> str:
        return "".join(word(rng.randrange(WORDS)) for _ in range(rng.randint(*bounds)))

    system = text((SYSTEM_TOKENS, SYSTEM_TOKENS))
    agents: list[Agent] = []
    for number in range(count):
        messages = [_said("system", TextPart(text=system)), _said("user", TextPart(text=text(TASK_TOKENS)))]
        calls: list[Call] = []
        results: dict[str, tuple[float, str]] = {}
        tokens = len(messages[1].parts[0].text) // 4  # type: ignore[union-attr]
        turns = rng.randint(*TURNS)
        for turn in range(turns):
            output = rng.randint(*OUTPUT_TOKENS)
            say, do = f"say{turn}", f"do{turn}"
            calls.append(LLMCall(id=say, messages=tuple(messages), sampling=Sampling(max_tokens=output), stage="act"))
            tokens += output
            if turn == turns - 1:
                break
            tool = rng.choice([*TOOLS])
            median_s, spread = TOOLS[tool]
            results[do] = (rng.lognormvariate(math.log(median_s), spread), text(RESULT_TOKENS))
            tokens += len(results[do][1]) // 4
            arguments = {"of": Constant(value=f"{number}/{do}")}
            calls.append(
                FunctionCall(
                    id=do, tool=tool, arguments=arguments, type=TextType(), after=(say,), effect=EffectClass.READ
                )
            )
            messages += [_said("assistant", VariablePart(variable=say)), _said("user", VariablePart(variable=do))]
        agents.append(Agent(rng.uniform(0, ARRIVALS_S), tuple(calls), results, tokens))
    return sorted(agents, key=lambda agent: agent.at_s)


def _said(role: Any, part: TextPart | VariablePart) -> Message:
    return Message(role=role, parts=(part,))


class Round:
    """One side serving all agents once."""

    def __init__(self, side: Side, model: Path, agents: Sequence[Agent], demand_tokens: int) -> None:
        self._side, self._model, self._agents = side, model, agents
        everything = sum(agent.tokens + 64 for agent in agents) + 4096
        tokens = everything if math.isinf(side.memory) else int(demand_tokens * side.memory)
        self._blocks = -(-tokens // BLOCK_TOKENS)
        self._live: dict[str, int] = {}
        self._peak = 0

    async def run(self) -> Outcome:
        """Serve them."""
        config = EngineConfig(
            str(self._model), name="bench", threads=1, kv_blocks=self._blocks, dtype="float32", lease_share=0.95
        )
        clock, limits, rng = LoopClock(), Limits(), random.Random(0)
        async with await EngineProcess.start(config) as engine:
            workers = WorkerPool(limits=limits, rng=rng)
            runtime = Runtime(
                clock=clock,
                engines=EnginePool([engine]),
                workers=workers,
                journal=NullJournal(),
                policy=make_policy(self._side.policy),
                retention=make_rule(self._side.retention),
                limits=limits,
                rng=rng,
            )
            await runtime.start()
            tools = asyncio.create_task(self._tools(workers))
            begin = time.perf_counter()
            ended = await asyncio.gather(*(self._agent(runtime, n, one) for n, one in enumerate(self._agents)))
            took_s = time.perf_counter() - begin
            books = runtime.retention.snapshot()
            counters = books[0].counters if books else None
            await runtime.close()
            tools.cancel()
            await asyncio.gather(tools, return_exceptions=True)
        calls = [call for timeline, _ in ended for call in timeline[1]]
        held = sum(counters.byte_seconds.values()) if counters else 0.0
        return Outcome(
            seconds=[timeline[0] for timeline, _ in ended],
            texts={name: text for _, texts in ended for name, text in texts.items()},
            prompt_tokens=sum(call[0] for call in calls),
            cached_tokens=sum(call[1] for call in calls),
            demand_tokens=self._peak,
            took_s=took_s,
            leases={how.value: count for how, count in counters.ended.items()} if counters else {},
            wasted_share=sum(counters.wasted_byte_seconds.values()) / held if counters and held else 0.0,
        )

    async def _agent(
        self, runtime: Runtime, number: int, agent: Agent
    ) -> tuple[tuple[float, list[tuple[int, int]]], dict[str, str]]:
        """Serve one agent: (seconds to its end, (prompt, cached) tokens of each LLM call), and its texts."""
        await asyncio.sleep(agent.at_s)
        begin = time.perf_counter()
        says = tuple(call.id for call in agent.calls if isinstance(call, LLMCall))
        submission = ProgramSubmission(
            workflow="agent", graph=Graph(calls=agent.calls, outputs=says), toolset=TOOLSET, metadata={"n": str(number)}
        )
        summary, _ = await runtime.submit(submission, tenant=TENANT)
        async with aclosing(runtime.events(summary.id, tenant=TENANT)) as events:
            async for event in events:
                if event.kind in (EventKind.CALL_STARTED, EventKind.CALL_ENDED):
                    self._count(runtime, summary.id)
        seconds = time.perf_counter() - begin
        self._live.pop(summary.id, None)
        view = runtime.view(summary.id, tenant=TENANT)
        if view.error is not None:
            raise RuntimeError(f"agent {number} failed: {view.error}")
        timeline = runtime.timeline(summary.id, tenant=TENANT)
        tokens = [(call.prompt_tokens, call.cached_tokens) for call in timeline.calls if call.kind == "llm"]
        return (seconds, tokens), {f"{number}/{name}": str(view.outputs[name].value) for name in says}

    def _count(self, runtime: Runtime, program: str) -> None:
        """Private tokens of the program's longest call so far, and the peak over all live ones."""
        timeline = runtime.timeline(program, tenant=TENANT)
        longest = max((call.prompt_tokens + call.output_tokens for call in timeline.calls), default=0)
        self._live[program] = max(0, longest - SYSTEM_TOKENS)
        self._peak = max(self._peak, sum(self._live.values()))

    async def _tools(self, workers: WorkerPool) -> None:
        """One worker that runs all function calls: it sleeps, and answers with their text."""
        specs = tuple(ToolSpec(name=name, effect=EffectClass.READ) for name in TOOLS)
        info = workers.register(WorkerRegistration(toolset=TOOLSET, tools=specs, concurrency=1000), TENANT)
        loop = asyncio.get_running_loop()

        def end(task: str, text: str) -> None:
            workers.results(info.id, [TaskResult(task=task, value=text)], tenant=TENANT)

        async with aclosing(workers.tasks(info.id, tenant=TENANT)) as tasks:
            async for task in tasks:
                if isinstance(task, FunctionTask):
                    number, _, name = str(task.arguments["of"]).partition("/")
                    seconds, text = self._agents[int(number)].results[name]
                    loop.call_later(seconds, end, task.task, text)


def mismatches(outcomes: Sequence[Outcome]) -> int:
    """Tokens of LLM calls that differ from those of the first outcome."""
    first = outcomes[0].texts
    count = 0
    for outcome in outcomes[1:]:
        for name, text in first.items():
            other = outcome.texts[name]
            count += sum(text[at : at + 4] != other[at : at + 4] for at in range(0, max(len(text), len(other)), 4))
    return count


def measure(args: Any) -> tuple[list[tuple[Side, Outcome]], int]:
    """Alternating rounds of both sides after one with memory for everything; and the model's size."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        parameters = write_model(model, args.seed)
        agents = make_agents(QUICK_PROGRAMS if args.quick else PROGRAMS, args.seed)
        agents = [Agent(a.at_s, _numbered(a.calls, n), a.results, a.tokens) for n, a in enumerate(agents)]
        rounds = [EVERYTHING, BASELINE, OURS] + ([] if args.quick else [OURS, BASELINE])
        outcomes: list[tuple[Side, Outcome]] = []
        demand = 0
        for side in rounds:
            outcome = asyncio.run(Round(side, model, agents, demand).run())
            demand = demand or outcome.demand_tokens
            outcomes.append((side, outcome))
            console.print(
                f"{side.name}: mean {outcome.mean_s:.1f} s, all {outcome.took_s:.0f} s, "
                f"cached {outcome.cached_tokens / outcome.prompt_tokens:.1%} of the prompts' tokens"
            )
    return outcomes, parameters


def _numbered(calls: Sequence[Call], number: int) -> tuple[Call, ...]:
    """Function calls name their agent, as agents stand in order of arrival."""
    made: list[Call] = []
    for call in calls:
        if isinstance(call, FunctionCall):
            call = call.model_copy(update={"arguments": {"of": Constant(value=f"{number}/{call.id}")}})
        made.append(call)
    return tuple(made)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    args = parser("real_engine", __doc__ or "").parse_args(argv)
    at_start = conditions(args.seed, args.quick)
    outcomes, parameters = measure(args)
    everything = outcomes[0][1]
    base = [outcome for side, outcome in outcomes if side is BASELINE]
    ours = [outcome for side, outcome in outcomes if side is OURS]
    ratio = sum(one.mean_s for one in base) / sum(one.mean_s for one in ours)
    singles = [one.mean_s / other.mean_s for one, other in zip(base, ours, strict=True)]
    gap = (statistics.mean(o.mean_s for o in base) - statistics.mean(o.mean_s for o in ours)) / (
        statistics.mean(o.mean_s for o in base) - everything.mean_s
    )
    order = ", ".join(side.name for side, _ in outcomes)
    method = METHOD.format(parameters=parameters / 1e6, turns=TURNS, arrivals=ARRIVALS_S, order=order)
    table = Table("side", "mean s", "p99 s", "all s", "cached", "leases by outcome", "unused")
    for side, one in outcomes:
        table.add_row(
            side.name,
            f"{one.mean_s:.2f}",
            f"{percentile(one.seconds, 0.99):.2f}",
            f"{one.took_s:.1f}",
            f"{one.cached_tokens / one.prompt_tokens:.1%}",
            " ".join(f"{name} {count}" for name, count in one.leases.items() if count),
            f"{one.wasted_share:.1%}",
        )
    console = Console()
    console.print(method, highlight=False)
    console.print(table)
    figures = [
        Figure("jct_vs_fcfs", ratio, ">=", 1.5),
        Figure("token_mismatches", mismatches([one for _, one in outcomes]), "==", 0),
        Figure("jct_vs_fcfs_least_round", min(singles)),
        Figure("jct_vs_fcfs_largest_round", max(singles)),
        Figure("gap_closed", gap),
        Figure("p99_over_fcfs", percentile(ours[0].seconds, 0.99) / percentile(base[0].seconds, 0.99)),
    ]
    detail = {
        "method": method,
        "demand_tokens": everything.demand_tokens,
        "rounds": [
            {
                "side": side.name,
                "mean_s": one.mean_s,
                "seconds": one.seconds,
                "took_s": one.took_s,
                "prompt_tokens": one.prompt_tokens,
                "cached_tokens": one.cached_tokens,
                "leases": one.leases,
                "wasted_share": one.wasted_share,
            }
            for side, one in outcomes
        ],
    }
    finish("real_engine", figures, args=args, at_start=at_start, detail=detail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
