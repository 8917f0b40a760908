"""Declared workloads made from a seed, and what may go wrong with a trace's tools. All numbers are ours.

Token identity as in the trace format: streams that are named after a program are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType

from orchestrator.simulation import TraceProgram
from orchestrator.simulation.trace import LLMNode, Node, Piece, ToolNode

HUNG_S = 1800.0
"""How long a hung tool takes to give up."""


def _lognormal(rng: Random, median: float, sigma: float, least: int = 4) -> int:
    return max(least, round(median * rng.lognormvariate(0.0, sigma)))


def _arrivals(rng: Random, count: int, rate: float) -> list[float]:
    """Poisson arrivals; all at once where the rate is 0."""
    at, arrivals = 0.0, list[float]()
    for number in range(count):
        arrivals.append(at if rate else 1e-3 * number)
        at += rng.expovariate(rate) if rate else 0.0
    return arrivals


def chains(seed: int, programs: int, rate: float) -> list[TraceProgram]:
    """Chains of 10 calls, each a template, a chunk of 1,024 tokens and the output before; outputs of one chain are
    alike (a document is summarised briefly or at length)."""
    rng = Random(f"chains {seed}")
    made = []
    for number, arrival in enumerate(_arrivals(rng, programs, rate)):
        name = f"chain-{number}"
        median = 50 * rng.lognormvariate(0.0, 0.5)
        nodes: list[Node] = []
        last = 0
        for step in range(10):
            prompt = [Piece("tpl:chain", 0, 120), Piece(f"{name}/doc", 1024 * step, 1024 * (step + 1))]
            if step:
                prompt.append(Piece(f"{name}/c{step - 1}.out", 0, last))
            last = _lognormal(rng, median, 0.3)
            after = (f"c{step - 1}",) if step else ()
            nodes.append(LLMNode(f"c{step}", after, tuple(prompt), last, stage="step"))
        made.append(TraceProgram(name, "chain", arrival, tuple(nodes)))
    return made


def map_reduce(seed: int, programs: int, rate: float) -> list[TraceProgram]:
    """Sixteen maps over chunks of 1,024 to 4,096 tokens and a reduce over what they wrote."""
    rng = Random(f"map reduce {seed}")
    return [
        _map_reduce(rng, f"mapreduce-{number}", arrival)
        for number, arrival in enumerate(_arrivals(rng, programs, rate))
    ]


def _map_reduce(rng: Random, name: str, arrival: float) -> TraceProgram:
    chunk = rng.choice((1024, 2048, 4096))
    nodes: list[Node] = []
    outputs = []
    for part in range(16):
        output = _lognormal(rng, 100, 0.3)
        prompt = (Piece("tpl:map", 0, 220), Piece(f"{name}/doc", chunk * part, chunk * (part + 1)))
        nodes.append(LLMNode(f"m{part}", (), prompt, output, stage="map"))
        outputs.append(Piece(f"{name}/m{part}.out", 0, output))
    after = tuple(f"m{part}" for part in range(16))
    reduce = LLMNode("r", after, (Piece("tpl:reduce", 0, 180), *outputs), _lognormal(rng, 250, 0.3), stage="reduce")
    return TraceProgram(name, "mapreduce", arrival, (*nodes, reduce))


def chat_and_map_reduce(seed: int, programs: int, rate: float) -> list[TraceProgram]:
    """Forty chats to nine map-reduces, in random order."""
    rng = Random(f"mixed {seed}")
    made = []
    for number, arrival in enumerate(_arrivals(rng, programs, rate)):
        if rng.random() < 9 / 49:
            made.append(_map_reduce(rng, f"mapreduce-{number}", arrival))
            continue
        name = f"chat-{number}"
        prompt = (Piece("tpl:chat", 0, 900), Piece(f"{name}/history", 0, _lognormal(rng, 700, 0.7)))
        reply = LLMNode("reply", (), prompt, _lognormal(rng, 200, 0.6), stage="reply")
        made.append(TraceProgram(name, "chat", arrival, (reply,)))
    return made


_TEMPLATES = {"keywords": 420, "candidate": 9158, "revise": 3059, "test": 630, "unit": 213, "evaluate": 520}


def staged_sql(seed: int, programs: int, rate: float) -> list[TraceProgram]:
    """Text-to-SQL in stages, with the token counts of HexGen-Flow (arXiv 2505.05286): keywords, parallel candidates,
    a series of revisions, tests, parallel evaluations. About half of all input is template."""
    rng = Random(f"staged sql {seed}")
    return [_staged_sql(rng, f"sql-{number}", arrival) for number, arrival in enumerate(_arrivals(rng, programs, rate))]


def _staged_sql(rng: Random, name: str, arrival: float) -> TraceProgram:
    nodes: list[Node] = []

    def call(id: str, stage: str, after: Sequence[str], tokens: float, output: float) -> str:
        shared = _TEMPLATES[stage]
        prompt = (Piece(f"tpl:{stage}", 0, shared), Piece(f"{name}/{id}", 0, max(16, round(tokens - shared))))
        nodes.append(LLMNode(id, tuple(after), prompt, _lognormal(rng, output, 0.3), stage=stage))
        return id

    keywords = call("keywords", "keywords", (), 667, 45)
    last = [call(f"candidate{k}", "candidate", (keywords,), 11748, 678) for k in range(rng.choice((2, 3, 4)))]
    for k in range(min(10, int(rng.expovariate(1 / 2.0)))):
        last = [call(f"revise{k}", "revise", last, 5963, 79)]
    test = call("test", "test", last, 1109, 103)
    last = [call(f"evaluate{k}", "evaluate", (test,), 961, 22) for k in range(3)]
    call("unit", "unit", last, 275, 4)
    return TraceProgram(name, "text-to-sql", arrival, tuple(nodes))


Maker = Callable[[int, int, float], list[TraceProgram]]
"""(seed, programs, programs a second)."""
WORKLOADS: Mapping[str, Maker] = MappingProxyType(
    {"chains": chains, "mapreduce": map_reduce, "mixed": chat_and_map_reduce, "sql": staged_sql}
)


def disturbed(programs: Sequence[TraceProgram], how: str, rng: Random) -> list[TraceProgram]:
    """The programs with tools that are ten times faster or slower, misnamed, or hang in one call of twenty."""
    if not how:
        return list(programs)
    factor = {"fast": 0.1, "slow": 10.0}.get(how, 1.0)
    names = sorted({node.name for program in programs for node in program.nodes if isinstance(node, ToolNode)})

    def change(node: Node) -> Node:
        if not isinstance(node, ToolNode):
            return node
        name = rng.choice(names) if how == "shuffled" else node.name
        hangs = how == "hung" and rng.random() < 0.05
        return replace(node, name=name, duration=HUNG_S if hangs else node.duration * factor)

    return [
        replace(program, nodes=tuple(map(change, program.nodes)), origin="", copy=0)
        if program.origin == ""
        else _own(program, tuple(map(change, program.nodes)))
        for program in programs
    ]


def _own(program: TraceProgram, nodes: tuple[Node, ...]) -> TraceProgram:
    """A drawn copy whose nodes differ from its original's: its private streams get its own name."""
    origin, name = program.origin, program.program

    def rename(node: Node) -> Node:
        if not isinstance(node, LLMNode):
            return node
        pieces = tuple(
            piece._replace(stream=name + piece.stream[len(origin) :]) if piece.stream.startswith(origin) else piece
            for piece in node.prompt
        )
        return replace(node, prompt=pieces)

    return replace(program, nodes=tuple(map(rename, nodes)), origin="", copy=0)
