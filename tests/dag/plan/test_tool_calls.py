"""Streamed tool calls: a call is complete at its own brace, whatever the wrapper and whatever the pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dag.plan import EmittedCall, PlanLimits, ToolCallDeltas, ToolCallParser
from dag.plan.tool_calls import ToolCallEvent

CALL = {"name": "search", "arguments": {"query": 'a "}" { \\ b', "n": [1, {"k": None}]}}
FUNCTION = {"name": "search", "arguments": json.dumps(CALL["arguments"])}
FORMS = {
    "alone": json.dumps(CALL),
    "list": json.dumps([CALL, CALL]),
    "tags": f"Let me see {{x}}.\n<tool_call>\n{json.dumps(CALL, indent=1)}\n</tool_call> and so on",
    "openai": json.dumps({"tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]}),
    "parameters": json.dumps({"type": "function", "name": "search", "parameters": CALL["arguments"]}),
}


def read(text: str, size: int, **options: Any) -> list[ToolCallEvent]:
    parser = ToolCallParser(**options)
    events: list[ToolCallEvent] = []
    for start in range(0, len(text), size):
        events.extend(parser.feed(text[start : start + size]))
    return events + parser.close()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_call_for_every_size_of_pieces(form: str) -> None:
    whole = read(FORMS[form], len(FORMS[form]))
    assert [(e.tool, e.arguments) for e in whole if isinstance(e, EmittedCall)] == [("search", CALL["arguments"])] * (
        2 if form == "list" else 1
    )
    assert len(whole) == (2 if form == "list" else 1)
    for size in range(1, len(FORMS[form])):
        assert read(FORMS[form], size) == whole


def test_a_call_is_there_at_its_brace() -> None:
    parser = ToolCallParser()
    text = FORMS["list"]
    end = text.index("}, {") + 1
    assert parser.feed(text[: end - 1]) == []
    assert len(parser.feed(text[end - 1 : end])) == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"name": "search", "arguments": {"q": 1}', "unclosed_call"),
        ('{"name": "search", "arguments": {q: 1}}', "not_json"),
        ('{"name": 5, "arguments": {}}', "name_missing"),
        ('{"arguments": {}}', "name_missing"),
        ('{"name": "search", "arguments": [1]}', "arguments_invalid"),
        ('{"name": "search", "arguments": "{"}', "arguments_invalid"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, code: str) -> None:
    (event,) = read("so:\n" + text, 3)
    assert not isinstance(event, EmittedCall)
    assert (event.code, event.line, event.column) == (code, 2, 1)


def test_too_many_and_too_long_calls_are_told() -> None:
    limits = PlanLimits(calls=1, call_chars=200)
    events = read(FORMS["list"] + '{"name": "' + "x" * 500, 7, limits=limits)
    assert [getattr(event, "code", "call") for event in events] == ["call", "too_many_calls", "call_too_long"]


def test_deltas_end_with_their_braces_and_not_with_the_next_call() -> None:
    deltas = ToolCallDeltas()
    assert deltas.feed(0, id="c0", name="sea") == []
    assert deltas.feed(0, name="rch", arguments='{"query": "}') == []
    (call,) = deltas.feed(0, arguments='"} ')
    assert isinstance(call, EmittedCall)
    assert (call.id, call.tool, call.arguments) == ("c0", "search", {"query": "}"})
    assert deltas.feed(1, name="now") == []
    assert deltas.feed(2, name="bad", arguments="{oops") == []
    without, broken = deltas.close()
    assert isinstance(without, EmittedCall) and without.arguments == {}
    assert not isinstance(broken, EmittedCall) and broken.code == "arguments_invalid"
