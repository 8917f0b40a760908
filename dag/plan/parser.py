"""An incremental parser of planners' texts: `1. search("x")`, `2. math("y", [$1])`, `join()`.

Pushed characters in, calls and diagnostics out, each call at its closing parenthesis. Pure: the events depend on the
text alone, never on how it was cut into chunks. Every character that is not blank belongs to an event or a comment.

The grammar is LLMCompiler's (arXiv 2312.04511, section 4), with a tokenizer in the place of its regular expression.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable

from dag.diagnostics import shorten
from dag.plan.arguments import ArgumentFault, ArgumentParser, unescaped
from dag.plan.model import (
    OpenText,
    PlanDiagnostic,
    PlanEvent,
    PlanLimits,
    PlannedCall,
    PlannedJoin,
    Severity,
    Span,
    references_of,
)

END = "<END_OF_PLAN>"
JOIN = frozenset({"join", "join_finish", "finish"})

_HEAD = re.compile(r"(?:(?<=[\s,;)*`])|^)(?:[-*•]\s*)?(\d{1,9})\s*[.):]\s*([A-Za-z_][\w.\-]*)\s*\($")
_JOIN_HEAD = re.compile(r"(?:(?<=[\s,;)*`])|^)(?:[-*•]\s*)?(?:(\d{1,9})\s*[.):]\s*)?(join)\s*\($")
_OPEN_KEYWORD = re.compile(r"(?:^|,)\s*([A-Za-z_][A-Za-z0-9_\-]*)\s*=\s*$")
_LINE_HEAD = re.compile(r"\s*(?:[-*•]\s*)?(?:\d{1,9}\s*[.):]\s*[A-Za-z_][\w.\-]*|join)\s*\($")
_THOUGHT = re.compile(r"\s*(?:[-*•]\s*)?Thought(?:\s*\d+)?\s*:", re.IGNORECASE)
_NUMBERED = re.compile(r"\s*(?:[-*•]\s*)?\d{1,9}\s*[.):]")
_SEPARATORS = re.compile(r"[\s,;*`]*")
_PAIRS = {")": "(", "]": "[", "}": "{"}
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


class PlanParser:
    """One plan's text, pushed in pieces. `feed` and `close` return what became certain.

    `earlier`: numbers of calls from earlier rounds, which may be referred to and must not be used again.
    Invariant: `_pending` holds what follows the last event on the current line, or the open call from its head on;
    all state is a function of the characters pushed so far.
    """

    def __init__(self, *, earlier: Iterable[int] = (), limits: PlanLimits | None = None) -> None:
        self._limits = limits or PlanLimits()
        self._earlier = frozenset(earlier)
        self._seen: set[int] = set()  # numbers that were used in this plan, whether or not their call could be read
        self._broken: set[int] = set()
        self._unseen: dict[int, int] = {}  # number that was taken for text -> the call it was in
        self._thought: list[tuple[str, Span]] = []
        self._calls = 0
        self._at = 0  # offset of the next character
        self._lines = [0]  # offset of each line
        self._pending: list[str] = []
        self._start = 0  # offset of `_pending`
        self._call: _Open | None = None
        self._joined = False
        self._after_join: int | None = None
        self._comment = False  # behind the join: a comment is open
        self._closed = False
        self._events: list[PlanEvent] = []

    @property
    def joined(self) -> bool:
        """True once the plan's `join()` was read: nothing after it counts."""
        return self._joined

    def open_text(self) -> OpenText | None:
        """Where the text stands inside a quoted argument of a call: for tools that can begin on a part of it."""
        call = self._call
        if call is None or call.id is None or call.opened is None or len(call.quote) != 1:
            return None
        before = "".join(call.text[: call.opened])
        keyword = _OPEN_KEYWORD.search(before)
        head = (before[: keyword.start()] if keyword else before).rstrip().removesuffix(",")
        try:
            arguments = ArgumentParser(head, call.body, self._visible, self._limits.depth).arguments()
        except ArgumentFault:
            return None
        if call.read_to <= call.opened:
            call.read_to, call.read = call.opened + 1, ""
        more, taken = unescaped("".join(call.text[call.read_to :]))
        call.read += more
        call.read_to += taken
        return OpenText(call.id, call.name, arguments, keyword[1] if keyword else None, call.read)

    def feed(self, text: str) -> list[PlanEvent]:
        """Push a piece of the text; returns what it completed. Raises ValueError once closed."""
        if self._closed:
            raise ValueError("the plan was closed: no text can follow")
        for char in text:
            self._push(char)
            self._at += 1
            if char == "\n":
                self._lines.append(self._at)
        return self._taken()

    def close(self) -> list[PlanEvent]:
        """The text is complete; returns what its last piece says. A second close says nothing."""
        if self._closed:
            return []
        if self._call is not None:
            self._break_off(self._call, self._at)
        if self._joined:
            self._after_join = self._start if self._pending else self._after_join
        else:
            self._end_line()
        self._closed = True
        for thought, span in self._thought:
            self._tell("thought_alone", "note", span, f"no call follows {shorten(thought, 80)!r}", "write the call")
        if not self._joined:
            message, fix = "the plan ends without join()", "end the plan with join()"
            self._tell("no_join", "note", Span(self._at, self._at), message, fix)
        elif self._after_join is not None:
            span = Span(self._after_join, self._at)
            self._tell("text_after_join", "note", span, "what follows join() is not read", "end the plan with join()")
        return self._taken()

    def _taken(self) -> list[PlanEvent]:
        events, self._events = self._events, []
        return events

    # -- characters -----------------------------------------------------------------------------

    def _push(self, char: str) -> None:
        if self._joined:
            self._push_after_join(char)
            return
        if self._call is not None:
            self._push_inside(self._call, char)
            return
        self._pending.append(char)
        if char == "\n":
            self._end_line()
        elif char == "(":
            self._try_head()
        elif char == ">" and "".join(self._pending[-len(END) :]) == END:
            del self._pending[-len(END) :]
            self._end_line()
            self._start = self._at + 1
        elif len(self._pending) > self._limits.line_chars:
            self._end_line()

    def _push_after_join(self, char: str) -> None:
        """Everything is beyond the plan; blanks, comments and `<END_OF_PLAN>` are expected there."""
        if self._after_join is not None or self._comment:
            self._comment = self._comment and char != "\n"
            return
        if char.isspace() and not self._pending:
            return
        if not self._pending:
            self._start = self._at
        self._pending.append(char)
        text = "".join(self._pending)
        if text == END:
            self._pending = []
        elif text == "#":
            self._comment, self._pending = True, []
        elif not END.startswith(text):
            self._after_join = self._start

    def _try_head(self) -> None:
        """A parenthesis opens: is it that of a call?"""
        text = "".join(self._pending)
        if _THOUGHT.match(text) or "#" in _quoteless(text):
            return
        match = _JOIN_HEAD.search(text) or _HEAD.search(text)
        if match is None:
            return
        self._leave_behind(text[: match.start()])
        head = self._start + match.start()
        id = int(match[1]) if match[1] else None
        self._call = _Open(id, match[2], head, self._at + 1)
        self._pending = []
        self._start = head

    def _push_inside(self, call: _Open, char: str) -> None:
        """A character between a call's parentheses."""
        call.text.append(char)
        if char == "\n":
            call.line = len(call.text)
            call.comment = False
        elif char == "(" and call.line and _LINE_HEAD.match("".join(call.text[call.line :])):
            self._restart(call)
            return
        elif char == ">" and "".join(call.text[-len(END) :]) == END:
            del call.text[-len(END) :]
            self._break_off(call, self._at + 1 - len(END))
            self._start = self._at + 1
            return
        if not call.comment:
            call.take(char)
        if call.closed:
            self._finish(call, "".join(call.text[:-1]), self._at + 1, repaired=False)
        elif len(call.text) > self._limits.call_chars:
            self._call = None
            message = f"call {call.name!r} is too long"
            self._spoil(call, self._at + 1, "call_too_long", message, "give shorter arguments")

    # -- calls ----------------------------------------------------------------------------------

    def _restart(self, call: _Open) -> None:
        """A line inside an open call begins like a call of its own: the parenthesis before it was forgotten."""
        line = "".join(call.text[call.line :])
        at = call.body + call.line
        del call.text[call.line :]
        self._break_off(call, at)
        self._pending = list(line)
        self._start = at
        self._try_head()

    def _break_off(self, call: _Open, end: int) -> None:
        """The open call ends at `end` without its parenthesis. Missing brackets alone are put there."""
        text = "".join(call.text)
        self._call = None
        self._pending = []
        self._start = end
        if call.mends:
            self._finish(call, text + "".join(_CLOSERS[b] for b in reversed(call.brackets[1:])), end, repaired=True)
            return
        message = f"the call of {call.name!r} is not closed"
        self._spoil(call, end, "unclosed_call", message, "close its texts and brackets, and end it with )")

    def _finish(self, call: _Open, text: str, end: int, *, repaired: bool) -> None:
        """The call's text is complete: read its arguments and tell of it."""
        self._call = None
        self._pending = []
        self._start = end
        span = Span(call.head, end)
        if call.name in JOIN:
            self._finish_join(call, text, span)
            return
        assert call.id is not None
        id = call.id
        fault = self._number_fault(id)
        reader = ArgumentParser(text, call.body, self._visible, self._limits.depth)
        if fault is not None:
            self._seen.add(id)
            self._tell(fault[0], "error", span, fault[1], fault[2], id)
            return
        self._calls += 1
        try:
            arguments = reader.arguments()
        except ArgumentFault as found:
            self._seen.add(id)
            self._broken.add(id)
            message, fix = found.message, found.fix
            if found.code == "unknown_reference":
                message, fix = self._explain(found, id)
            where = Span(min(found.start, end - 1), min(found.end, end))
            self._tell(found.code, "error", where, message, fix, id, span)
            self._thought = []
            return
        self._seen.add(id)
        for doubt in reader.doubts:
            self._tell(doubt.code, "warning", Span(doubt.start, doubt.end), doubt.message, doubt.fix, id)
        if repaired:
            message = f"the call of {call.name!r} lacked its closing brackets; they were put at the end of the line"
            self._tell("unclosed_call_repaired", "warning", span, message, "end each call with )", id)
        self._warn_of_earlier_text(id, span)
        for number in reader.unseen:
            self._unseen.setdefault(number, id)
        self._events.append(PlannedCall(id, call.name, arguments, span, self._take_thought(), repaired))

    def _number_fault(self, id: int) -> tuple[str, str, str] | None:
        if id in self._seen or id in self._earlier:
            where = "this plan" if id in self._seen else "an earlier round, and its result is kept"
            return "duplicate_id", f"the number {id} was used in {where}", "give each call a number of its own"
        if self._calls >= self._limits.calls:
            return "too_many_calls", f"a plan has at most {self._limits.calls} calls", "plan fewer calls at once"
        return None

    def _explain(self, fault: ArgumentFault, id: int) -> tuple[str, str]:
        broken = [number for number in self._broken if number != id and f"no call {number} " in fault.message]
        if broken:
            needed = broken[0]
            return f"call {needed}, which this needs, could not be read", f"mend call {needed} and give both again"
        if f"no call {id} " in fault.message:
            return f"call {id} refers to itself", fault.fix
        return fault.message, fault.fix

    def _finish_join(self, call: _Open, text: str, span: Span) -> None:
        self._joined = True
        waits_for: tuple[int, ...] | None = None
        reader = ArgumentParser(text, call.body, self._visible, self._limits.depth)
        try:
            arguments = reader.arguments()
            ids = dict.fromkeys(ref.id for argument in arguments for ref in references_of(argument.value))
            waits_for = tuple(ids) or None
            if arguments and not ids:
                fix = "write join(), or join($1, $2) to wait for these alone"
                self._tell("join_arguments", "warning", span, "join takes references only; it waits for all calls", fix)
        except ArgumentFault as found:
            where = Span(found.start, min(found.end, span.end))
            self._tell(found.code, "warning", where, f"{found.message}; join waits for all calls", found.fix)
        self._events.append(PlannedJoin(waits_for, span, self._take_thought()))

    def _spoil(self, call: _Open, end: int, code: str, message: str, fix: str) -> None:
        """The call cannot be read at all."""
        if call.id is not None:
            self._seen.add(call.id)
            self._broken.add(call.id)
        self._thought = []
        self._pending = []
        self._start = end
        self._tell(code, "error", Span(call.head, end), message, fix, call.id)

    def _warn_of_earlier_text(self, id: int, span: Span) -> None:
        if (reader := self._unseen.pop(id, None)) is not None:
            message = f"call {reader} holds ${id} as text, since call {id} came after it"
            fix = f"if its result is meant, write call {id} before call {reader}"
            self._tell("forward_reference", "warning", span, message, fix, reader)

    def _visible(self, id: int) -> bool:
        return id in self._earlier or (id in self._seen and id not in self._broken)

    # -- what is no call ------------------------------------------------------------------------

    def _end_line(self) -> None:
        """The pending text holds no call that could be read: say what it is."""
        text = "".join(self._pending)
        self._leave_behind(text, whole=True)
        self._pending = []
        self._start += len(text)

    def _leave_behind(self, text: str, *, whole: bool = False) -> None:
        """Text before a call, or a line without one."""
        match = _SEPARATORS.match(text)
        blank = match.end() if match else 0
        stripped = text[blank:].rstrip().rstrip("-*•`").rstrip()
        if not stripped or stripped.startswith("#"):
            return
        span = Span(self._start + blank, self._start + blank + len(stripped))
        if _THOUGHT.match(text):
            self._thought.append((stripped[stripped.index(":") + 1 :].strip(), span))
            return
        comment = _quoteless(stripped).find("#")
        if comment == 0:
            return
        told = shorten(stripped, 80)
        if whole and _NUMBERED.match(text):
            fix = 'write one call as 1. tool("argument"), and text that is no call as Thought: ...'
            self._tell("unreadable_line", "error", span, f"no call can be read in {told!r}", fix)
        else:
            self._tell("not_a_call", "note", span, f"{told!r} is no call and is not acted on", "begin it with Thought:")

    def _take_thought(self) -> str | None:
        thoughts, self._thought = self._thought, []
        return "\n".join(text for text, _ in thoughts) or None

    def _tell(
        self,
        code: str,
        severity: Severity,
        span: Span,
        message: str,
        fix: str,
        call: int | None = None,
        about: Span | None = None,
    ) -> None:
        line = bisect_right(self._lines, span.start) - 1
        column = span.start - self._lines[line] + 1
        told = PlanDiagnostic(code, severity, span, line + 1, column, message, fix, about or span, call)
        self._events.append(told)


