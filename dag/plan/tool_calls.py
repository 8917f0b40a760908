"""An incremental parser of streamed `tool_calls`: the JSON that function-calling models write.

Two sources of the same calls: text (`{"name": …, "arguments": {…}}`, alone, in a list, under `tool_calls`, or inside
`<tool_call>` tags, as Hermes, Qwen and Llama write it), and OpenAI's deltas by index. A call is complete at the brace
that closes it, not at the next one's beginning. Pure; arguments are data: nothing in them is a reference.
"""

from __future__ import annotations

import json
import re
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


_NEWLINE = re.compile(r"\n")
_WRAPPER = re.compile(r'\{\s*"tool_calls"\s*:\s*\[')
_LONGEST_WRAPPER = 64

ToolCallEvent = EmittedCall | PlanDiagnostic


_MARKS = re.compile(r'["{}\[\]]')
_QUOTED_MARKS = re.compile(r'["\\]')


class _Object:
    """Finds the end of a JSON object or list, in text that comes in pieces."""

    __slots__ = ("depth", "escaped", "quoted")

    def __init__(self) -> None:
        self.depth = 0
        self.quoted = False
        self.escaped = False  # the last piece ended with the backslash of an escape

    def end(self, text: str, at: int) -> int:
        """The place behind the bracket that closes the outermost one, looked for from `at` on; -1 if it is to come."""
        if self.escaped and at < len(text):
            self.escaped = False
            at += 1
        while mark := (_QUOTED_MARKS if self.quoted else _MARKS).search(text, at):
            at = mark.end()
            char = mark[0]
            if char == '"':
                self.quoted = not self.quoted
            elif char == "\\":
                if at == len(text):
                    self.escaped = True
                    return -1
                at += 1
            elif char in "{[":
                self.depth += 1
            elif self.depth:
                self.depth -= 1
                if not self.depth:
                    return at
        return -1


class ToolCallParser:
    """A model's text with calls in it, pushed in pieces.

    An object opens a call if its first key is one that a call has; `tool_calls` and lists open a level around calls.
    Other text is the model's own words and stays what it is. Invariant: the events depend on the text alone.
    """

    def __init__(self, limits: PlanLimits | None = None) -> None:
        self._limits = limits or PlanLimits()
        self._at = 0  # offset of the piece that is read
        self._lines = [0]
        self._open: _Object | None = None
        self._text: list[str] = []
        self._chars = 0
        self._start = 0
        self._end = 0
        self._count = 0
        self._events: list[ToolCallEvent] = []

    def feed(self, text: str) -> list[ToolCallEvent]:
        """Push a piece; returns the calls and diagnostics that it completed."""
        self._lines.extend(self._at + match.end() for match in _NEWLINE.finditer(text))
        at = 0
        while at < len(text):
            if self._open is None:
                at = text.find("{", at)
                if at < 0:
                    break
                self._open, self._text, self._chars, self._start = _Object(), [], 0, self._at + at
            at = self._push(self._open, text, at)
        self._at += len(text)
        return self._taken()

    @property
    def open_at(self) -> int | None:
        """Where the object begins that is not closed yet, as an offset into the text; None: none is open."""
        return None if self._open is None else self._start

    def close(self) -> list[ToolCallEvent]:
        """The text is complete: a call that is still open is told of."""
        self._end = self._at
        if self._open is not None:
            self._fault("unclosed_call", "the text ends inside a call", "close its strings and braces")
            self._open = None
        return self._taken()

    def _taken(self) -> list[ToolCallEvent]:
        events, self._events = self._events, []
        return events

    def _push(self, call: _Object, text: str, at: int) -> int:
        """Read the open object from `at` on; returns where to go on."""
        if self._chars < _LONGEST_WRAPPER:  # `{"tool_calls": [`: the calls are the objects inside
            head = "".join(self._text) + text[at : at + _LONGEST_WRAPPER]
            if wrapper := _WRAPPER.match(head):
                self._open = None
                return at + wrapper.end() - self._chars
        end = call.end(text, at)
        piece = text[at:] if end < 0 else text[at:end]
        self._text.append(piece)
        self._chars += len(piece)
        self._end = self._at + at + len(piece)
        if self._chars > self._limits.call_chars:
            self._open = None
            self._fault("call_too_long", "a call is too long", "give shorter arguments")
        elif end >= 0:
            self._open = None
            self._object("".join(self._text))
        return at + len(piece)

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
        span = Span(self._start, self._end)
        self._events.append(EmittedCall(self._count, name, arguments, span, id if isinstance(id, str) else None))
        self._count += 1

    def _fault(self, code: str, message: str, fix: str) -> None:
        line = bisect_right(self._lines, self._start) - 1
        column = self._start - self._lines[line] + 1
        span = Span(self._start, self._end)
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
        call.text.append(arguments)
        if not call.done and call.scan.end(arguments, 0) >= 0:
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
    text = "".join(call.text)
    span = Span(0, len(text))
    text = text.strip() or "{}"
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
