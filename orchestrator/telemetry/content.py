"""What users and models wrote, in the forms of the conventions: on spans and in events, each only if it was asked for.

Owns the standard variables about it and the JSON of messages. Never looks at what it writes down.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from engine.protocol import ChatMessage, FinishReason
from orchestrator.telemetry import names

log = logging.getLogger(__name__)

CAPTURE_CONTENT: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Environment variable: NO_CONTENT (the default), SPAN_ONLY, EVENT_ONLY or SPAN_AND_EVENT."""

EMIT_EVENT: Final = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
"""Environment variable: `true` emits an event for each LLM call even where it holds no content."""


class Capture(NamedTuple):
    """Where content goes: onto spans, into events. `events`: whether events are emitted at all."""

    spans: bool = False
    in_events: bool = False
    events: bool = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Capture:
        """What the standard variables ask for. A value that means nothing captures nothing: content may be secret."""
        mode = environment.get(CAPTURE_CONTENT, "").upper() or "NO_CONTENT"
        if mode == "TRUE":  # what the variable could be before it told places apart
            mode = "SPAN_ONLY"
        known = ("NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT")
        if mode not in known and mode != "FALSE":
            log.warning("%s=%r: no content is captured; choose one of: %s", CAPTURE_CONTENT, mode, ", ".join(known))
        in_events = mode in ("EVENT_ONLY", "SPAN_AND_EVENT")
        emits = environment.get(EMIT_EVENT, "").lower() == "true"
        return cls(mode in ("SPAN_ONLY", "SPAN_AND_EVENT"), in_events, in_events or emits)


NO_CONTENT: Final = Capture()


def of_call(messages: Sequence[ChatMessage], text: str, finish: FinishReason | None) -> dict[str, str]:
    """The attributes with the content of an LLM call: instructions, the other messages, and what the model wrote."""
    instructions = [_text(message.content) for message in messages if message.role == "system"]
    asked = [_message(message) for message in messages if message.role != "system"]
    answer = {"role": "assistant", "parts": [_text(text)], "finish_reason": finish.value if finish else "error"}
    attributes = {names.INPUT_MESSAGES: as_json(asked), names.OUTPUT_MESSAGES: as_json([answer])}
    if instructions:
        attributes[names.SYSTEM_INSTRUCTIONS] = as_json(instructions)
    return attributes


def of_tool(arguments: Any, result: Any) -> dict[str, str]:
    """The attributes with the content of a function call."""
    return {names.TOOL_ARGUMENTS: as_json(arguments), names.TOOL_RESULT: as_json(result)}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _message(message: ChatMessage) -> dict[str, Any]:
    if message.role == "tool":
        part = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.content}
        return {"role": "tool", "parts": [part]}
    parts = [_text(message.content)] if message.content or not message.tool_calls else []
    return {"role": message.role, "parts": parts + [_tool_call(call) for call in message.tool_calls]}


def _tool_call(call: str) -> dict[str, Any]:
    """A call in OpenAI's shape as a part of a message."""
    told = json.loads(call)
    function = told.get("function", {})
    return {
        "type": "tool_call",
        "id": told.get("id"),
        "name": function.get("name"),
        "arguments": function.get("arguments"),
    }


def _text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}
