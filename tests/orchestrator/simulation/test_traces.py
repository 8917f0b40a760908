"""Traces are read with every fault located, and public formats become programs."""

from __future__ import annotations

import gzip
import json
import re
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.clock import LoopClock
from orchestrator.journal import Accepted, Ended, RunFacts, SqliteJournal, Written
from orchestrator.simulation import TraceError, TraceProgram, read, simulate
from orchestrator.simulation.importers import load_traces, recognise
from orchestrator.simulation.synthetic import agents
from orchestrator.simulation.trace import LLMNode, ToolNode, parse
from orchestrator.simulation.workload import is_private, resample, wire_name
from tenuto.wire import (
    FunctionCall,
    Graph,
    InputVariable,
    LLMCall,
    Message,
    ProgramStatus,
    ProgramSubmission,
    TextPart,
    VariablePart,
)
from tests.orchestrator.simulation.made_up import chains, chats, map_reduces


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "v": 1,
        "program": "p",
        "workflow": "flow",
        "arrival": 0.5,
        "nodes": [
            {"id": "a", "kind": "llm", "after": [], "prompt": [["t", 0, 8], ["p", 0, 4]], "output": 3, "stage": "s"},
            {"id": "b", "kind": "tool", "after": ["a"], "name": "bash:ls", "duration": 0.25},
            {"id": "c", "kind": "llm", "after": ["b"], "prompt": [["p", 0, 4]], "output": 1, "wait": 2.0},
        ],
    }
    return base | changes


def node(place: int, **changes: Any) -> dict[str, Any]:
    made = document()
    made["nodes"][place] |= changes
    return made


