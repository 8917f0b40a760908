"""Azure LLM inference traces (Azure/AzurePublicDataset, 2023 and 2024): time, prompt tokens and output tokens as CSV.

A row is a program of one call. The format knows no contents, so prompts share nothing.
"""

from __future__ import annotations

import csv
import re
from datetime import datetime
from pathlib import Path

from orchestrator.simulation.lines import TraceError, lines
from orchestrator.simulation.trace import LLMNode, Piece, TraceProgram

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_FRACTION = re.compile(r"(\.\d{6})\d+")


def read_azure(path: Path) -> list[TraceProgram]:
    """Raises TraceError, with the line."""
    rows = lines(path)
    _, header = next(rows, (0, ""))
    names = next(csv.reader([header]), [])
    if [name.strip().lstrip("\ufeff") for name in names[:3]] != list(_COLUMNS):
        raise TraceError(f"{path.name}:1: expected the columns {', '.join(_COLUMNS)}, got {header.strip()!r}")
    programs: list[TraceProgram] = []
    start: datetime | None = None
    for number, line in rows:
        try:
            at, tokens, output = next(csv.reader([line]))[:3]
            when = datetime.fromisoformat(_FRACTION.sub(r"\1", at.strip()))
            prompt, generated = int(tokens), int(output)
        except ValueError as fault:
            raise TraceError(f"{path.name}:{number}: expected a time and two counts: {fault}") from None
        if prompt < 1:
            raise TraceError(f"{path.name}:{number}: ContextTokens: must be at least 1, got {prompt}")
        start = start or when
        name = f"azure-{number}"
        node = LLMNode("0", (), (Piece(name, 0, prompt),), max(generated, 1), "request")
        programs.append(TraceProgram(name, path.name.split(".")[0], max((when - start).total_seconds(), 0.0), (node,)))
    return programs
