"""The inside of a call's parentheses: Python and JSON literals, keyword arguments, references to earlier results.

Owns the meaning of one complete argument list. Never sees a half one: `dag.plan.parser` finds where it ends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NoReturn

from dag.diagnostics import shorten
from dag.plan.model import Argument, PlanRef, PlanText, PlanValue, Span
from tenuto.wire import JsonPath

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEYWORD = re.compile(r"([A-Za-z_][A-Za-z0-9_\-]*)\s*=(?!=)")
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_BARE_END = re.compile(r"[,)\]}\n]")
_REF = re.compile(r"\$(\d+)|\$\{\s*(\d+)")
_MONEY = re.compile(r"[.,]\d")
_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_\-]*)|\[\s*(-?\d+)\s*\]|\[\s*(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')\s*\]")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(\r?\n)|(.))", re.DOTALL)
_COMPLETE = re.compile(  # escapes of half a character, and of none, end it
    r"(?:[^\\]+|\\(?:u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|x[0-9a-fA-F]{2}|\r?\n|[^uUx\r]))*", re.DOTALL
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "a": "\a", "v": "\v"}
_WORDS: dict[str, bool | None] = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "null": None,
    "None": None,
}
_LONGEST_NUMBER = 1_000


class ArgumentFault(Exception):
    """The arguments cannot be read. `start` and `end` are offsets into the planner's text."""

    def __init__(self, code: str, start: int, end: int, message: str, fix: str) -> None:
        super().__init__(message)
        self.code, self.start, self.end, self.message, self.fix = code, start, end, message, fix


class Doubt(ArgumentFault):
    """Never raised: something was read in the likelier of two ways."""


