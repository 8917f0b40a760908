"""Random program graphs of realistic shape, and what the `dag` floor costs on them.

`python -m benchmarks.graphs --calls 10000` prints one JSON object. The generator is drawn from a seed alone, so
that tests, simulations and other benchmarks can share its graphs.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

import dag
from tenuto.wire import (
    Call,
    Constant,
    Expr,
    FunctionCall,
    Graph,
    InputVariable,
    JsonType,
    ListExpr,
    LLMCall,
    Message,
    ProgramSubmission,
    Reference,
    TextPart,
    ToolSpec,
    VariablePart,
)

ROWS = {
    "type": "object",
    "properties": {"columns": {"type": "array", "items": {"type": "string"}}, "rows": {"type": "array"}},
    "required": ["columns", "rows"],
    "additionalProperties": False,
}
TOOLS = {
    "run_sql": ToolSpec(
        name="run_sql",
        parameters={
            "type": "object",
            "properties": {"queries": {"type": "array", "items": {"type": "string"}}, "limit": {"type": "integer"}},
            "required": ["queries"],
            "additionalProperties": False,
        },
        returns=ROWS,
    )
}


def layered_graph(rng: random.Random, calls: int, width: int = 50, fan_in: int = 3, tools: float = 0.3) -> Graph:
    """A graph of `calls` calls in layers of up to `width`, each reading up to `fan_in` variables of earlier layers.

    A share `tools` of them are function calls that return an object; prompts open with the text of their stage,
    so that calls of one stage share a prefix. The outputs are the variables that nobody reads.
    """
    nodes: list[Call] = []
    texts, rows = ["question"], list[str]()
    new: list[Call] = []
    read: set[str] = set()
    while len(nodes) < calls:
        new = []
        stage = f"stage{rng.randrange(8)}"
        for _ in range(min(rng.randint(1, width), calls - len(nodes))):
            name = f"call{len(nodes) + len(new)}"
            some = rng.sample(texts[-4 * width :], min(rng.randint(1, fan_in), len(texts[-4 * width :])))
            table = rng.choice(rows[-width:]) if rows and rng.random() < 0.5 else None
            new.append(_function(name, some) if rng.random() < tools else _llm(name, stage, some, table))
            read.update(some, [table] if table and new[-1].kind == "llm" else [])
        for call in new:
            (rows if isinstance(call, FunctionCall) else texts).append(call.variable)
        nodes.extend(new)
    rng.shuffle(nodes)  # the wire admits any order
    return Graph(
        inputs={"question": InputVariable(value="Which country has the most cities?")},
        calls=tuple(nodes),
        outputs=tuple(call.variable for call in nodes if call.variable not in read),
    )


def _llm(name: str, stage: str, texts: list[str], table: str | None) -> LLMCall:
    holes = [VariablePart(variable=text) for text in texts]
    if table is not None:
        holes.append(VariablePart(variable=table, path=("rows", 0)))
    return LLMCall(
        id=name,
        stage=stage,
        messages=(
            Message(role="system", parts=(TextPart(text=f"You do {stage}. Answer with one SQL query."),)),
            Message(role="user", parts=(VariablePart(variable="question"), TextPart(text="\n"), *holes)),
        ),
        expected_s=0.5,
    )


def _function(name: str, texts: list[str]) -> FunctionCall:
    items: tuple[Expr, ...] = tuple(Reference(variable=text) for text in texts)
    arguments: dict[str, Expr] = {"queries": ListExpr(items=items), "limit": Constant(value=100)}
    return FunctionCall(id=name, tool="run_sql", arguments=arguments, type=JsonType(json_schema=ROWS), expected_s=0.05)


def drain(graph: dag.ProgramGraph, ready: tuple[str, ...]) -> int:
    """End every call as soon as it is ready, first come first served; how many ended."""
    queue, ended = deque(ready), 0
    while queue:
        queue.extend(graph.end(queue.popleft()))
        ended += 1
    return ended


def measure(calls: int = 10_000, seed: int = 0, repeats: int = 5) -> dict[str, Any]:
    """Median seconds over `repeats` of everything that is done to a graph of `calls` calls."""
    document = ProgramSubmission(workflow="bench", graph=layered_graph(random.Random(seed), calls)).model_dump_json()
    submission = ProgramSubmission.model_validate_json(document)
    declared = submission.graph

    def build() -> tuple[dag.ProgramGraph, tuple[str, ...]]:
        graph = dag.ProgramGraph(submission.objective)
        return graph, graph.extend(declared.inputs, declared.calls, declared.outputs, TOOLS)

    graph, _ = build()
    edges = sum(len(graph.predecessors(name)) for name in graph.calls)

    def grow() -> None:
        grown = dag.ProgramGraph(submission.objective)
        grown.extend(declared.inputs, (), ())
        for _, call in graph.topological():
            grown.extend({}, (call,), (), TOOLS)

    ends = _seconds(lambda built: drain(*built), repeats, build)
    return {
        "calls": calls,
        "edges": edges,
        "document_bytes": len(document),
        "parse_s": _seconds(lambda _: ProgramSubmission.model_validate_json(document), repeats),
        "build_s": _seconds(lambda _: build(), repeats),
        "grow_one_by_one_s": _seconds(lambda _: grow(), repeats),
        "ends_per_s": calls / ends,
        "critical_path_s": _seconds(lambda _: dag.critical_path(graph), repeats),
        "remaining_s": _seconds(lambda _: dag.remaining(graph), repeats),
        "objectives_s": _seconds(lambda _: dag.objectives(graph), repeats),
        "task_groups_s": _seconds(lambda _: dag.task_groups(graph), repeats),
        "constant_prefix_groups_s": _seconds(lambda _: dag.constant_prefix_groups(graph), repeats),
        "mermaid_s": _seconds(lambda _: dag.mermaid(graph), repeats),
    }


def _seconds(work: Callable[[Any], object], repeats: int, prepare: Callable[[], object] = lambda: None) -> float:
    taken: list[float] = []
    for _ in range(repeats):
        given = prepare()
        gc.collect()
        start = perf_counter()
        work(given)
        taken.append(perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(measure(given.calls, given.seed), indent=2))


if __name__ == "__main__":
    main()
