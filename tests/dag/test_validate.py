"""Validation: every fault, all at once, each at its place; and nothing but faults."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.graphs import TOOLS, layered_graph
from dag import Diagnostic, GraphLimits, InvalidGraph, ProgramGraph
from tenuto.wire import Graph, ToolSpec
from tests.dag.strategies import INPUTS, Program, fixed, programs
from tests.dag.test_graph import call

ROW = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "size": {"type": "integer"}, "tags": {"type": "array", "maxItems": 2}},
    "required": ["name"],
    "additionalProperties": False,
}
SEARCH = ToolSpec(
    name="search",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}, "row": ROW, "any": {}},
        "required": ["query"],
    },
    returns={"type": "array", "items": ROW},
)


def faults(
    document: dict[str, Any], limits: GraphLimits | None = None, base: ProgramGraph | None = None
) -> list[Diagnostic]:
    graph = Graph.model_validate(document)
    try:
        (base or ProgramGraph(limits=limits)).extend(graph.inputs, graph.calls, graph.outputs, {"search": SEARCH})
    except InvalidGraph as invalid:
        return list(invalid.diagnostics)
    return []


def llm(name: str, *parts: str | tuple[str, list[str | int]], **more: Any) -> dict[str, Any]:
    holes = [
        {"kind": "variable", "variable": part, "path": []}
        if isinstance(part, str)
        else {"kind": "variable", "variable": part[0], "path": part[1]}
        for part in parts
    ]
    return {
        "kind": "llm",
        "id": name,
        "messages": [{"role": "user", "parts": [{"kind": "text", "text": "?"}, *holes]}],
        **more,
    }


def ref(name: str, *path: str | int) -> dict[str, Any]:
    return {"kind": "ref", "variable": name, "path": list(path)}


def literal(value: Any) -> dict[str, Any]:
    return {"kind": "literal", "value": value}


def search(name: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "function", "id": name, "tool": "search", "arguments": arguments, "type": LIST_TYPE, **more}


def json_type(schema: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "json", "json_schema": schema}


LIST_TYPE = json_type({"type": "array", "items": ROW})
INPUT = {"q": {"value": "why?"}, "row": {"value": {"name": "x"}, "type": json_type(ROW)}}

# document, code, pointer, words of the message, words of the fix
Case = tuple[dict[str, Any], str, str, str, str]
CASES: dict[str, Case] = {
    "unknown variable in a prompt": (
        {"inputs": INPUT, "calls": [llm("a", "q", "qq")]},
        "unknown_variable", "/calls/0/messages/0/parts/2/variable", "'qq'", "did you mean 'q'?",
    ),
    "unknown variable deep in an argument": (
        {"calls": [search("a", {"query": literal("x"), "any": {"kind": "list", "items": [
            literal(1), {"kind": "dict", "items": {"a/b": ref("nothing")}}]}})]},
        "unknown_variable", "/calls/0/arguments/any/items/1/items/a~1b/variable", "'nothing'", "name an input",
    ),
    "a call's id where its output has another name": (
        {"calls": [llm("a", output="x"), llm("b", "a")]},
        "unknown_variable", "/calls/1/messages/0/parts/1/variable", "'a'", "writes the variable 'x'",
    ),
    "unknown call in after": (
        {"calls": [llm("first"), llm("b", after=["frist"])]},
        "unknown_call", "/calls/1/after/0", "'frist'", "did you mean 'first'?",
    ),
    "a variable in after": (
        {"calls": [llm("a", output="x"), llm("b", after=["x"])]},
        "unknown_call", "/calls/1/after/0", "'x'", "its call 'a'",
    ),
    "duplicate call": (
        {"calls": [llm("a"), llm("b"), llm("a")]},
        "duplicate_call", "/calls/2/id", "taken by /calls/0", "an id of its own",
    ),
    "two producers": (
        {"calls": [llm("a", output="x"), llm("b", output="x")]},
        "two_producers", "/calls/1/output", "by call 'a' and by call 'b'", "rename",
    ),
    "two producers, one by its id": (
        {"calls": [llm("a", output="b"), llm("b")]},
        "two_producers", "/calls/1/id", "'b'", "rename",
    ),
    "input and output of the same name": (
        {"inputs": INPUT, "calls": [llm("a", output="q")]},
        "input_and_output_same_name", "/calls/0/output", "'q'", "rename",
    ),
    "self reference": (
        {"calls": [llm("a", "x", output="x")]},
        "self_reference", "/calls/0/messages/0/parts/1/variable", "'x'", "another",
    ),
    "self reference by after": (
        {"calls": [llm("a", after=["a"])]},
        "self_reference", "/calls/0/after/0", "waits for itself", "leave it out",
    ),
    "cycle": (
        {"calls": [llm("free"), llm("a", "c"), llm("b", "a"), search("c", {"query": literal("x"), "any": ref("b")})]},
        "cycle", "/calls/1/messages/0/parts/1/variable", "'a' -> 'b' -> 'c' -> 'a'", "let 'a' not depend on 'c'",
    ),
    "cycle by after": (
        {"calls": [llm("a", after=["b"]), llm("b", "a")]},
        "cycle", "/calls/0/after/0", "'a' -> 'b' -> 'a'", "let 'a' not depend on 'b'",
    ),
    "output that nobody produces": (
        {"calls": [llm("answer")], "outputs": ["answer", "anwser"]},
        "unreachable_output", "/outputs/1", "'anwser'", "did you mean 'answer'?",
    ),
    "path into text": (
        {"inputs": INPUT, "calls": [llm("a", ("q", ["x"]))]},
        "type_mismatch", "/calls/0/messages/0/parts/1/path/0", "'q' is text", "drop the path",
    ),
    "path that the schema rules out": (
        {"inputs": INPUT, "calls": [llm("a", ("row", ["nam"]))]},
        "type_mismatch", "/calls/0/messages/0/parts/1/path/0", "nothing at /nam", "did you mean 'name'?",
    ),
    "path too deep": (
        {"inputs": INPUT, "calls": [search("a", {"query": ref("row", "name", "first")})]},
        "type_mismatch", "/calls/0/arguments/query/path/1", "what is at /name is text", "mend the path",
    ),
    "index beyond the list": (
        {"inputs": INPUT, "calls": [llm("a", ("row", ["tags", 2]))]},
        "type_mismatch", "/calls/0/messages/0/parts/1/path/1", "at most 2", "mend the path",
    ),
    "argument of the wrong type": (
        {"calls": [llm("n", type=json_type({"type": "integer"})), search("a", {"query": ref("n")})]},
        "type_mismatch", "/calls/1/arguments/query/variable", "n is an integer where text is expected", "parameters",
    ),
    "part of the wrong type": (
        {"inputs": INPUT, "calls": [search("a", {"query": ref("row", "size")})]},
        "type_mismatch", "/calls/0/arguments/query/variable", "row['size'] is an integer where text", "parameters",
    ),
    "constant of the wrong type": (
        {"calls": [search("a", {"query": literal("x"), "limit": literal(0)})]},
        "type_mismatch", "/calls/0/arguments/limit/value", "0 is less than the minimum of 1", "parameters",
    ),
    "constant with a fault inside": (
        {"calls": [search("a", {"query": literal("x"), "row": literal({"name": 3})})]},
        "type_mismatch", "/calls/0/arguments/row/value/name", "3 is not of type", "parameters",
    ),
    "list where text is expected": (
        {"calls": [search("a", {"query": {"kind": "list", "items": []}})]},
        "type_mismatch", "/calls/0/arguments/query", "a list where text is expected", "parameters",
    ),
    "object where an integer is expected": (
        {"calls": [search("a", {"query": literal("x"), "limit": {"kind": "dict", "items": {}}})]},
        "type_mismatch", "/calls/0/arguments/limit", "an object where an integer is expected", "parameters",
    ),
    "object that lacks a key": (
        {"calls": [search("a", {"query": literal("x"), "row": {"kind": "dict", "items": {"size": literal(1)}}})]},
        "type_mismatch", "/calls/0/arguments/row", "lacks the key 'name'", "parameters",
    ),
    "object with a key too many": (
        {"calls": [search("a", {"query": literal("x"), "row": {"kind": "dict", "items": {
            "name": literal("n"), "age": literal(1)}}})]},
        "type_mismatch", "/calls/0/arguments/row/items/age", "'age' is not allowed", "parameters",
    ),
    "list with an item too many": (
        {"calls": [search("a", {"query": literal("x"), "row": {"kind": "dict", "items": {
            "name": literal("n"), "tags": {"kind": "list", "items": [literal(1)] * 3}}}})]},
        "type_mismatch", "/calls/0/arguments/row/items/tags/items/2", "item 2 is too many", "parameters",
    ),
    "declared type that the tool never returns": (
        {"calls": [search("a", {"query": literal("x")}, type={"kind": "text"})]},
        "type_mismatch", "/calls/0/type", "is a list where text is expected", "that the tool returns",
    ),
    "missing argument": (
        {"calls": [search("a", {})]},
        "missing_argument", "/calls/0/arguments", "'query'", "give the argument 'query'",
    ),
    "unknown argument": (
        {"calls": [search("a", {"query": literal("x"), "limt": literal(3)})]},
        "unknown_argument", "/calls/0/arguments/limt", "'limt'", "did you mean 'limit'?",
    ),
    "value of an input": (
        {"inputs": {"row": {"value": {"name": "x", "tags": [1, 2, 3]}, "type": json_type(ROW)}}},
        "value_mismatch", "/inputs/row/value/tags", "input 'row'", "change the value",
    ),
    "constant that JSON cannot hold": (
        {"calls": [search("a", {"query": literal("x"), "any": {"kind": "list", "items": [
            literal(1), literal({"a": [float("nan")]})]}})]},
        "value_mismatch", "/calls/0/arguments/any/items/1/value/a/0", "nan is no JSON number", "pass a JSON value",
    ),
    "text input that is none": (
        {"inputs": {"q": {"value": 3}}},
        "value_mismatch", "/inputs/q/value", "a number where text is expected", "change the value",
    ),
    "schema of an input that is none": (
        {"inputs": {"x": {"value": 1, "type": json_type({"type": "integr"})}}},
        "invalid_schema", "/inputs/x/type/json_schema/type", "integr", "mend the schema",
    ),
    "schema of a call that is none": (
        {"calls": [llm("a", type=json_type({"properties": {"x": {"$ref": "https://example.com"}}}))]},
        "invalid_schema", "/calls/0/type/json_schema", "outside the schema", "mend the schema",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_single_fault_is_the_only_one_told_and_told_at_its_place(name: str) -> None:
    document, code, where, message, fix = CASES[name]
    (found,) = faults(document)
    assert (found.code, found.pointer) == (code, where)
    assert message in found.message
    assert fix in found.fix


def shifted(pointer: str, offset: int) -> str:
    steps = pointer.split("/")
    return "/".join([*steps[:2], str(int(steps[2]) + offset), *steps[3:]]) if steps[1] == "calls" else pointer


@fixed
@given(programs(), st.sampled_from(sorted(set(CASES) - {"duplicate call"})))
def test_a_fault_planted_into_a_sound_program_is_found(program: Program, name: str) -> None:
    document, code, where, _, _ = CASES[name]
    graph = Graph.model_validate(document)
    try:
        ProgramGraph().extend(
            {**INPUTS, **graph.inputs}, [*program.calls, *graph.calls], graph.outputs, {"search": SEARCH}
        )
    except InvalidGraph as invalid:
        found = [(fault.code, fault.pointer) for fault in invalid.diagnostics]
    assert found == [(code, shifted(where, len(program.calls)))]


def test_all_faults_are_told_at_once() -> None:
    calls: list[dict[str, Any]] = []
    expected: set[tuple[str, str]] = set()
    inputs: dict[str, Any] = {}
    outputs: list[str] = []
    for index, (document, code, where, _, _) in enumerate(CASES.values()):
        renamed = _renamed(document, f"_{index}")
        place = shifted(where, len(calls))
        if place.startswith("/outputs"):
            place = f"/outputs/{len(outputs) + int(place.split('/')[2])}"
        elif place.startswith("/inputs"):
            _, _, name, *rest = place.split("/")
            place = "/".join(["", "inputs", f"{name}_{index}", *rest])
        expected.add((code, place))
        inputs.update(renamed["inputs"])
        calls.extend(renamed["calls"])
        outputs.extend(renamed["outputs"])
    found = faults({"inputs": inputs, "calls": calls, "outputs": outputs})
    assert {(fault.code, fault.pointer) for fault in found} == expected
    assert len(found) == len(CASES)
    assert all(fault.message and fault.fix for fault in found)


def _renamed(document: dict[str, Any], suffix: str) -> dict[str, Any]:
    """The same graph with a suffix on every name of a call or a variable."""
    graph = Graph.model_validate(document).model_dump()

    def walk(node: Any, key: str = "") -> Any:
        if isinstance(node, dict) and key not in ("json_schema", "value"):
            return {k: walk(v, k) for k, v in node.items()}
        if isinstance(node, list | tuple) and key not in ("path", "value"):
            return [walk(item, key) for item in node]
        return node + suffix if key in ("id", "output", "variable", "after", "outputs") and node is not None else node

    renamed = walk(graph)
    return {**renamed, "inputs": {name + suffix: value for name, value in renamed["inputs"].items()}}


GROWN: dict[str, Case] = {
    "duplicate call": ({"calls": [llm("old")]}, "duplicate_call", "/calls/0/id", "an earlier extension", "own"),
    "two producers": ({"calls": [llm("n", output="x")]}, "two_producers", "/calls/0/output", "'old'", "rename"),
    "input over output": (
        {"inputs": {"x": {"value": ""}}}, "input_and_output_same_name", "/inputs/x", "call 'old' writes", "rename",
    ),
    "output over input": (
        {"calls": [llm("q")]}, "input_and_output_same_name", "/calls/0/id", "an input of the program", "rename",
    ),
    "input again": ({"inputs": {"q": {"value": "new"}}}, "duplicate_input", "/inputs/q", "written once", "leave it"),
    "path into old text": (
        {"calls": [llm("n", ("x", [0]))]}, "type_mismatch", "/calls/0/messages/0/parts/1/path/0", "is text", "drop",
    ),
    "old variable as argument": (
        {"calls": [search("n", {"query": literal("a"), "limit": ref("x")})]},
        "type_mismatch", "/calls/0/arguments/limit/variable", "x is text where an integer", "parameters",
    ),
    "old call unknown": ({"calls": [llm("n", after=["odl"])]}, "unknown_call", "/calls/0/after/0", "'odl'", "'old'"),
}  # fmt: skip


@pytest.mark.parametrize("name", GROWN)
def test_an_extension_is_checked_against_what_exists(name: str) -> None:
    document, code, where, message, fix = GROWN[name]
    graph = ProgramGraph()
    assert not faults({"inputs": INPUT, "calls": [llm("old", "q", output="x")], "outputs": ["x"]}, base=graph)
    (found,) = faults(document, base=graph)
    assert (found.code, found.pointer) == (code, where)
    assert message in found.message
    assert fix in found.fix


def test_each_knot_of_calls_gets_its_own_shortest_cycle() -> None:
    calls = [llm("a", "b"), llm("b", "c", "d"), llm("c", "a"), llm("d", "b"), llm("x", "y"), llm("y", "x", "a")]
    first, second = faults({"calls": calls})
    assert (
        "'a' -> 'b' -> 'c' -> 'a'" not in first.message
    )  # the circle goes with the reading: b waits for c waits for a
    assert first.message.endswith("'a' -> 'c' -> 'b' -> 'a'")  # the way the data would go
    assert (first.pointer, first.code) == ("/calls/0/messages/0/parts/1/variable", "cycle")
    assert second.message.endswith("'x' -> 'y' -> 'x'")
    assert second.pointer == "/calls/4/messages/0/parts/1/variable"


def test_a_cycle_of_thousands_is_named_in_short() -> None:
    calls = [llm(f"c{index}", f"c{(index + 1) % 5000}") for index in range(5000)]
    (found,) = faults({"calls": calls})
    assert found.code == "cycle"
    assert len(found.message) < 300


@pytest.mark.parametrize(
    ("limits", "document", "code", "where"),
    [
        (GraphLimits(max_calls=1), {"calls": [llm("a"), llm("b")]}, "too_many_calls", "/calls"),
        (GraphLimits(max_inputs=1), {"inputs": INPUT}, "too_many_inputs", "/inputs"),
        (GraphLimits(max_prompt_chars=0), {"calls": [llm("a")]}, "prompt_too_large", "/calls/0/messages"),
        (
            GraphLimits(max_edges_per_call=1),
            {"inputs": INPUT, "calls": [llm("a", "q", "q")]},
            "too_many_edges",
            "/calls/0",
        ),
        (
            GraphLimits(max_schema_chars=5),
            {"inputs": {"x": {"value": 1, "type": json_type({"type": "integer"})}}},
            "schema_too_large",
            "/inputs/x/type/json_schema",
        ),
    ],
)
def test_limits(limits: GraphLimits, document: dict[str, Any], code: str, where: str) -> None:
    (found,) = faults(document, limits)
    assert (found.code, found.pointer) == (code, where)


def test_limits_count_over_all_extensions() -> None:
    graph = ProgramGraph(limits=GraphLimits(max_calls=2, max_inputs=2))
    assert not faults({"inputs": INPUT, "calls": [llm("a"), llm("b")]}, base=graph)
    assert [found.code for found in faults({"calls": [llm("c")]}, base=graph)] == ["too_many_calls"]
    assert [found.code for found in faults({"inputs": {"z": {"value": ""}}}, base=graph)] == ["too_many_inputs"]


def test_an_argument_too_deep_is_refused_before_anything_recurses_into_it() -> None:
    expr = ref("q")
    for _ in range(30):
        expr = {"kind": "list", "items": [expr]}
    document = {"inputs": INPUT, "calls": [search("a", {"query": literal("x"), "any": expr})]}
    assert not faults(document)
    (found,) = faults(document, GraphLimits(max_expression_depth=29))
    assert (found.code, found.pointer) == ("expression_too_deep", "/calls/0/arguments/any")


def test_no_more_faults_are_told_than_the_limit_and_the_last_one_counts_the_rest() -> None:
    calls = [llm(f"c{index}", "nowhere", "neither") for index in range(2000)]
    start = time.process_time()
    found = faults({"calls": calls}, GraphLimits(max_diagnostics=10))
    assert time.process_time() - start < 2.0
    assert [fault.code for fault in found] == ["unknown_variable"] * 10 + ["more_faults"]
    assert "3990 more" in found[-1].message


def test_many_unknown_names_among_many_known_ones_cost_little() -> None:
    calls = [llm(f"some_call_{index}") for index in range(5000)]
    calls += [llm(f"other{index}", f"some_cal_{index}_") for index in range(100)]
    graph = Graph.model_validate({"calls": calls})
    start = time.process_time()
    with pytest.raises(InvalidGraph) as caught:
        ProgramGraph().extend({}, graph.calls, ())
    assert time.process_time() - start < 3.0
    assert "did you mean 'some_call_" in caught.value.diagnostics[0].fix


@fixed
@given(st.integers(0, 10_000), st.integers(1, 120))
def test_sound_graphs_raise_no_false_alarm(seed: int, calls: int) -> None:
    graph = layered_graph(random.Random(seed), calls, width=8)
    program = ProgramGraph()
    program.extend(graph.inputs, graph.calls, graph.outputs, TOOLS)
    assert len(program.calls) == calls


@pytest.mark.parametrize(
    ("parameters", "arguments"),
    [
        ({}, {"anything": literal(1)}),
        ({"type": "object"}, {"anything": literal(1)}),
        ({"properties": {"a": {}}, "additionalProperties": True}, {"b": literal(1)}),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "integer"}}, {"b": literal(1)}),
        ({"properties": {"a": {}}, "patternProperties": {"^b": {}}}, {"b": literal(1)}),
        ({"properties": {"a": {"type": "number"}}}, {"a": ref("integer")}),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, {"a": ref("text")}),
        ({"properties": {"a": {"$ref": "#/$defs/T"}}, "$defs": {"T": {"type": "string"}}}, {"a": literal("x")}),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "string"}}}, {"a": literal(1)}),
        ({"properties": {"a": {"type": "array", "items": {"type": "string"}}}}, {"a": ref("anything")}),
        ({"properties": {"a": {"type": "string"}}}, {"a": ref("anything", "deep", 0, "down")}),
        ({"properties": {"a": {"type": "array", "items": {"type": "string"}}}}, {"a": ref("anything", -1)}),
    ],
)
def test_what_may_fit_a_tool_is_accepted(parameters: dict[str, Any], arguments: dict[str, Any]) -> None:
    graph = Graph.model_validate(
        {
            "inputs": {
                "integer": {"value": 1, "type": json_type({"type": "integer"})},
                "text": {"value": "x"},
                "anything": {"value": None, "type": json_type({})},
            },
            "calls": [{"kind": "function", "id": "f", "tool": "t", "arguments": arguments}],
        }
    )
    tools = {"t": ToolSpec(name="t", parameters=parameters)}
    assert ProgramGraph().extend(graph.inputs, graph.calls, graph.outputs, tools) == ("f",)


def test_a_tool_that_is_not_given_is_not_checked() -> None:
    graph = ProgramGraph()
    assert graph.extend({}, [call("f")], (), {"search": SEARCH}) == ("f",)


def test_what_a_client_sent_is_not_sent_back_whole() -> None:
    long = "x" * 100_000
    document = {"inputs": INPUT, "calls": [llm("a", ("row", [long])), search("b", {"query": literal([long])})]}
    found = faults(document)
    assert [fault.code for fault in found] == ["type_mismatch", "type_mismatch"]
    assert all(len(fault.message) <= 1000 for fault in found)


def test_an_input_may_be_an_output() -> None:
    assert not faults({"inputs": INPUT, "outputs": ["q"]})


def test_the_exception_tells_everything() -> None:
    with pytest.raises(InvalidGraph, match="2 faults") as caught:
        ProgramGraph().extend({}, [call("a", "x")], ("y",))
    assert "/calls/0/arguments/a0/variable: call 'a' reads an unknown variable 'x' [unknown_variable]" in str(
        caught.value
    )
    assert len(caught.value.diagnostics) == 2


def test_ten_thousand_calls_are_built_and_validated_within_a_second() -> None:
    graph = layered_graph(random.Random(1), 10_000)
    best = 9.0
    for _ in range(3):  # processor time and the best of three: the machine may be busy with other things
        start = time.process_time()
        ProgramGraph().extend(graph.inputs, graph.calls, graph.outputs, TOOLS)
        best = min(best, time.process_time() - start)
    assert best < 1.0
