"""Server-sent events, the reader's side (WHATWG HTML §9.2.6). Pure: bytes in, events out. Never does I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. `id` is None if the event has none of its own."""

    event: str
    data: str
    id: str | None


class SSEParser:
    """Feed it a response's bytes, cut anywhere. Comments (heartbeats) and unknown fields are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = ""
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes. An event without data is none."""
        buffer = self._rest + chunk
        events: list[ServerSentEvent] = []
        start = 0
        for match in _LINE_END.finditer(buffer):
            if match.group() == b"\r" and match.end() == len(buffer):
                break  # the next chunk may begin with the "\n" of this very line end
            self._line(buffer[start : match.start()].decode("utf-8", "replace"), events)
            start = match.end()
        self._rest = buffer[start:]
        return events

    def _line(self, line: str, events: list[ServerSentEvent]) -> None:
        if not line:
            if self._data:
                events.append(ServerSentEvent(self._event or "message", "\n".join(self._data), self._id))
            self._event, self._id, self._data = "", None, []
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
