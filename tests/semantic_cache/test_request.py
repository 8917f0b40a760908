from __future__ import annotations

import dataclasses

import pytest

from semantic_cache import Answer, CacheRequest, InvalidRequest, QuestionHole, request_for_call
from semantic_cache.request import barred, keys_of, normalised, unfit
from tenuto.wire import JsonType, LLMCall, Message, RegexConstraint, Sampling, TextPart, VariablePart

BASE = CacheRequest(
    tenant="t",
    model="m",
    messages=(("system", ("Be brief.",)), ("user", ("Q: ", QuestionHole()))),
    question="What is it?",
    principal="p",
)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "u"},
        {"model": "m2"},
        {"adapter": "lora-1"},
        {"template": "w/answer"},
        {"messages": (("system", ("Be long.",)), ("user", ("Q: ", QuestionHole())))},
        {"messages": (("system", ("Be brief.",)), ("user", ("Q:", QuestionHole())))},
        {"messages": (("user", ("Be brief.",)), ("user", ("Q: ", QuestionHole())))},
        {"messages": (("system", ("Be brief.",)), ("user", (QuestionHole(), "Q: ")))},
        {"variables": {"schema": "CREATE TABLE a (b)"}},
        {"tools": ({"name": "f"},)},
        {"output": {"type": "object"}},
        {"sampling": Sampling(max_tokens=7)},
        {"sampling": Sampling(temperature=0.2)},
        {"sampling": Sampling(stop=("\n",))},
        {"tags": {"table:a": "7"}},
    ],
)
def test_everything_but_the_question_is_part_of_the_partition(change: dict[str, object]) -> None:
    other = dataclasses.replace(BASE, **change)
    assert keys_of(other).partition != keys_of(BASE).partition
    assert keys_of(other).exact != keys_of(BASE).exact


@pytest.mark.parametrize(
    "change",
    [
        {"principal": "someone else"},
        {"category": "sql"},
        {"tags": {"table:a": ""}},
        {"max_age_s": 5.0},
        {"mode": "exact"},
        {"examples": 2},
    ],
)
def test_what_does_not_change_the_answer_does_not_change_the_partition(change: dict[str, object]) -> None:
    assert keys_of(dataclasses.replace(BASE, **change)) == keys_of(BASE)


def test_the_question_changes_the_exact_key_alone() -> None:
    other = dataclasses.replace(BASE, question="What is that?")
    assert keys_of(other).partition == keys_of(BASE).partition
    assert keys_of(other).exact != keys_of(BASE).exact


def test_a_private_partition_is_the_principals_own() -> None:
    other = dataclasses.replace(BASE, principal="q")
    assert keys_of(other, private=True).partition != keys_of(BASE, private=True).partition
    assert keys_of(BASE, private=True).partition != keys_of(BASE).partition


def test_greedy_calls_do_not_depend_on_what_steers_a_draw() -> None:
    seeded = dataclasses.replace(BASE, sampling=Sampling(seed=3, top_p=0.5, top_k=4, min_p=0.1))
    assert keys_of(seeded) == keys_of(BASE)
    warm, warm_seeded = Sampling(temperature=0.1), Sampling(temperature=0.1, seed=3)
    assert keys_of(dataclasses.replace(BASE, sampling=warm)) != keys_of(dataclasses.replace(BASE, sampling=warm_seeded))


def test_normalisation_makes_equal_only_what_reads_the_same() -> None:
    assert normalised("  cafe\u0301\r\nx ") == "caf\u00e9\nx"
    for a, b in [("x²", "x2"), ("US", "us"), ("a  b", "a b"), ("a\tb", "a b")]:
        assert normalised(a) != normalised(b)


