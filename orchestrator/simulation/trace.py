"""Reads workflow traces (format version 1: one program a line, shapes and times, no text). Every fault names its place.

Owns what a valid trace is. Knows nothing of engines or time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.simulation.fields import Fields, parsed
from orchestrator.simulation.lines import TraceError, lines

MAX_DEADLINE_S = 7 * 86_400
"""What a client may ask for."""


class Piece(NamedTuple):
    """Tokens `start` .. `end` of the stream `stream`."""

    stream: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class LLMNode:
    """A generation: its prompt as pieces of streams, its true output length, seconds of waiting before it is sent."""

    id: str
    after: tuple[str, ...]
    prompt: tuple[Piece, ...]
    output: int
    stage: str = ""
    model: str = ""
    first_token_by: float | None = None
    wait: float = 0.0

    @property
    def prompt_tokens(self) -> int:
        return sum(piece.end - piece.start for piece in self.prompt)


@dataclass(frozen=True, slots=True)
class ToolNode:
    """A function call and its true duration in seconds."""

    id: str
    after: tuple[str, ...]
    name: str
    duration: float
    failed: bool = False


Node = LLMNode | ToolNode


@dataclass(frozen=True, slots=True)
class TraceProgram:
    """One program. `online`: its client submits a node only when all of its `after` have ended."""

    program: str
    workflow: str
    arrival: float
    nodes: tuple[Node, ...]
    tenant: str = "default"
    deadline: float | None = None
    environment: str = ""
    online: bool = False
    origin: str = ""
    """The program of the trace that this is copy number `copy` of; "" if it is that program itself."""
    copy: int = 0

    @property
    def llm_nodes(self) -> Iterator[LLMNode]:
        return (node for node in self.nodes if isinstance(node, LLMNode))


def read(paths: Iterable[Path]) -> list[TraceProgram]:
    """Every program of some files, in order of arrival. Raises TraceError."""
    programs: list[TraceProgram] = []
    known: dict[str, str] = {}
    for path in paths:
        for number, line in lines(path):
            where = f"{path.name}:{number}"
            program = parse(line, where)
            if program.program in known:
                raise TraceError(f"{where}: program {program.program!r} was on {known[program.program]} already")
            known[program.program] = where
            programs.append(program)
    if not programs:
        raise TraceError("the trace has no programs")
    programs.sort(key=lambda program: program.arrival)
    return programs


def parse(line: str, where: str = "line") -> TraceProgram:
    """One line. Raises TraceError; `where` begins its message."""
    fields = parsed(line, where)
    if (version := fields.get("v", int)) != 1:
        raise TraceError(f"{where}: v: only version 1 is known, got {version!r}")
    name = fields.get("program", str)
    nodes: list[Node] = []
    seen: set[str] = set()
    listed = fields.get("nodes", list)
    if not listed:
        raise TraceError(f"{where}: nodes: a program needs at least one")
    for number, item in enumerate(listed):
        node = _node(item, where, f"nodes[{number}]", seen)
        if node.id in seen:
            raise TraceError(f"{where}: nodes[{number}].id: {node.id!r} is used twice")
        seen.add(node.id)
        nodes.append(node)
    deadline = fields.optional("deadline", float)
    if deadline is not None and not 0 < deadline <= MAX_DEADLINE_S:
        raise TraceError(f"{where}: deadline: must be positive and at most {MAX_DEADLINE_S:,} s, got {deadline!r}")
    return TraceProgram(
        program=name,
        workflow=fields.get("workflow", str),
        arrival=fields.seconds("arrival"),
        nodes=tuple(nodes),
        tenant=fields.optional("tenant", str) or "default",
        deadline=deadline,
        environment=fields.optional("environment", str) or "",
        online=bool(fields.optional("online", bool)),
    )


def _node(item: Any, where: str, place: str, seen: set[str]) -> Node:
    if not isinstance(item, dict):
        raise TraceError(f"{where}: {place}: expected an object, got {type(item).__name__}")
    fields = Fields(item, where, place + ".")
    id, kind = fields.get("id", str), fields.get("kind", str)
    after = fields.get("after", list)
    for name in after:
        if name not in seen:
            raise TraceError(f"{where}: {place}.after: {name!r} is no earlier node of this program")
    if kind == "tool":
        duration = fields.seconds("duration")
        return ToolNode(id, tuple(after), fields.get("name", str), duration, bool(fields.optional("failed", bool)))
    if kind != "llm":
        raise TraceError(f"{where}: {place}.kind: expected 'llm' or 'tool', got {kind!r}")
    output = fields.get("output", int)
    if output < 1:
        raise TraceError(f"{where}: {place}.output: must be at least 1, got {output}")
    return LLMNode(
        id,
        tuple(after),
        _pieces(fields.get("prompt", list), where, f"{place}.prompt"),
        output,
        fields.optional("stage", str) or "",
        fields.optional("model", str) or "",
        fields.optional("first_token_by", float),
        0.0 if item.get("wait") is None else fields.seconds("wait"),
    )


def _pieces(prompt: list[Any], where: str, place: str) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for number, piece in enumerate(prompt):
        if not (
            isinstance(piece, list)
            and len(piece) == 3
            and isinstance(piece[0], str)
            and all(type(part) is int for part in piece[1:])
            and 0 <= piece[1] < piece[2]
        ):
            raise TraceError(f"{where}: {place}[{number}]: expected [stream, start, end] with 0 <= start < end")
        pieces.append(Piece(piece[0], piece[1], piece[2]))
    if not pieces:
        raise TraceError(f"{where}: {place}: a prompt needs at least one token")
    return tuple(pieces)
