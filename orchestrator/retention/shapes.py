"""The shape of a function call's arguments: what tells a quick call from a slow one, without what they say.

Pure. Keeps argument names, and of a shell command its program's name; never a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import JsonValue

_COMMANDS = ("command", "cmd", "script", "bash", "shell")
_BEFORE = re.compile(r"^\s*(?:cd\s+\S+\s*(?:&&|;)\s*|\w+=\S*\s+|sudo\s+|timeout\s+\S+\s+|env\s+)*")
_WORD = re.compile(r"[\w.+-]{1,32}")
_LONGEST = 96


def shape_of(arguments: Mapping[str, JsonValue]) -> str:
    """Names of the arguments in order; of a shell command, the program that it runs (`python -m pytest`: pytest)."""
    names = ",".join(sorted(arguments))
    for name in _COMMANDS:
        command = arguments.get(name)
        if isinstance(command, str) and (program := _program(command)):
            return f"{names}:{program}"[:_LONGEST]
    return names[:_LONGEST]


def _program(command: str) -> str:
    head = command[:256]
    start = _BEFORE.match(head)
    words = head[start.end() if start else 0 :].split()
    if len(words) > 2 and words[0].startswith("python") and words[1] == "-m":
        words = words[2:]
    found = _WORD.search(words[0].rsplit("/", 1)[-1]) if words else None
    return found.group() if found else ""
