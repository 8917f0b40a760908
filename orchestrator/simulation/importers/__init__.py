"""Readers of public trace formats: each turns a file into `TraceProgram`s and states what its format leaves open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType

from orchestrator.simulation.importers.azure import read_azure
from orchestrator.simulation.importers.journals import read_journal
from orchestrator.simulation.importers.mooncake import read_mooncake
from orchestrator.simulation.importers.otel import read_otel
from orchestrator.simulation.lines import TraceError, lines
from orchestrator.simulation.trace import Node, ToolNode, TraceProgram, read
from orchestrator.simulation.workload import is_private

Importer = Callable[[Path], list[TraceProgram]]

IMPORTERS: Mapping[str, Importer] = MappingProxyType(
    {
        "tenuto": lambda path: read([path]),
        "mooncake": read_mooncake,
        "azure": read_azure,
        "otel": read_otel,
        "journal": read_journal,
    }
)


def load_traces(paths: Sequence[Path], format: str = "auto") -> list[TraceProgram]:
    """Every program of some files, in order of arrival; "auto" looks at each file. Raises TraceError.

    A file that uses a name of an earlier one has all its programs renamed.
    """
    if format != "auto" and format not in IMPORTERS:
        raise TraceError(f"no trace format {format!r}; choose one of: auto, {', '.join(IMPORTERS)}")
    programs: list[TraceProgram] = []
    known: set[str] = set()
    for path in paths:
        if not path.is_file():
            raise TraceError(f"{path}: there is no such file")
        found = IMPORTERS[recognise(path) if format == "auto" else format](path)
        names = {program.program for program in found}
        if known & names:
            prefixes = chain([path.name], (f"{path.name}.{number}" for number in count(2)))
            prefix = next(p for p in prefixes if known.isdisjoint(f"{p}/{name}" for name in names))
            found = [_renamed(program, prefix) for program in found]
        known.update(program.program for program in found)
        programs += found
    if not programs:
        raise TraceError("the trace has no programs")
    programs.sort(key=lambda program: program.arrival)
    return programs


def _renamed(program: TraceProgram, prefix: str) -> TraceProgram:
    """The program under another name, and its private streams with it."""

    def renamed(node: Node) -> Node:
        if isinstance(node, ToolNode):
            return node
        pieces = (
            piece._replace(stream=f"{prefix}/{piece.stream}") if is_private(piece.stream, program.program) else piece
            for piece in node.prompt
        )
        return replace(node, prompt=tuple(pieces))

    return replace(program, program=f"{prefix}/{program.program}", nodes=tuple(map(renamed, program.nodes)))


def recognise(path: Path) -> str:
    """The format of a file, by its name and its first line. Raises TraceError."""
    if path.suffix in (".db", ".sqlite", ".sqlite3") or path.open("rb").read(15) == b"SQLite format 3":
        return "journal"
    if path.name.endswith((".csv", ".csv.gz")):
        return "azure"
    first = next((line for _, line in lines(path)), "")
    for mark, format in (('"nodes"', "tenuto"), ('"hash_ids"', "mooncake"), ('"resourceSpans"', "otel")):
        if mark in first:
            return format
    return "otel" if first.strip() in ("{", "[") else "tenuto"
