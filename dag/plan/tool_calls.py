"""An incremental parser of streamed `tool_calls`: the JSON that function-calling models write.

Two sources of the same calls: text (`{"name": …, "arguments": {…}}`, alone, in a list, under `tool_calls`, or inside
`<tool_call>` tags, as Hermes, Qwen and Llama write it), and OpenAI's deltas by index. A call is complete at the brace
that closes it, not at the next one's beginning. Pure; arguments are data: nothing in them is a reference.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from dag.diagnostics import shorten
from dag.plan.model import PlanDiagnostic, PlanLimits, Span


@dataclass(frozen=True, slots=True)
class EmittedCall:
    """One call that a model emitted: `index` counts them from 0, `id` is the model's own, if it gave one."""

    index: int
    tool: str
    arguments: dict[str, Any]
    span: Span
    id: str | None = None


ToolCallEvent = EmittedCall | PlanDiagnostic


class _Object:
    """Finds the end of a JSON object, character by character."""

    __slots__ = ("escaped", "quoted", "stack")

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.quoted = False
        self.escaped = False

    def take(self, char: str) -> bool:
        """True at the bracket that closes the outermost one."""
        if self.quoted:
            if self.escaped:
                self.escaped = False
            elif char == "\\":
                self.escaped = True
            elif char == '"':
                self.quoted = False
            return False
        if char == '"':
            self.quoted = True
        elif char in "{[":
            self.stack.append(char)
        elif char in "}]" and self.stack:
            self.stack.pop()
            return not self.stack
        return False


class ToolCallParser:
    """A model's text with calls in it, pushed in pieces.

    An object opens a call if its first key is one that a call has; `tool_calls` and lists open a level around calls.
    Other text is the model's own words and stays what it is. Invariant: the events depend on the text alone.
    """

    def __init__(self, limits: PlanLimits | None = None) -> None:
        self._limits = limits or PlanLimits()
        self._at = 0
        self._lines = [0]
        self._open: _Object | None = None
        self._text: list[str] = []
        self._start = 0
        self._count = 0
        self._events: list[ToolCallEvent] = []

    def feed(self, text: str) -> list[ToolCallEvent]:
        """Push a piece; returns the calls and diagnostics that it completed."""
        for char in text:
            self._push(char)
            self._at += 1
            if char == "\n":
                self._lines.append(self._at)
        events, self._events = self._events, []
        return events

    def close(self) -> list[ToolCallEvent]:
        """The text is complete: a call that is still open is told of."""
        if self._open is not None:
            self._fault("unclosed_call", "the text ends inside a call", "close its strings and braces")
            self._open = None
        events, self._events = self._events, []
        return events

    def _push(self, char: str) -> None:
        if self._open is None:
            if char == "{":
                self._open, self._text, self._start = _Object(), [], self._at
            else:
                return
        self._text.append(char)
        if self._open.take(char):
            text = "".join(self._text)
            self._open = None
            self._object(text)
        elif char in ":[" and len(self._open.stack) <= 2 and not self._open.quoted and self._is_wrapper():
            self._open = None  # `{"tool_calls": [`: the calls are the objects inside
        elif len(self._text) > self._limits.call_chars:
            self._fault("call_too_long", "a call is too long", "give shorter arguments")
            self._open = None

    def _is_wrapper(self) -> bool:
        head = "".join(self._text[:40]).translate(_BLANKS)
        return head == '{"tool_calls":['

    def _object(self, text: str) -> None:
        try:
            value = json.loads(text, strict=False)
        except (ValueError, RecursionError) as error:
            if '"name"' in text or '"function"' in text:
                self._fault("not_json", f"a call is not JSON: {shorten(str(error), 120)}", "write the call as JSON")
            return
        self._value(value)

    def _value(self, value: Any) -> None:
        function = value.get("function")
        body = function if isinstance(function, dict) else value
        name = body.get("name", function if isinstance(function, str) else None)
        if name is None and not ("arguments" in body or "parameters" in body):
            return  # an object in the model's own words
        if not isinstance(name, str) or not name:
            self._fault("name_missing", "a call has no name", 'write {"name": "tool", "arguments": {...}}')
            return
        arguments = read_arguments(body.get("arguments", body.get("parameters", {})))
        if isinstance(arguments, str):
            self._fault("arguments_invalid", f"the arguments of {name!r} {arguments}", "write a JSON object")
            return
        if self._count >= self._limits.calls:
            self._fault("too_many_calls", f"a turn has at most {self._limits.calls} calls", "make fewer calls at once")
            return
        id = value.get("id")
        span = Span(self._start, self._at + 1)
        self._events.append(EmittedCall(self._count, name, arguments, span, id if isinstance(id, str) else None))
        self._count += 1

    def _fault(self, code: str, message: str, fix: str) -> None:
        line = bisect_right(self._lines, self._start) - 1
        column = self._start - self._lines[line] + 1
        span = Span(self._start, self._at)
        self._events.append(PlanDiagnostic(code, "error", span, line + 1, column, message, fix, span))


@dataclass(slots=True)
class _Delta:
    """One call of a message as its fragments come."""

    id: str | None = None
    name: str = ""
    text: list[str] = field(default_factory=list)
    scan: _Object = field(default_factory=_Object)
    done: bool = False


class ToolCallDeltas:
    """OpenAI's stream of tool calls: fragments of names and of arguments, by index.

    Such a stream has no end of one call; the brace that closes its arguments is that end.
    """

    def __init__(self) -> None:
        self._calls: dict[int, _Delta] = {}

    def feed(self, index: int, *, id: str | None = None, name: str = "", arguments: str = "") -> list[ToolCallEvent]:
        """One fragment; returns the call that it completed, if it did."""
        call = self._calls.setdefault(index, _Delta())
        call.id = call.id or id
        call.name += name
        for char in arguments:
            call.text.append(char)
            if not call.done and call.scan.take(char):
                call.done = True
                return [_emitted(index, call)]
        return []

    def close(self) -> list[ToolCallEvent]:
        """The message is complete: calls without arguments end now, and what is still open is told of."""
        found: list[ToolCallEvent] = []
        for index, call in self._calls.items():
            if not call.done:
                call.done = True
                found.append(_emitted(index, call))
        return found


def _emitted(index: int, call: _Delta) -> ToolCallEvent:
    span = Span(0, len(call.text))
    text = "".join(call.text).strip() or "{}"
    arguments = read_arguments(text)
    if not call.name:
        arguments = "belong to no tool: the call has no name"
    if isinstance(arguments, str):
        message = f"the arguments of call {index} ({call.name!r}) {arguments}"
        return PlanDiagnostic("arguments_invalid", "error", span, 1, 1, message, "write a JSON object", span, index)
    return EmittedCall(index, call.name, arguments, span, call.id)


def read_arguments(value: Any) -> dict[str, Any] | str:
    """Arguments as an object, from an object or its JSON text; else what is wrong with them."""
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}", strict=False)
        except (ValueError, RecursionError) as error:
            return f"are not JSON: {shorten(str(error), 120)}"
    if value is None:
        return {}
    return value if isinstance(value, dict) else f"are no object but {shorten(repr(value), 60)}"


_BLANKS = {ord(char): None for char in " \t\r\n"}
