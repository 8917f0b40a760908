"""Tool calls are found in a model's text wherever it is cut, and words stay words."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dag.plan import EmittedCall
from orchestrator.api.openai.reading import AnswerReader, read_answer

CALL = '{"name": "look", "arguments": {"at": "<a> [b] {c}"}}'
TEXTS = [
    (f"I look.\n<tool_call>\n{CALL}\n</tool_call>", "I look.", 1),
    (f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>", "", 2),
    (f"[{CALL}, {CALL}]", "", 2),
    (f'{{"tool_calls": [{CALL}]}}', "", 1),
    (f"```json\n{CALL}\n``` There.", "There.", 1),
    (f"[TOOL_CALLS] [{CALL}]", "", 1),
    ('a < b, x[1], {"k": [1]} and {"name": "other", "arguments": {}} `code`', None, 0),
    ('{"name": "look", "arguments": {"at"', None, 0),
    ("no calls at all  \n", None, 0),
]


@pytest.mark.parametrize(("text", "words", "calls"), TEXTS)
def test_calls_and_words(text: str, words: str | None, calls: int) -> None:
    said, called = read_answer(text, ["look"])
    assert (said, len(called)) == (text if words is None else words, calls)
    assert all(call.arguments == {"at": "<a> [b] {c}"} for call in called)


@given(st.sampled_from([text for text, _, _ in TEXTS]), st.lists(st.integers(0, 120), max_size=8))
@settings(max_examples=120, deadline=None)
def test_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    reader = AnswerReader(["look"])
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [part for start, end in pairwise(places) for part in reader.feed(text[start:end])]
    parts += reader.close()
    words, calls = read_answer(text, ["look"])
    assert "".join(part for part in parts if isinstance(part, str)) == words
    assert len([part for part in parts if isinstance(part, EmittedCall)]) == len(calls)


def test_words_are_not_held_back() -> None:
    reader = AnswerReader(["look"])
    assert reader.feed("Hello there") == ["Hello there"]
    assert reader.feed(" a <") == [" a"]
    assert reader.feed("b") == [" <b"]


def test_without_tools_the_text_passes_untouched() -> None:
    assert read_answer(CALL, []) == (CALL, [])