def test_a_line_becomes_a_program() -> None:
    program = parse(json.dumps(document(deadline=9, tenant="acme", environment="ci", online=True)))
    first, tool, last = program.nodes
    assert (program.arrival, program.deadline, program.tenant, program.online) == (0.5, 9.0, "acme", True)
    assert isinstance(first, LLMNode) and isinstance(tool, ToolNode) and isinstance(last, LLMNode)
    assert first.prompt_tokens == 12 and tool.duration == 0.25 and last.wait == 2.0


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("{", r"t\.jsonl:2: is no JSON"),
        ("[1]", r"t\.jsonl:2: expected an object, got list"),
        (document(v=2), r":2: v: only version 1"),
        (document(program=3), r":2: program: expected str, got 3"),
        (document(arrival=-1.0), r":2: arrival: must be at least 0"),
        (document(arrival=float("nan")), r":2: arrival: expected float, got nan"),
        (document(arrival=1e308), r":2: arrival: must be at most 15,000,000 s \(173 days\), got 1e\+308 s"),
        (document(arrival=10**400), r":2: arrival: expected float, got 1000"),
        (node(1, duration=1e12), r":2: nodes\[1\]\.duration: must be at most 15,000,000 s"),
        (node(2, wait=1e12), r":2: nodes\[2\]\.wait: must be at most 15,000,000 s"),
        (node(2, wait=-1.0), r":2: nodes\[2\]\.wait: must be at least 0"),
        (document(deadline=0), r":2: deadline: must be positive"),
        (document(deadline=1e308), r":2: deadline: must be positive and at most 604,800 s, got 1e\+308"),
        (document(nodes=[]), r":2: nodes: a program needs at least one"),
        (node(0, output=0), r":2: nodes\[0\]\.output: must be at least 1"),
        (node(0, prompt=[["t", 4, 4]]), r":2: nodes\[0\]\.prompt\[0\]: expected \[stream, start, end\]"),
        (node(0, prompt=[]), r":2: nodes\[0\]\.prompt: a prompt needs at least one token"),
        (node(1, after=["c"]), r":2: nodes\[1\]\.after: 'c' is no earlier node"),
        (node(1, kind="toll"), r":2: nodes\[1\]\.kind: expected 'llm' or 'tool'"),
        (node(2, id="a"), r":2: nodes\[2\]\.id: 'a' is used twice"),
        (node(2, wait="long"), r":2: nodes\[2\]\.wait: expected float, got 'long'"),
        (document(), r":2: program 'p' was on t\.jsonl:1 already"),
    ],
)
def test_faults_are_located(made: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    line = made if isinstance(made, str) else json.dumps(made)
    path.write_text(json.dumps(document()) + "\n" + line + "\n")
    with pytest.raises(TraceError, match=told):
        read([path])


def test_unreadable_files_are_told(tmp_path: Path) -> None:
    broken = tmp_path / "t.jsonl.gz"
    broken.write_bytes(b"no gzip")
    for paths in ([broken], [tmp_path / "absent.jsonl"]):
        with pytest.raises(TraceError, match=paths[0].name):
            read(paths)
    with pytest.raises(TraceError, match="no such file"):
        load_traces([tmp_path / "absent.jsonl"])
    with pytest.raises(TraceError, match="choose one of"):
        load_traces([broken], "csv")


def test_packed_traces_are_read_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for name, arrival in (("late", 3.0), ("early", 1.0)):
            file.write(json.dumps(document(program=name, arrival=arrival)) + "\n")
    assert [program.program for program in load_traces([path])] == ["early", "late"]
    assert recognise(path) == "tenuto"


def test_names_fit_the_wire_and_private_streams_are_told_apart() -> None:
    assert [wire_name(name) for name in ("bash:pytest", "0", "a b")] == ["bash.pytest", "_0", "a.b"]
    assert is_private("chain-1/doc", "chain-1") and is_private("chain-1", "chain-1")
    assert not is_private("chain-10/doc", "chain-1") and not is_private("tpl:x", "chain-1")


def test_resampling_draws_copies_with_names_of_their_own() -> None:
    trace = agents(5, seed=3)
    drawn = resample(trace, seed=1, count=12)
    assert len({program.program for program in drawn}) == 12
    assert {program.origin for program in drawn} <= {program.program for program in trace}
    assert drawn == resample(trace, seed=1, count=12) != resample(trace, seed=2, count=12)
    assert [program.arrival for program in drawn] == sorted(program.arrival for program in drawn)


@pytest.mark.parametrize("make", [agents, chains, map_reduces, chats])
def test_made_up_programs_keep_the_format(make: Any) -> None:
    for program in make(4, seed=1):
        nodes = [
            {
                "id": n.id,
                "kind": "llm",
                "after": list(n.after),
                "prompt": [list(p) for p in n.prompt],
                "output": n.output,
            }
            if isinstance(n, LLMNode)
            else {"id": n.id, "kind": "tool", "after": list(n.after), "name": n.name, "duration": n.duration}
            for n in program.nodes
        ]
        line = document(program=program.program, arrival=program.arrival, nodes=nodes)
        assert len(parse(json.dumps(line)).nodes) == len(program.nodes)


# -- public formats -----------------------------------------------------------------------------


def test_mooncake_blocks_are_shared_by_their_hashes(tmp_path: Path) -> None:
    path = tmp_path / "conversation.jsonl"
    rows = [
        {"timestamp": 0, "input_length": 700, "output_length": 52, "hash_ids": [4, 9]},
        {"timestamp": 1500, "input_length": 512, "output_length": 0, "hash_ids": [4]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second = load_traces([path])
    (a,), (b,) = first.nodes, second.nodes
    assert isinstance(a, LLMNode) and isinstance(b, LLMNode)
    assert (a.prompt_tokens, a.output, b.prompt_tokens, b.output, second.arrival) == (700, 52, 512, 1, 1.5)
    assert a.prompt[0] == b.prompt[0]
    path.write_text(json.dumps(rows[0] | {"input_length": 2000}))
    with pytest.raises(TraceError, match=r"conversation\.jsonl:1: 2000 tokens do not fit 2 blocks"):
        load_traces([path])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ('"input_length": 1e999', "input_length: must be a whole number from 1 below 2**64, got inf"),
        ('"input_length": 2.5', "input_length: must be a whole number from 1 below 2**64, got 2.5"),
        ('"output_length": -1', "output_length: must be a whole number from 0 below 2**64, got -1"),
        ('"timestamp": NaN', "timestamp: expected float, got nan"),
        ('"timestamp": -1', "timestamp: must be at least 0, got -1.0"),
        ('"timestamp": 1e15', "timestamp: must be at most 15,000,000 s (173 days), got 1e+12 s"),
        ('"hash_ids": [4, "x"]', "hash_ids[1]: must be a whole number from 0 below 2**64, got 'x'"),
        ('"hash_ids": null', "hash_ids: expected list, got None"),
    ],
)
def test_mooncake_faults_are_located(changes: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    row = '{"timestamp": 0, "input_length": 700, "output_length": 52, "hash_ids": [4, 9]'
    path.write_text(f"{row}}}\n{row}, {changes}}}\n")
    with pytest.raises(TraceError, match=f"^{re.escape(f'c.jsonl:2: {told}')}$"):
        load_traces([path])


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("2023-11-16 18:17:04+00:00,110,27", "TIMESTAMP: time zones must be in all rows or in none"),
        ("yesterday,110,27", "TIMESTAMP: Invalid isoformat string: 'yesterday'"),
        ("2028-11-16 18:17:04,110,27", "TIMESTAMP: must be at most 15,000,000 s (173 days), got 1.57853e+08 s"),
        ("2023-11-16 18:17:04,0,27", "ContextTokens: must be a whole number from 1 below 2**64, got '0'"),
        ("2023-11-16 18:17:04,110,-5", "GeneratedTokens: must be a whole number from 0 below 2**64, got '-5'"),
        ("2023-11-16 18:17:04,110", "GeneratedTokens: is missing"),
        ("x" * 200_000, "field larger than field limit"),
    ],
)
def test_azure_faults_are_located(row: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n{row}\n")
    with pytest.raises(TraceError, match=f"^{re.escape(f'a.csv:3: {told}')}"):
        load_traces([path])


def test_azure_rows_are_calls(tmp_path: Path) -> None:
    path = tmp_path / "AzureLLMInferenceTrace_code.csv"
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    path.write_text(head + "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.4799600,110,27\n")
    first, second = load_traces([path])
    assert second.arrival == pytest.approx(0.5)
    assert [next(p.llm_nodes).prompt_tokens for p in (first, second)] == [4808, 110]
    path.write_text(head + "2024-05-10 00:00:00.009930+00:00,x,5\n")
    with pytest.raises(TraceError, match=r"_code\.csv:2"):
        load_traces([path])
    path.write_text("time,in,out\n")
    with pytest.raises(TraceError, match="expected the columns TIMESTAMP"):
        load_traces([path])


def span(id: str, operation: str, start: float, end: float, **attributes: Any) -> dict[str, Any]:
    given = {"gen_ai.operation.name": operation} | {key.replace("__", "."): value for key, value in attributes.items()}
    return {
        "traceId": "t1",
        "spanId": id,
        "parentSpanId": "root",
        "startTimeUnixNano": str(int(start * 1e9)),
        "endTimeUnixNano": str(int(end * 1e9)),
        "attributes": [
            {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
            for key, value in given.items()
        ],
    }


def test_otel_spans_become_a_conversation_with_tools(tmp_path: Path) -> None:
    tokens = {"gen_ai__usage__input_tokens": 100, "gen_ai__usage__output_tokens": 20}
    more = {"gen_ai__usage__input_tokens": 180, "gen_ai__usage__output_tokens": 5}
    spans = [
        span("root", "invoke_agent", 10.0, 16.0, gen_ai__agent__name="helper"),
        span("a", "chat", 10.0, 11.0, **tokens),
        span("x", "execute_tool", 11.0, 13.0, gen_ai__tool__name="search"),
        span("y", "execute_tool", 11.0, 12.0, gen_ai__tool__name="read", error__type="boom"),
        span("b", "chat", 14.0, 15.0, **more),
    ]
    path = tmp_path / "spans.json"
    whole = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    path.write_text(json.dumps(whole, indent=1))
    (program,) = load_traces([path])
    nodes = {node.id: node for node in program.nodes}
    last, tool = nodes["b"], nodes["y"]
    assert isinstance(last, LLMNode) and isinstance(tool, ToolNode)
    assert program.workflow == "helper" and program.online
    assert set(last.after) == {"x", "y"} and nodes["x"].after == ("a",)
    assert last.wait == pytest.approx(1.0) and tool.failed and tool.duration == pytest.approx(1.0)
    assert [piece.end - piece.start for piece in last.prompt] == [100, 20, 60]
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "t"}]}]}]}))
    with pytest.raises(TraceError, match=r"spans\.json:1: resourceSpans\[0\]\.scopeSpans\[0\]\.spans\[0\]\.spanId: is"):
        load_traces([path])
    path.write_text(json.dumps({"resourceSpans": 5}))
    with pytest.raises(TraceError, match=r"spans\.json:1: is no OTLP JSON"):
        load_traces([path])


