"""What counts as a value, for tools and for models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from orchestrator.tools import CallFailure
from orchestrator.tools.values import NotJson, accept_result, accept_text, encode_json
from tenuto.wire import JsonType, TextType

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    encoded = encode_json(value)
    assert from_json(encoded) == value == json.loads(encoded)
    assert accept_result(JsonType(), value, 10**6) == (value, encoded)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {1, 2}, "\ud800", ["\udfff"], object(), _deep(10**5)])
def test_what_json_lacks_is_refused(value: Any) -> None:
    with pytest.raises(NotJson):
        encode_json(value)
    with pytest.raises(CallFailure) as caught:
        accept_result(JsonType(), value, 10**6)
    assert caught.value.type == "result_invalid" and not caught.value.retryable


def test_the_limit_counts_bytes_of_json() -> None:
    accept_result(TextType(), "é" * 49, 100)
    with pytest.raises(CallFailure, match=r"102 bytes.*100") as caught:
        accept_result(TextType(), "é" * 50, 100)
    assert caught.value.type == "result_too_large"


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), (' {"a": [1, null]} ', {"a": [1, None]}), ("1" * 40, int("1" * 40)), ('"x"', "x")]
)
def test_json_output_is_parsed(text: str, value: Any) -> None:
    assert accept_text(JsonType(), text, cut=False)[0] == value


@pytest.mark.parametrize("text", ["", "no", "{", "NaN", "[Infinity]", "1 2", '{"a": 1,}', "'a'"])
def test_output_that_is_not_json_is_refused_and_may_be_retried(text: str) -> None:
    with pytest.raises(CallFailure) as caught:
        accept_text(JsonType(), text, cut=False)
    assert caught.value.type == "output_invalid" and caught.value.retryable
    assert "max_tokens" not in caught.value.message
    with pytest.raises(CallFailure, match="max_tokens"):
        accept_text(JsonType(), text, cut=True)


def test_text_output_is_taken_as_it_is() -> None:
    assert accept_text(TextType(), '{"a"', cut=True) == ('{"a"', b'"{\\"a\\""')
    with pytest.raises(CallFailure, match="cannot be kept"):
        accept_text(TextType(), "\ud800", cut=False)