class _Open:
    """A call whose parenthesis is open: what is open inside it, character by character."""

    __slots__ = (
        "body", "brackets", "closed", "comment", "escaped", "head", "id", "last", "line", "name", "opened", "quote",
        "read", "read_to", "run", "text",
    )  # fmt: skip

    def __init__(self, id: int | None, name: str, head: int, body: int) -> None:
        self.id = id
        self.name = name
        self.head = head  # offset of the call
        self.body = body  # offset behind its parenthesis
        self.text: list[str] = []
        self.line = 0  # where the current line begins in `text`; 0: still the first one
        self.brackets = ["("]
        self.quote = ""  # what closes the open string
        self.opened: int | None = None  # where in `text` the open string of an argument of the call itself begins
        self.read = ""  # what `open_text` has told of it, and up to where in `text`
        self.read_to = 0
        self.run = 0  # quotes in a row, to tell triple ones
        self.escaped = False
        self.comment = False
        self.last = "("  # the last character outside strings that is not blank
        self.closed = False

    @property
    def mends(self) -> bool:
        """True if nothing but closing brackets is missing."""
        return not self.quote

    def take(self, char: str) -> None:
        """The next character, which stands at the end of `text`."""
        if self.quote:
            self._take_quoted(char)
        elif char in "\"'":
            self._take_quote(char)
        else:
            self.run = 0
            if char == "#":
                self.comment = True
            elif char in "([{":
                self.brackets.append(char)
            elif char in ")]}":
                self._take_closer(char)
            if not char.isspace():
                self.last = char

    def _take_quote(self, char: str) -> None:
        """A quote outside strings opens one where a value may begin; after two of its kind it is a triple one."""
        if self.run == 2 and self.last == char:
            self.quote, self.run = char * 3, 0
        elif self.last in "([{,:=":
            self.quote, self.run = char, 1
            self.opened = len(self.text) - 1 if len(self.brackets) == 1 else None
        self.last = char

    def _take_quoted(self, char: str) -> None:
        if self.escaped:
            self.escaped = False
        elif char == "\\":
            self.escaped = True
        elif len(self.quote) == 3:
            self.run = self.run + 1 if char == self.quote[0] else 0
            if self.run == 3:
                self.quote, self.run = "", 0
            return
        elif char == self.quote:
            self.quote = ""
            self.opened = None
            self.run = 2 if self.run == 1 else 0  # an empty string, or the first two of three quotes
            return
        self.run = 0

    def _take_closer(self, char: str) -> None:
        """A closing bracket ends what it fits, and everything opened since; one that fits nothing is read later."""
        opener = _PAIRS[char]
        if opener in self.brackets:
            while self.brackets.pop() != opener:
                pass
        self.closed = not self.brackets


def _quoteless(text: str) -> str:
    """The text up to its first quote: a `#` beyond it may be part of a string."""
    return re.split("[\"']", text, maxsplit=1)[0]
