"""Random programs for property tests: shapes first (who needs whom), then the wire's types for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dag import ProgramGraph
from tenuto.wire import (
    Call,
    Constant,
    DictExpr,
    Expr,
    FunctionCall,
    InputVariable,
    JsonType,
    ListExpr,
    LLMCall,
    Message,
    Objective,
    Reference,
    TextPart,
    VariablePart,
)

fixed = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
"""Deterministic and without a time limit a case: the machine may be busy."""

INPUTS = {
    "question": InputVariable(value="why?"),
    "table": InputVariable(value={"rows": [1]}, type=JsonType(json_schema={"type": "object"})),
}


@dataclass(frozen=True)
class Program:
    """Calls in an order in which each comes after those it needs, and what is known of them."""

    calls: tuple[Call, ...]
    needs: dict[str, frozenset[str]]
    outputs: tuple[str, ...]
    objective: Objective

    def graph(self) -> ProgramGraph:
        built = ProgramGraph(self.objective)
        built.extend(INPUTS, self.calls, self.outputs)
        return built

    def digraph(self, seconds: dict[str, float] | None = None) -> Any:
        """The same as a networkx graph; an edge weighs the seconds of the call that it leaves."""
        out = nx.DiGraph()
        out.add_nodes_from(self.needs)
        for name, before in self.needs.items():
            out.add_edges_from((other, name, {"weight": (seconds or {}).get(other, 1.0)}) for other in before)
        return out


def objectives() -> st.SearchStrategy[Objective]:
    deadlines = st.integers(1, 100).map(lambda s: Objective(kind="deadline", deadline_s=float(s)))
    return st.sampled_from([Objective(kind="latency"), Objective(kind="throughput")]) | deadlines


@st.composite
def programs(draw: st.DrawFn, max_calls: int = 16, tagged: bool = False) -> Program:
    """A random program; `tagged` adds objectives and declared groups to some calls."""
    count = draw(st.integers(0, max_calls))
    calls: list[Call] = []
    needs: dict[str, frozenset[str]] = {}
    for index in range(count):
        earlier = st.sampled_from(calls) if calls else st.nothing()
        read = draw(st.lists(earlier, max_size=3)) if calls else []
        after = draw(st.lists(earlier, max_size=1)) if calls else []
        call = draw(_calls(f"c{index}", [other.variable for other in read], tuple(other.id for other in after)))
        if tagged:
            tags = {"objective": draw(st.none() | objectives()), "group": draw(st.sampled_from([None, None, "g", "h"]))}
            call = call.model_copy(update=tags)
        calls.append(call)
        needs[call.id] = frozenset(other.id for other in (*read, *after))
    outputs = draw(st.lists(st.sampled_from(calls), max_size=3, unique_by=lambda call: call.id)) if calls else []
    objective = draw(objectives()) if tagged else Objective()
    return Program(tuple(calls), needs, tuple(call.variable for call in outputs), objective)


@st.composite
def _calls(draw: st.DrawFn, name: str, variables: Sequence[str], after: tuple[str, ...]) -> Call:
    output = draw(st.sampled_from([None, f"value_of_{name}"]))
    expected = draw(st.sampled_from([None, 0.5, 1.0, 3.0]))
    shared: dict[str, Any] = {"id": name, "output": output, "after": after, "expected_s": expected}
    if draw(st.booleans()):
        texts = draw(st.lists(st.sampled_from(["You are kind.", "Answer:"]), max_size=2))
        parts = [TextPart(text=text) for text in texts] + [VariablePart(variable=variable) for variable in variables]
        if draw(st.booleans()):
            parts.insert(0, VariablePart(variable="question"))
        model = draw(st.sampled_from([None, "big"]))
        return LLMCall(messages=(Message(role="user", parts=tuple(parts)),), model=model, **shared)
    return FunctionCall(tool="work", arguments={"given": draw(_expression(variables))}, **shared)


@st.composite
def _expression(draw: st.DrawFn, variables: Sequence[str]) -> Expr:
    items: list[Expr] = [Reference(variable=variable) for variable in variables]
    items.append(Constant(value=draw(st.sampled_from([1, "x", None]))))
    shape = draw(st.sampled_from(["list", "dict", "nested"]))
    if shape == "list":
        return ListExpr(items=tuple(items))
    if shape == "dict":
        return DictExpr(items={f"k{index}": item for index, item in enumerate(items)})
    return DictExpr(items={"all": ListExpr(items=(DictExpr(items={"one": items[0]}), *items[1:]))})


@st.composite
def growths(draw: st.DrawFn, max_calls: int = 14) -> tuple[Program, list[list[Call]]]:
    """A program and its calls cut into extensions; inside an extension they stand in any order."""
    program = draw(programs(max_calls))
    slices: list[list[Call]] = [[]]
    for call in program.calls:
        if draw(st.integers(0, 3)) == 0:
            slices.append([])
        slices[-1].append(call)
    return program, [draw(st.permutations(some)) for some in slices]


def ready_by_definition(needs: dict[str, frozenset[str]], ended: Iterable[str]) -> set[str]:
    """Calls all of whose predecessors have ended: what counters must agree with."""
    done = set(ended)
    return {name for name, before in needs.items() if before <= done}