def test_a_file_that_is_no_journal_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_text("nothing of the kind")
    with pytest.raises(TraceError, match=r"journal\.db: is no journal"):
        load_traces([path])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"spanId": ["q"]}, "spanId: expected str, got ['q']"),
        ({"traceId": 5}, "traceId: expected str, got 5"),
        ({"parentSpanId": 5}, "parentSpanId: expected str, got 5"),
        ({"startTimeUnixNano": "soon"}, "startTimeUnixNano: must be a whole number from 0 below 2**64, got 'soon'"),
        ({"endTimeUnixNano": 1e999}, "endTimeUnixNano: must be a whole number from 0 below 2**64, got inf"),
        ({"startTimeUnixNano": 10**18}, "startTimeUnixNano: after the first span: must be at most 15,000,000 s"),
        ({"endTimeUnixNano": 10**18}, "endTimeUnixNano: after its start: must be at most 15,000,000 s"),
        ({"intValue": -5}, "gen_ai.usage.input_tokens: must be a whole number from 0 below 2**64, got -5"),
        ({"doubleValue": 1e999}, "gen_ai.usage.input_tokens: must be a whole number from 0 below 2**64, got inf"),
    ],
)
def test_otel_faults_are_located(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    good, bad = span("a", "chat", 10.0, 11.0), span("b", "chat", 12.0, 13.0)
    value = {name: changes[name] for name in changes if name.endswith("Value")} or {"intValue": "7"}
    bad["attributes"].append({"key": "gen_ai.usage.input_tokens", "value": value})
    bad |= {name: changes[name] for name in changes if not name.endswith("Value")}
    documents = [
        {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]} for spans in ([good], [good | {"spanId": "c"}, bad])
    ]
    path.write_text("\n".join(map(json.dumps, documents)))
    place = "spans.jsonl:2: resourceSpans[0].scopeSpans[0].spans[1]."
    with pytest.raises(TraceError, match=f"^{re.escape(place + told)}"):
        load_traces([path])


