"""In-context reuse: near misses as worked examples in the prompt. Pure.

What is near but not near enough still shows the model what a good answer looks like ("IC-Cache: Efficient Large
Language Model Serving via In-context Caching", SOSP 2025). Only for calls that ask for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from dag.values import render
from engine.protocol import ChatMessage
from orchestrator.caching.call_cache import Example
from orchestrator.tools.values import encode_json
from tenuto.wire import LLMCall, VariablePart


def with_examples(
    messages: tuple[ChatMessage, ...], call: LLMCall, values: Mapping[str, JsonValue], examples: Iterable[Example]
) -> tuple[ChatMessage, ...]:
    """The messages with earlier turns before the one that holds the question, the least similar example first."""
    at = next((i for i in range(len(call.messages)) if _asks(call, i)), None)
    if at is None or call.question is None:
        return messages
    turns: list[ChatMessage] = []
    for example in reversed(tuple(examples)):
        asked = render(call.messages[at].parts, {**values, call.question: example.question})
        answer = example.answer if isinstance(example.answer, str) else encode_json(example.answer).decode()
        turns += [ChatMessage(messages[at].role, asked), ChatMessage("assistant", answer)]
    return (*messages[:at], *turns, *messages[at:])


def _asks(call: LLMCall, message: int) -> bool:
    parts = call.messages[message].parts
    return any(isinstance(part, VariablePart) and part.variable == call.question for part in parts)