class ArgumentParser:
    """Reads one argument list. `visible(id)` says whether a call of that number may be referred to here.

    What is a reference is decided once, here: a result that holds `$1` is data and is never read again.
    """

    def __init__(self, text: str, base: int, visible: Callable[[int], bool], depth: int) -> None:
        self._text = text
        self._base = base
        self._visible = visible
        self._depth = depth
        self._at = 0
        self.doubts: list[Doubt] = []
        self.unseen: list[int] = []  # numbers that were taken for text, since no such call was seen

    def arguments(self) -> tuple[Argument, ...]:
        """All arguments, up to the end of the text. Raises ArgumentFault."""
        found: list[Argument] = []
        names: set[str] = set()
        self._blank()
        while self._at < len(self._text):
            start = self._at
            match = _KEYWORD.match(self._text, self._at)
            name = match[1] if match else None
            if match:
                self._at = match.end()
                self._blank()
                if match[1] in names:
                    self._fault("argument_twice", start, f"argument {name!r} is given twice", "give it once")
                names.add(match[1])
            elif names:
                message = "a positional argument follows a keyword argument"
                self._fault("positional_after_keyword", start, message, "name this argument too, as name=value")
            value = self._value(0)
            found.append(Argument(name, value, Span(self._base + start, self._base + self._at)))
            self._blank()
            if self._at < len(self._text):
                self._comma("after an argument")
        return tuple(found)

    # -- values ---------------------------------------------------------------------------------

    def _value(self, depth: int) -> PlanValue:
        if depth > self._depth:
            self._fault("too_deep", self._at, f"nested more than {self._depth} deep", "use flatter arguments")
        if self._at >= len(self._text):
            self._fault("value_missing", self._at, "a value is missing", "write a value, or remove the comma or name")
        char = self._text[self._at]
        if char in "\"'":
            return self._string()
        if char == "$":
            return self._reference()
        if char == "[":
            return self._list(depth, "]")
        if char == "(":
            return self._list(depth, ")")
        if char == "{":
            return self._dict(depth)
        return self._scalar()

    def _scalar(self) -> PlanValue:
        start = self._at
        number = _NUMBER.match(self._text, start)
        word = _NAME.match(self._text, start)
        match = number or word
        if match is None or not self._ends(match.end()):
            self._unquoted(start)
        self._at = match.end()
        if number is None:
            if match[0] not in _WORDS:
                self._unquoted(start)
            return _WORDS[match[0]]
        digits = match[0]
        if len(digits) > _LONGEST_NUMBER:
            self._fault("number_too_long", start, "a number has more than 1000 digits", "quote it as text")
        if not any(mark in digits for mark in ".eE"):
            return int(digits)
        value = float(digits)
        if not math.isfinite(value):
            self._fault("number_too_large", start, f"{shorten(digits, 40)} is no JSON number", "quote it as text")
        return value

    def _ends(self, at: int) -> bool:
        """True if a scalar that ends at `at` is a whole word: what follows is a separator, a bracket or the end."""
        at = _BLANK.match(self._text, at).end()  # type: ignore[union-attr]  # the pattern matches everywhere
        return at >= len(self._text) or self._text[at] in ",)]}:"

    def _unquoted(self, start: int) -> NoReturn:
        match = _BARE_END.search(self._text, start)
        end = match.start() if match else len(self._text)
        self._at = max(end, start + 1)
        told = shorten(self._text[start:end].strip(), 60)
        self._fault("unquoted_text", start, f"{told!r} is neither a value nor a reference", "put text in quotes")

    def _list(self, depth: int, closing: str) -> list[PlanValue]:
        opened = self._at
        self._at += 1
        items: list[PlanValue] = []
        while not self._closes(closing, opened):
            items.append(self._value(depth + 1))
            self._separated(closing)
        return items

    def _dict(self, depth: int) -> dict[str, PlanValue]:
        opened = self._at
        self._at += 1
        items: dict[str, PlanValue] = {}
        while not self._closes("}", opened):
            start = self._at
            key = self._key()
            self._blank()
            if self._text[self._at : self._at + 1] not in (":", "="):
                self._fault("colon_missing", self._at, f"a colon is missing after the key {key!r}", "write key: value")
            self._at += 1
            self._blank()
            if key in items:
                self._fault("key_twice", start, f"the key {key!r} is given twice", "give it once")
            items[key] = self._value(depth + 1)
            self._separated("}")
        return items

    def _key(self) -> str:
        start = self._at
        if self._at < len(self._text) and self._text[self._at] in "\"'":
            key = self._string()
            if not isinstance(key, str):
                self._fault("reference_as_key", start, "a reference cannot be a key", "use it as a value")
            return key
        if match := _NAME.match(self._text, self._at):
            self._at = match.end()
            return match[0]
        if match := _NUMBER.match(self._text, self._at):
            self._at = match.end()
            return match[0]
        raise ArgumentFault("key_missing", *self._span(start, start + 1), "a key is missing", "quote the key")

    def _closes(self, closing: str, opened: int) -> bool:
        self._blank()
        if self._at >= len(self._text):
            self._fault("unclosed_bracket", opened, f"this bracket is not closed by {closing!r}", f"add {closing!r}")
        if self._text[self._at] == closing:
            self._at += 1
            return True
        return False

    def _separated(self, closing: str) -> None:
        self._blank()
        if self._at < len(self._text) and self._text[self._at] != closing:
            self._comma(f"or {closing!r}")

    def _comma(self, where: str) -> None:
        if self._text[self._at] != ",":
            told = shorten(self._text[self._at : self._at + 20], 20)
            fix = 'separate arguments by commas; inside a quoted text write \\" for a quote'
            self._fault("comma_missing", self._at, f"a comma is missing {where}, before {told!r}", fix)
        self._at += 1
        self._blank()

    # -- strings and references -----------------------------------------------------------------

    def _string(self) -> PlanValue:
        start = self._at
        quote = self._text[start]
        quotes = quote * 3 if self._text.startswith(quote * 3, start) else quote
        self._at += len(quotes)
        parts: list[str | PlanRef] = []
        text: list[str] = []
        body = self._at
        while not self._text.startswith(quotes, self._at):
            if self._at >= len(self._text):
                self._fault("unclosed_text", start, "this quoted text is not closed", f"add {quotes}")
            char = self._text[self._at]
            if char == "\\":
                text.append(self._escape())
            elif char == "$" and (ref := self._reference_in_text(body, quotes)) is not None:
                if text:
                    parts.append("".join(text))
                    text = []
                parts.append(ref)
            else:
                text.append(self._text[self._at])
                self._at += 1
        self._at += len(quotes)
        if not parts:
            return "".join(text)
        if text:
            parts.append("".join(text))
        if len(parts) == 1 and isinstance(parts[0], PlanRef):
            return parts[0]
        return PlanText(tuple(parts))

    def _escape(self) -> str:
        match = _ESCAPE.match(self._text, self._at)
        if match is None:
            self._fault("bad_escape", self._at, "a backslash stands before the end of the text", "write \\\\")
        self._at = match.end()
        code = match[1] or match[2] or match[3]
        if code is None:
            return "" if match[4] else _ESCAPES.get(match[5], match[5])
        point = int(code, 16)
        if 0xD800 <= point < 0xDC00 and match[1]:
            low = _ESCAPE.match(self._text, self._at)
            if low and low[1] and 0xDC00 <= int(low[1], 16) < 0xE000:
                self._at = low.end()
                return chr(0x10000 + ((point - 0xD800) << 10) + (int(low[1], 16) - 0xDC00))
        if point > 0x10FFFF or 0xD800 <= point < 0xE000:
            self._fault("bad_escape", match.start(), f"{match[0]} is no character", "write the character itself")
        return chr(point)

    def _reference_in_text(self, body: int, quotes: str) -> PlanRef | None:
        """The reference at a `$` inside a quoted text; None if the `$` is text (`_at` then stands on it).

        `costs $5` is text unless 5 is a call that can be seen, `$1.50` and `$1,000` always are; `$$` before a digit
        or brace is a plain dollar. Without braces only a reference that is the whole text takes a path.
        """
        text, start = self._text, self._at
        if text.startswith("$$", start) and (text[start + 2 : start + 3].isdigit() or text.startswith("{", start + 2)):
            self._at += 1  # the first dollar is dropped, the second is text
            return None
        match = _REF.match(text, start)
        if match is None:
            return None
        if match[2] is not None:
            return self._braced(match)
        id, end = int(match[1][:18]), match.end()
        if _MONEY.match(text, end):
            return None
        whole = start == body
        path, after = self._path(end) if whole else ((), end)
        whole = whole and text.startswith(quotes, after)
        if not self._visible(id):
            self.unseen.append(id)
            if whole:
                message = f"{text[start:after]!r} is taken for text: no call {id} came before"
                fix = f"if the result of call {id} is meant, write that call first"
                self.doubts.append(Doubt("reference_taken_for_text", *self._span(start, after), message, fix))
            return None
        self._at = after if whole else end
        return PlanRef(id, path, quoted=True) if whole else PlanRef(id)

    def _reference(self) -> PlanRef:
        start = self._at
        match = _REF.match(self._text, start)
        if match is None:
            self._fault("bad_reference", start, "a number must follow the $", "write $ and the number of a call")
        if match[2] is not None:
            return self._braced(match)
        path, end = self._path(match.end())
        ref = PlanRef(int(match[1][:18]), path)
        if not self._ends(end):
            self._unquoted(start)
        self._at = end
        self._check_visible(ref.id, start)
        return ref

    def _braced(self, match: re.Match[str]) -> PlanRef:
        start = match.start()
        path, end = self._path(match.end())
        end = _BLANK.match(self._text, end).end()  # type: ignore[union-attr]  # the pattern matches everywhere
        if not self._text.startswith("}", end):
            self._fault("bad_reference", start, "the reference is not closed by }", "write ${1} or ${1.field[0]}")
        self._at = end + 1
        ref = PlanRef(int(match[2][:18]), path)
        self._check_visible(ref.id, start)
        return ref

    def _path(self, at: int) -> tuple[JsonPath, int]:
        steps: list[str | int] = []
        while match := _STEP.match(self._text, at):
            if match[1] is not None:
                steps.append(match[1])
            elif match[2] is not None:
                steps.append(int(match[2][:18]))
            else:
                steps.append(_ESCAPE.sub(lambda found: found[5] or found[0], match[3][1:-1]))
            at = match.end()
        return tuple(steps), at

    def _check_visible(self, id: int, start: int) -> None:
        if not self._visible(id):
            message = f"there is no call {id} before this one"
            fix = "refer to earlier calls only; put the call that gives the value first"
            self._fault("unknown_reference", start, message, fix)

    # -- small things ---------------------------------------------------------------------------

    def _blank(self) -> None:
        self._at = _BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches everywhere

    def _span(self, start: int, end: int) -> tuple[int, int]:
        return self._base + start, self._base + end

    def _fault(self, code: str, start: int, message: str, fix: str) -> NoReturn:
        raise ArgumentFault(code, *self._span(start, max(self._at, start + 1)), message, fix)


def unescaped(text: str) -> tuple[str, int]:
    """What is certain of the inside of a quoted text that is still being written, and how many characters that took:
    escapes resolved as far as they are complete, up to the first `$`, which may become a reference."""
    match = _COMPLETE.match(text.partition("$")[0])
    assert match is not None  # it matches everywhere
    return (_ESCAPE.sub(_character, match[0]) if "\\" in match[0] else match[0]), match.end()


def _character(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2] or escape[3]
    if code is not None:
        return chr(int(code, 16))
    return "" if escape[4] else _ESCAPES.get(escape[5], escape[5])
