"""A model's text as OpenAI's clients read it: words, and the calls of functions that are written in it.

Pure, and pushed in pieces. What may become a call is held back until that is decided; nothing is ever taken back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

from dag.plan import EmittedCall, ToolCallParser

Part: TypeAlias = str | EmittedCall

_MARKS = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "```json")
_BEFORE = re.compile(r'(?:\s|<tool_call>|<\|python_tag\|>|\[TOOL_CALLS\]|```(?:json)?|\{\s*"tool_calls"\s*:|[\[,;])*\Z')
_BEHIND = re.compile(r"(?:\s|</tool_call>|```|[\],;}])*")


class AnswerReader:
    """Reads one answer. Calls of functions that were not offered are the model's own words, as is all other JSON.

    `one`: only the first call counts. Invariant: the parts' texts are the text without the calls and their markup.
    """

    def __init__(self, offered: Collection[str], *, one: bool = False) -> None:
        self._offered = frozenset(offered)
        self._one = one
        self._parser = ToolCallParser()
        self._text = ""
        self._sent = 0
        self._calls = 0

    def feed(self, piece: str) -> list[Part]:
        """The parts that a piece of the text decides."""
        if not self._offered:
            return [piece] if piece else []
        self._text += piece
        return [*self._read(self._parser.feed(piece)), *self._words(self._decided())]

    def close(self) -> list[Part]:
        """The text is complete: what is left are words."""
        if not self._offered:
            return []
        parts = self._read(self._parser.close())
        return [*parts, *self._words(len(self._text))]

    def _read(self, events: Sequence[object]) -> list[Part]:
        parts: list[Part] = []
        for event in events:
            if not isinstance(event, EmittedCall) or event.tool not in self._offered:
                continue
            before = _BEFORE.search(self._text, self._sent, event.span.start)
            parts += self._words(before.start() if before is not None else event.span.start)
            self._sent = event.span.end
            if not (self._one and self._calls):
                parts.append(event)
            self._calls += 1
        return parts

    def _words(self, end: int) -> list[Part]:
        """The text up to `end` that was not sent, without what only closes a call."""
        if self._calls and (behind := _BEHIND.match(self._text, self._sent)) is not None:
            self._sent = max(self._sent, behind.end())
        if end <= self._sent:
            return []
        words, self._sent = self._text[self._sent : end], end
        return [words]

    def _decided(self) -> int:
        """How far the text is words for certain."""
        end = self._parser.open_at
        end = len(self._text) if end is None else end
        while True:
            before = _BEFORE.search(self._text, self._sent, end)
            shorter = before.start() if before is not None else end
            begun = max((n for mark in _MARKS for n in range(1, len(mark)) if self._ends(mark[:n], shorter)), default=0)
            if shorter - begun == end:
                return end
            end = max(self._sent, shorter - begun)

    def _ends(self, mark: str, end: int) -> bool:
        return self._text.endswith(mark, self._sent, end)


def read_answer(text: str, offered: Collection[str], *, one: bool = False) -> tuple[str, list[EmittedCall]]:
    """A whole answer: its words and its calls."""
    reader = AnswerReader(offered, one=one)
    parts = [*reader.feed(text), *reader.close()]
    return "".join(part for part in parts if isinstance(part, str)), [p for p in parts if isinstance(p, EmittedCall)]