def test_otel_counts_may_be_doubles(tmp_path: Path) -> None:
    one = span("a", "chat", 10.0, 11.0)
    one["attributes"].append({"key": "gen_ai.usage.input_tokens", "value": {"doubleValue": 70.0}})
    path = tmp_path / "spans.json"
    path.write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]}))
    (program,) = load_traces([path])
    assert next(program.llm_nodes).prompt_tokens == 70


async def test_a_journal_that_a_server_has_open_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, clock=LoopClock())
    await journal.open(lambda fault: None)
    try:
        with pytest.raises(TraceError, match=r"^journal\.db: a server has it open"):
            load_traces([path])
    finally:
        await journal.close()
    with pytest.raises(TraceError, match="the trace has no programs"):
        load_traces([path])


async def test_a_journal_of_a_year_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, clock=LoopClock())
    await journal.open(lambda fault: None)
    call = LLMCall(id="ask", messages=(Message(role="user", parts=(TextPart(text="x"),)),))
    body = ProgramSubmission(workflow="flow", graph=Graph(calls=(call,))).model_dump_json().encode()
    for name, at_s in (("prog_a", 0.0), ("prog_b", 366 * 86400.0)):
        journal.append(Accepted(name, "acme", at_s, body, "span"))
        journal.append(Written(name, "ask", b'"y"', 0, 1.0, RunFacts(1, 8, 0, 1, spans=(("decode", 0.0, 1.0),))))
        await journal.append(Ended(name, ProgramStatus.SUCCEEDED, 9, 1.0, None)).committed()
    await journal.close()
    with pytest.raises(
        TraceError, match=r"^journal\.db: program 'prog_b': accepted after the first one: must be at most"
    ):
        load_traces([path])


def test_files_may_use_the_same_names(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "other/b.jsonl", "third/b.jsonl")]
    prompt = [["t", 0, 8], ["p", 0, 4], ["p/a.out", 0, 3], ["pp", 0, 1]]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(node(2, prompt=prompt)))
    found: list[TraceProgram] = load_traces(paths)
    names = ["p", "b.jsonl/p", "b.jsonl.2/p", "b.jsonl.3/p"]
    assert [program.program for program in found] == names
    for program, name in zip(found, names, strict=True):
        *_, last = program.llm_nodes
        assert [piece.stream for piece in last.prompt] == ["t", name, f"{name}/a.out", "pp"]
    assert load_traces(paths[:1]) == found[:1]


