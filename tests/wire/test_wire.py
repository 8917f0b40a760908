"""The wire's types survive JSON, refuse what they do not know, and say what is wrong where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tenuto.wire import (
    Call,
    Constant,
    DictExpr,
    EffectClass,
    Event,
    EventKind,
    Expr,
    FunctionCall,
    GrammarConstraint,
    Graph,
    GraphExtension,
    InputVariable,
    JsonType,
    ListExpr,
    LLMCall,
    Message,
    Objective,
    ProgramSubmission,
    Reference,
    RegexConstraint,
    Retry,
    Sampling,
    TextPart,
    TextType,
    VariablePart,
    references,
)

fixed = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.\-]{0,12}\Z")
TEXTS = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PATHS = st.lists(TEXTS | st.integers(-5, 5), max_size=3).map(tuple)
TYPES = st.builds(TextType) | st.builds(JsonType, json_schema=st.dictionaries(TEXTS, JSON, max_size=2))
EXPRESSIONS: st.SearchStrategy[Expr] = st.recursive(
    st.builds(Constant, value=JSON) | st.builds(Reference, variable=NAMES, path=PATHS),
    lambda inner: (
        st.builds(ListExpr, items=st.lists(inner, max_size=3).map(tuple))
        | st.builds(DictExpr, items=st.dictionaries(TEXTS, inner, max_size=3))
    ),
    max_leaves=6,
)
SECONDS = st.floats(0.001, 86400)
OBJECTIVES = st.sampled_from(["latency", "throughput"]).map(lambda kind: Objective(kind=kind)) | SECONDS.map(
    lambda seconds: Objective(kind="deadline", deadline_s=seconds)
)
SHARED: dict[str, st.SearchStrategy[Any]] = {
    "id": NAMES,
    "output": st.none() | NAMES,
    "after": st.lists(NAMES, max_size=2).map(tuple),
    "stage": st.none() | NAMES,
    "group": st.none() | NAMES,
    "timeout_s": st.none() | SECONDS,
    "retry": st.builds(Retry, attempts=st.integers(1, 20)),
    "objective": st.none() | OBJECTIVES,
    "expected_s": st.none() | SECONDS,
}
PARTS = st.builds(TextPart, text=TEXTS) | st.builds(VariablePart, variable=NAMES, path=PATHS)
MESSAGES = st.builds(
    Message, role=st.sampled_from(["system", "user", "assistant"]), parts=st.lists(PARTS, max_size=3).map(tuple)
)
CONSTRAINTS = st.builds(RegexConstraint, pattern=TEXTS) | st.builds(GrammarConstraint, lark=TEXTS)
LLM_CALLS = st.builds(
    LLMCall,
    **SHARED,
    messages=st.lists(MESSAGES, min_size=1, max_size=3).map(tuple),
    model=st.none() | TEXTS,
    sampling=st.builds(Sampling, seed=st.none() | st.integers(0, 2**63 - 1), temperature=st.floats(0, 10)),
    constraint=st.none() | CONSTRAINTS,
    category=st.none() | NAMES,
)
FUNCTION_CALLS = st.builds(
    FunctionCall,
    **SHARED,
    type=TYPES,
    tool=NAMES,
    arguments=st.dictionaries(TEXTS, EXPRESSIONS, max_size=3),
    effect=st.sampled_from(EffectClass),
    idempotent=st.booleans(),
)
CALLS: st.SearchStrategy[Call] = LLM_CALLS | FUNCTION_CALLS
GRAPH: dict[str, st.SearchStrategy[Any]] = {
    "inputs": st.dictionaries(NAMES, st.builds(InputVariable, type=TYPES, value=JSON), max_size=2),
    "calls": st.lists(CALLS, max_size=3).map(tuple),
    "outputs": st.lists(NAMES, max_size=2).map(tuple),
}


@fixed
@given(st.builds(ProgramSubmission, workflow=NAMES, graph=st.builds(Graph, **GRAPH), objective=OBJECTIVES))
def test_a_submission_survives_json(submission: ProgramSubmission) -> None:
    text = submission.model_dump_json()
    again = ProgramSubmission.model_validate_json(text)
    assert again == submission
    assert again.model_dump_json() == text
    assert ProgramSubmission.model_validate(submission.model_dump(mode="json")) == submission


@fixed
@given(st.builds(GraphExtension, **GRAPH, seal=st.booleans(), result=JSON))
def test_an_extension_survives_json(extension: GraphExtension) -> None:
    assert GraphExtension.model_validate_json(extension.model_dump_json()) == extension


@fixed
@given(st.builds(Event, seq=st.integers(1, 2**53), at_s=SECONDS, kind=st.sampled_from(EventKind), value=JSON))
def test_an_event_survives_json(event: Event) -> None:
    assert Event.model_validate_json(event.model_dump_json()) == event


@fixed
@given(EXPRESSIONS)
def test_references_are_found_in_order_of_appearance(expr: Expr) -> None:
    def walk(node: Expr) -> list[Reference]:
        if isinstance(node, Constant):
            return []
        if isinstance(node, Reference):
            return [node]
        items = node.items if isinstance(node, ListExpr) else node.items.values()
        return [found for item in items for found in walk(item)]

    assert list(references(expr)) == walk(expr)


@fixed
@given(CALLS)
def test_a_call_is_frozen_and_its_variable_has_its_id_unless_named(call: Call) -> None:
    assert call.variable == (call.output if call.output is not None else call.id)
    with pytest.raises(ValidationError, match="frozen"):
        call.id = "other"  # type: ignore[misc]


LLM = {"kind": "llm", "id": "a", "messages": [{"role": "user", "parts": []}]}


@pytest.mark.parametrize(
    ("call", "where"),
    [
        ({**LLM, "temprature": 1}, ("llm", "temprature")),
        ({**LLM, "kind": "lmm"}, ()),
        ({**LLM, "id": "9lives"}, ("llm", "id")),
        ({**LLM, "id": "a" * 201}, ("llm", "id")),
        ({**LLM, "messages": []}, ("llm", "messages")),
        ({**LLM, "sampling": {"top_p": 0}}, ("llm", "sampling", "top_p")),
        ({**LLM, "timeout_s": float("inf")}, ("llm", "timeout_s")),
        ({**LLM, "objective": {"kind": "deadline"}}, ("llm", "objective")),
        ({**LLM, "objective": {"kind": "latency", "deadline_s": 3}}, ("llm", "objective")),
        ({**LLM, "type": {"kind": "json"}, "constraint": {"kind": "regex", "pattern": "x"}}, ("llm",)),
        (
            {"kind": "function", "id": "f", "tool": "t", "arguments": {"x": {"kind": "ref"}}},
            ("function", "arguments", "x", "ref", "variable"),
        ),
        ({"kind": "function", "id": "f", "tool": "t", "retry": {"attempts": 0}}, ("function", "retry", "attempts")),
    ],
)
def test_what_is_wrong_is_refused_at_its_place(call: dict[str, Any], where: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter[Call](Call).validate_python(call)
    assert [error["loc"] for error in caught.value.errors()] == [where]
