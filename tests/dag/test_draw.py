"""The drawing of a graph names every call, every edge and every state."""

from __future__ import annotations

from dag import ProgramGraph, mermaid
from tenuto.wire import LLMCall, Message, VariablePart
from tests.dag.strategies import INPUTS
from tests.dag.test_graph import call


def test_a_small_program() -> None:
    graph = ProgramGraph()
    write = LLMCall(
        id="write",
        output="sql",
        stage="writer",
        messages=(Message(role="user", parts=(VariablePart(variable="table"),)),),
    )
    graph.extend(INPUTS, [write, call("run", "sql"), call("log", after=("run",))], ("run", "table"))
    graph.end("write")
    graph.fail("run")
    assert mermaid(graph).splitlines()[:12] == [
        "flowchart TD",
        '    v0[/"question"/]',
        '    v1[/"table"/]',
        '    c0("write<br/>writer"):::ended',
        '    c1["run"]:::failed',
        '    c2["log"]:::skipped',
        "    v1 --> c0",
        '    c0 -->|"sql"| c1',
        "    c1 -.-> c2",
        '    o0>"run"]',
        "    c1 --> o0",
        '    o1>"table"]',
    ]


def test_a_read_call_in_after_is_drawn_once() -> None:
    graph = ProgramGraph()
    graph.extend({}, [call("a"), call("b", "a", after=("a",))], ())
    assert mermaid(graph).count("c0 -") == 1
