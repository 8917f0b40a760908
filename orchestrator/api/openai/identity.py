"""Which program a stock client's request is of, as far as the client says: headers of ours, of other servers, of known
agents, then the body. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.api.openai.fields import Hints

_PROGRAM = (
    "x-program-id",
    "x-dynamo-session-id",
    "x-claude-code-session-id",
    "session-id",
    "x-session-id",
)
"""Headers that name a program, the surest first."""

_FINAL = ("x-program-final", "x-dynamo-session-final")
_TOOL_HINT = re.compile(r"\s*([A-Za-z0-9_.\-]{1,200})\s*;\s*expected_s\s*=\s*(\d{1,6}(?:\.\d{1,6})?)\s*\Z")


def program_name(headers: Mapping[str, str], hints: Hints, metadata: Mapping[str, str]) -> str | None:
    """The client's name of its program; None if it gives none."""
    given = next((headers[name] for name in _PROGRAM if headers.get(name)), None)
    return (given or hints.program or metadata.get("program") or "")[:200] or None


def is_final(headers: Mapping[str, str], hints: Hints) -> bool:
    """Whether the program ends with this request."""
    return hints.final or any(headers.get(name, "").strip().lower() in ("1", "true", "yes") for name in _FINAL)


def tool_hints(headers: Mapping[str, str]) -> dict[str, float]:
    """Seconds that the client expects its tools to take: `X-Tool-Hint: name;expected_s=1.2, …`. A wrong hint costs time
    only, so one that cannot be read is none."""
    found = (_TOOL_HINT.match(hint) for hint in headers.get("x-tool-hint", "").split(","))
    return {match[1]: float(match[2]) for match in found if match is not None and float(match[2]) > 0}