def test_parts_say_which_part_differs() -> None:
    other = dataclasses.replace(BASE, model="m2")
    differing = {n for n, d in keys_of(other).parts.items() if keys_of(BASE).parts[n] != d}
    assert differing == {"model"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mode": "off"}, "off"),
        ({"effects": True}, "effects"),
        ({"pending_tools": True}, "pending_tools"),
        ({"sampling": Sampling(temperature=0.31)}, "temperature"),
        ({"sampling": Sampling(temperature=0.3)}, None),
    ],
)
def test_what_the_cache_has_no_part_in(change: dict[str, object], reason: str | None) -> None:
    assert barred(dataclasses.replace(BASE, **change), 0.3) == reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("x"), None),
        (Answer("x", finish="length"), "finish_length"),
        (Answer("x", finish="error"), "finish_error"),
        (Answer("x", finish="cancelled"), "finish_cancelled"),
        (Answer({"call": 1}, function_calls=True), "function_calls"),
        (Answer("x" * 200), "too_large"),
    ],
)
def test_what_is_never_kept(answer: Answer, reason: str | None) -> None:
    assert unfit(answer, 100) == reason


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tenant": ""}, "tenant"),
        ({"model": "m" * 201}, "model"),
        ({"question": None}, "question"),
        ({"messages": (("user", ("no hole",)),)}, "question"),
        ({"tags": {"": ""}}, "tags"),
        ({"tags": {f"t{i}": "" for i in range(65)}}, "tags"),
        ({"max_age_s": -1.0}, "max_age_s"),
        ({"examples": 9}, "examples"),
    ],
)
def test_bad_requests_name_their_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        dataclasses.replace(BASE, **change)


def test_values_that_json_cannot_say_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="JSON"):
        keys_of(dataclasses.replace(BASE, variables={"x": float("nan")}))


CALL = LLMCall(
    id="c",
    messages=(
        Message(role="system", parts=(TextPart(text="Schema: "), VariablePart(variable="schema"))),
        Message(role="user", parts=(VariablePart(variable="question"), VariablePart(variable="row", path=("a", 0)))),
    ),
    stage="write_sql",
    category="sql",
)
VALUES = {"schema": "CREATE TABLE t (a)", "question": "How many?", "row": {"a": [5]}}


def test_a_wire_call_becomes_a_request() -> None:
    request = request_for_call(CALL, VALUES, tenant="t", model="m", question="question", workflow="w")
    assert request.question == "How many?"
    assert request.messages == (("system", ("Schema: ", "CREATE TABLE t (a)")), ("user", (QuestionHole(), "5")))
    assert (request.category, request.template) == ("sql", "w/write_sql")


def test_other_variables_of_a_call_are_matched_by_what_the_prompt_shows_of_them() -> None:
    def partition(**values: object) -> bytes:
        return keys_of(request_for_call(CALL, VALUES | values, tenant="t", model="m", question="question")).partition

    assert partition(row={"a": [6]}) != partition()
    assert partition(row={"a": [5], "b": 1}) == partition()
    assert partition(schema="CREATE TABLE t (b)") != partition()
    assert partition(question="How few?") == partition()


def test_an_unmarked_question_leaves_the_exact_tier() -> None:
    request = request_for_call(CALL, VALUES, tenant="t", model="m")
    assert request.question is None
    other = request_for_call(CALL, VALUES | {"question": "x"}, tenant="t", model="m")
    assert keys_of(request).exact != keys_of(other).exact


def test_output_type_and_constraint_are_part_of_the_partition() -> None:
    schema = CALL.model_copy(update={"type": JsonType(json_schema={"type": "object"})})
    pattern = CALL.model_copy(update={"constraint": RegexConstraint(pattern="a+")})
    keys = {keys_of(request_for_call(c, VALUES, tenant="t", model="m")).partition for c in (CALL, schema, pattern)}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("values", "question", "message"),
    [
        ({"schema": "s", "question": "q"}, "question", "'row'"),
        (VALUES | {"row": {"a": []}}, "question", "nothing at"),
        (VALUES | {"question": 5}, "question", "not text"),
        (VALUES, "row", "not text"),
        (VALUES | {"row": "text"}, "row", "read in part"),
        (VALUES, "absent", "not text"),
    ],
)
def test_calls_that_cannot_be_asked_are_located(values: dict[str, object], question: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        request_for_call(CALL, values, tenant="t", model="m", question=question)  # type: ignore[arg-type]
