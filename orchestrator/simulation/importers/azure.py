"""Azure LLM inference traces (Azure/AzurePublicDataset, 2023 and 2024): time, prompt tokens and output tokens as CSV.

A row is a program of one call. The format knows no contents, so prompts share nothing.
"""

from __future__ import annotations

import csv
import re
from datetime import datetime
from pathlib import Path

from orchestrator.simulation.fields import Fields, bounded
from orchestrator.simulation.lines import TraceError, lines
from orchestrator.simulation.trace import LLMNode, Piece, TraceProgram

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_FRACTION = re.compile(r"(\.\d{6})\d+")


def read_azure(path: Path) -> list[TraceProgram]:
    """Raises TraceError, with line and field."""
    rows = lines(path)
    _, header = next(rows, (0, ""))
    names = _cells(header, f"{path.name}:1")
    if [name.strip().lstrip("\ufeff") for name in names[:3]] != list(_COLUMNS):
        raise TraceError(f"{path.name}:1: expected the columns {', '.join(_COLUMNS)}, got {header.strip()!r}")
    programs: list[TraceProgram] = []
    start: datetime | None = None
    for number, line in rows:
        where = f"{path.name}:{number}"
        row = Fields(dict(zip(_COLUMNS, _cells(line, where), strict=False)), where)
        at = row.get("TIMESTAMP", str).strip()
        try:
            when = datetime.fromisoformat(_FRACTION.sub(r"\1", at))
        except ValueError as fault:
            raise TraceError(f"{where}: TIMESTAMP: {fault}") from None
        start = start or when
        if (when.tzinfo is None) != (start.tzinfo is None):
            raise TraceError(f"{where}: TIMESTAMP: time zones must be in all rows or in none, got {at!r}")
        arrival = bounded(max((when - start).total_seconds(), 0.0), f"{where}: TIMESTAMP")
        prompt, generated = row.whole("ContextTokens", 1), row.whole("GeneratedTokens", 0)
        name = f"azure-{number}"
        node = LLMNode("0", (), (Piece(name, 0, prompt),), max(generated, 1), "request")
        programs.append(TraceProgram(name, path.name.split(".")[0], arrival, (node,)))
    return programs


def _cells(line: str, where: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error as fault:
        raise TraceError(f"{where}: {fault}") from None
