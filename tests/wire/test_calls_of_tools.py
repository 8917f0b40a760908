"""What an LLM call may say of the tools that a model may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tenuto.wire import LLMCall, Message

MESSAGES = [{"role": "user", "parts": [{"kind": "text", "text": "hi"}]}]
TOOLS = [{"name": "look"}, {"name": "count"}]


def call(**fields: Any) -> LLMCall:
    return LLMCall.model_validate({"id": "a", "messages": MESSAGES, **fields})


def test_the_tools_that_must_be_asked_for() -> None:
    assert call(tools=TOOLS).must_call == ()
    assert [tool.name for tool in call(tools=TOOLS, tool_choice="required").must_call] == ["look", "count"]
    assert [tool.name for tool in call(tools=TOOLS, tool_choice={"name": "count"}).must_call] == ["count"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"tool_choice": "required"}, "has no tools"),
        ({"tools": TOOLS, "tool_choice": {"name": "other"}}, "there is no tool 'other'"),
        ({"tools": TOOLS, "tool_choice": "required", "type": {"kind": "json"}}, "no other constraint"),
        (
            {"tools": TOOLS, "tool_choice": "required", "constraint": {"kind": "json", "json_schema": {}}},
            "no other constraint",
        ),
        ({"sampling": {"logprobs": 21}}, "less than or equal to 20"),
        ({"sampling": {"logit_bias": {"5": 101}}}, "less than or equal to 100"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        call(**fields)


@pytest.mark.parametrize("fields", [{"tool_calls": [{"name": "look"}]}, {"tool_call_id": "c"}])
def test_calls_and_results_belong_to_their_roles(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="only a message of"):
        Message.model_validate({"role": "user", "parts": [], **fields})