def test_files_with_the_same_names_share_no_private_prompts(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in paths:
        path.write_text(json.dumps(node(0, prompt=[["p", 0, 400]])))
    report = simulate(load_traces(paths), drawn=False)
    assert [program.calls[0].cached_tokens for program in report.programs] == [0, 0]


async def test_a_servers_journal_tells_what_its_programs_did(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, clock=LoopClock())
    await journal.open(lambda fault: None)
    calls = (
        LLMCall(
            id="ask",
            stage="plan",
            messages=(Message(role="user", parts=(TextPart(text="x" * 300), VariablePart(variable="question"))),),
        ),
        FunctionCall(id="look", tool="search", after=("ask",)),
        LLMCall(
            id="answer",
            messages=(
                Message(role="user", parts=(TextPart(text="x" * 300), VariablePart(variable="ask"))),
                Message(role="user", parts=(VariablePart(variable="look"),)),
            ),
        ),
    )
    inputs = {"question": InputVariable(value="y" * 100)}
    submission = ProgramSubmission(workflow="flow", graph=Graph(inputs=inputs, calls=calls))
    facts = {
        "ask": RunFacts(1, 80, 0, 12, spans=(("queue", 0.0, 0.5), ("decode", 0.5, 1.0))),
        "look": RunFacts(1, spans=(("queue", 1.0, 1.2), ("tool", 1.2, 3.2))),
        "answer": RunFacts(1, 100, 60, 30, spans=(("decode", 3.2, 4.0),)),
    }
    values = {"ask": b'"' + b"z" * 60 + b'"', "look": b'"found"', "answer": b'"done"'}
    for name, status in (("prog_a", ProgramStatus.SUCCEEDED), ("prog_b", ProgramStatus.FAILED)):
        journal.append(Accepted(name, "acme", 1000.0, submission.model_dump_json().encode(), "span"))
        for number, (call, fact) in enumerate(facts.items()):
            journal.append(Written(name, call, values[call], number, fact.spans[-1][2], fact))
        await journal.append(Ended(name, status, 9, 4.0, None)).committed()
    await journal.close()
    (program,) = load_traces([path])
    ask, look, answer = program.nodes
    assert isinstance(ask, LLMNode) and isinstance(look, ToolNode) and isinstance(answer, LLMNode)
    assert (program.program, program.tenant, program.workflow, program.arrival) == ("prog_a", "acme", "flow", 0.0)
    assert (ask.prompt_tokens, ask.output, ask.stage) == (80, 12, "plan")
    assert look.duration == pytest.approx(2.0)
    assert set(answer.after) == {"ask", "look"} and answer.prompt_tokens == 100
    assert ask.prompt[0].stream == answer.prompt[0].stream  # the constant text that they share
    assert answer.prompt[1] == ("prog_a/ask.text", 0, 12), "in a user's message it is no output any more"


async def test_in_a_journals_conversation_every_prompt_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """Whatever tokens there are to a character in each part, and whoever else shares the system prompt."""
    path = tmp_path / "journal.db"
    journal = SqliteJournal(path, clock=LoopClock())
    await journal.open(lambda fault: None)
    rng = Random(1)
    for name in ("prog_a", "prog_b"):
        messages = [Message(role="system", parts=(TextPart(text="s" * 201),))]
        calls, written, tokens = [], [], 67
        for turn in range(6):
            text = TextPart(text=f"{name} {turn} " + "q" * rng.randrange(5, 90))
            messages.append(Message(role="user", parts=(text,)))
            after = (f"c{turn - 1}",) if turn else ()
            calls.append(LLMCall(id=f"c{turn}", messages=tuple(messages), after=after))
            tokens += rng.randrange(3, 40)
            output = rng.randrange(2, 50)
            facts = RunFacts(1, tokens, 0, output, spans=(("decode", turn, turn + 0.5),))
            written.append(Written(name, f"c{turn}", b'"' + b"o" * 40 + b'"', turn, turn + 0.5, facts))
            messages.append(Message(role="assistant", parts=(VariablePart(variable=f"c{turn}"),)))
            tokens += output
        submission = ProgramSubmission(workflow="flow", graph=Graph(inputs={}, calls=tuple(calls)))
        journal.append(Accepted(name, "acme", 1000.0, submission.model_dump_json().encode(), "span"))
        for record in written:
            journal.append(record)
        await journal.append(Ended(name, ProgramStatus.SUCCEEDED, 9, 9.0, None)).committed()
    await journal.close()
    programs = load_traces([path])
    for program in programs:
        nodes = [node for node in program.nodes if isinstance(node, LLMNode)]
        for before, node in pairwise(nodes):
            assert node.prompt[: len(before.prompt)] == before.prompt
            assert node.prompt[len(before.prompt)] == (f"{program.program}/{before.id}.out", 0, before.output)
    first, second = (next(node for node in program.nodes if isinstance(node, LLMNode)) for program in programs)
    assert first.prompt[0].stream == second.prompt[0].stream
    assert min(first.prompt[0].end, second.prompt[0].end) > 40, "they share the text before their own"
