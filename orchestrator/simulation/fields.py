"""Typed access to the objects of trace files: every fault names its field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from orchestrator.simulation.lines import TraceError

MAX_SECONDS = 15_000_000.0
"""No time of a trace is longer, which is 173 days: a longer one is a fault, most often of its unit."""


def parsed(line: str, where: str) -> Fields:
    """The object on a line. Raises TraceError."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as fault:
        raise TraceError(f"{where}: is no JSON: {fault}") from None
    if not isinstance(document, dict):
        raise TraceError(f"{where}: expected an object, got {type(document).__name__}")
    return Fields(document, where)


def whole(value: object, least: int, place: str) -> int:
    """A count, given as a number or as its digits. Raises TraceError; `place` begins its message."""
    number = value
    if isinstance(value, str):
        number = int(value) if value.strip().isdecimal() and len(value) < 100 else value
    elif isinstance(value, float):
        number = int(value) if value.is_integer() else value
    if type(number) is not int or not least <= number < 2**64:
        raise TraceError(f"{place}: must be a whole number from {least} below 2**64, got {value!r}")
    return number


def bounded(seconds: float, place: str) -> float:
    """A time within the bound. Raises TraceError; `place` begins its message."""
    if seconds > MAX_SECONDS:
        raise TraceError(f"{place}: must be at most {MAX_SECONDS:,.0f} s (173 days), got {seconds:g} s")
    return seconds


class Fields:
    """An object of a trace. `prefix`: what comes before the names of its fields in messages."""

    def __init__(self, item: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._item, self._place = item, f"{where}: {prefix}"

    def get(self, name: str, kind: type) -> Any:
        if name not in self._item:
            raise TraceError(f"{self._place}{name}: is missing")
        value = self._item[name]
        if kind is float and type(value) is int and abs(value) < 2**64:
            return float(value)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise TraceError(f"{self._place}{name}: expected {kind.__name__}, got {value!r}")
        return value

    def optional(self, name: str, kind: type) -> Any:
        return None if self._item.get(name) is None else self.get(name, kind)

    def seconds(self, name: str, *, unit: float = 1.0) -> float:
        """A time from 0, given in `unit` seconds."""
        value: float = self.get(name, float)
        if value < 0:
            raise TraceError(f"{self._place}{name}: must be at least 0, got {value!r}")
        return bounded(value * unit, f"{self._place}{name}")

    def whole(self, name: str, least: int) -> int:
        """A count."""
        if name not in self._item:
            raise TraceError(f"{self._place}{name}: is missing")
        return whole(self._item[name], least, f"{self._place}{name}")
