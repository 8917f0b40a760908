"""A server's own journal: the programs that ended well, as they ran.

Constant parts of prompts are streams named by their text's digest, so programs share what they shared. A journal knows
the tokens of prompts and outputs, not of a prompt's parts: what a prompt has beside outputs and parts that were seen
before is divided among the others by characters, and a part that was seen keeps its tokens, so that later prompts go on
where earlier ones ended. No text leaves the journal.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import ChainMap
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from dag.reads import reads
from orchestrator.journal import Accepted, Extended, Record, Written
from orchestrator.journal.records import Row, decode
from orchestrator.simulation.fields import bounded
from orchestrator.simulation.lines import TraceError
from orchestrator.simulation.trace import LLMNode, Node, Piece, ToolNode, TraceProgram
from tenuto.wire import Call, FunctionCall, LLMCall, ProgramStatus, TextPart

_TEXT = "text:"
_QUERY = """
SELECT program, kind, name, facts, payload FROM records WHERE program IN
  (SELECT program FROM records WHERE kind = 'ended') ORDER BY program, position
"""


def read_journal(path: Path) -> list[TraceProgram]:
    """Every program whose calls all ended. Raises TraceError."""
    programs: list[TraceProgram] = []
    shared: dict[str, int] = {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.0)) as db:
            for name, rows in groupby(db.execute(_QUERY), key=itemgetter(0)):
                made = _Program(name, shared)
                for row in rows:
                    made.add(decode(Row(*row)))
                if (program := made.program()) is not None:
                    programs.append(program)
    except (sqlite3.Error, ValueError, KeyError, TypeError) as fault:
        if isinstance(fault, sqlite3.OperationalError) and "database is locked" in str(fault):
            why = "a server has it open: stop the server first, or give a journal that no server writes to"
            raise TraceError(f"{path.name}: {why}") from None
        raise TraceError(f"{path.name}: is no journal of tenuto: {fault}") from None
    start_s = min((program.arrival for program in programs), default=0.0)
    for program in programs:
        bounded(program.arrival - start_s, f"{path.name}: program {program.program!r}: accepted after the first one")
    return [_shifted(program, start_s) for program in programs]


def _shifted(program: TraceProgram, start_s: float) -> TraceProgram:
    return replace(program, arrival=program.arrival - start_s)


@dataclass(slots=True)
class _Program:
    """What a program's records have told so far. `shared`: tokens of constant parts, by stream, as first seen in any
    program; `lengths`: those of all parts in this one."""

    name: str
    shared: dict[str, int]
    lengths: dict[str, int] = field(default_factory=dict)
    accepted: Accepted | None = None
    growth: list[tuple[float, tuple[Call, ...]]] = field(default_factory=list)
    written: dict[str, Written] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    ended_well: bool = False

    def add(self, record: Record) -> None:
        if isinstance(record, Accepted):
            self.accepted = record
            graph = record.parse().graph
            self._grow(0.0, graph.calls, {name: str(given.value) for name, given in graph.inputs.items()})
        elif isinstance(record, Extended):
            extension = record.parse()
            inputs = {name: str(given.value) for name, given in extension.inputs.items()}
            self._grow(record.at_s, extension.calls, inputs)
        elif isinstance(record, Written):
            self.written[record.call] = record
        elif getattr(record, "status", None) is ProgramStatus.SUCCEEDED:
            self.ended_well = True

    def _grow(self, at_s: float, calls: tuple[Call, ...], inputs: Mapping[str, str]) -> None:
        self.growth.append((at_s, calls))
        self.inputs.update({name: len(value) for name, value in inputs.items()})

    def program(self) -> TraceProgram | None:
        """The program; None unless it succeeded with all its calls, at least one of them a generation."""
        calls = [(at_s, call) for at_s, listed in self.growth for call in listed]
        if self.accepted is None or not self.ended_well or any(call.id not in self.written for _, call in calls):
            return None
        submission = self.accepted.parse()
        producers = {call.variable: call for _, call in calls}
        ends_s = {name: record.at_s for name, record in self.written.items()}
        self.lengths |= {
            f"{self.name}/{call.id}.{stands}": max(self.written[call.id].facts.output_tokens, 1)
            for _, call in calls
            for stands in ("out", "text")
            if isinstance(call, LLMCall)
        }
        nodes: list[Node] = []
        for at_s, call in sorted(calls, key=lambda item: ends_s[item[1].id]):
            after = tuple(dict.fromkeys((*call.after, *(producers[v].id for v in _reads(call) if v in producers))))
            facts = self.written[call.id].facts
            if isinstance(call, FunctionCall):
                seconds = sum(end - start for cause, start, end in facts.spans if cause == "tool")
                nodes.append(ToolNode(call.id, after, call.tool, seconds))
                continue
            ready_s = max((ends_s[name] for name in after), default=0.0)
            nodes.append(
                LLMNode(
                    call.id,
                    after,
                    self._prompt(call, max(facts.prompt_tokens, 1), producers),
                    max(facts.output_tokens, 1),
                    call.stage or "",
                    call.model or "",
                    wait=max(at_s - ready_s, 0.0),
                )
            )
        if not any(isinstance(node, LLMNode) for node in nodes):
            return None
        return TraceProgram(
            self.name,
            submission.workflow,
            self.accepted.accepted_at,
            tuple(nodes),
            self.accepted.tenant,
            submission.objective.deadline_s,
            submission.metadata.get("environment", ""),
            online=len(self.growth) > 1,
        )

    def _prompt(self, call: LLMCall, tokens: int, producers: Mapping[str, Call]) -> tuple[Piece, ...]:
        """The prompt's parts; those not seen before share, by their characters, what the others leave."""
        parts = [(stream, size) for stream, size in self._parts(call, producers) if size]
        known = ChainMap[str, int]({}, self.lengths, self.shared)
        new = {stream: size for stream, size in parts if stream not in known}
        unknown = max(tokens - sum(known.get(stream, 0) for stream, _ in parts), 0)
        characters = sum(new.values())
        known |= {stream: round(unknown * size / characters) for stream, size in new.items()}
        pieces: list[Piece] = []
        left = tokens
        for stream, _ in parts:
            count = self.lengths.setdefault(stream, min(known[stream], left))
            if count := min(count, left):
                pieces.append(Piece(stream, 0, count))
                left -= count
        self.shared |= {stream: known[stream] for stream in new if stream.startswith(_TEXT)}
        if left:
            pieces.append(Piece(f"{self.name}/{call.id}.in", 0, left))
        return tuple(pieces)

    def _parts(self, call: LLMCall, producers: Mapping[str, Call]) -> Iterator[tuple[str, int]]:
        """Each part as (stream, characters)."""
        for message in call.messages:
            for part in message.parts:
                if isinstance(part, TextPart):
                    yield f"{_TEXT}{hashlib.sha256(part.text.encode()).hexdigest()[:16]}", len(part.text)
                elif (producer := producers.get(part.variable)) is not None:
                    # Only as the assistant's message it stands where it was generated; elsewhere it is a text again.
                    stands = "out" if message.role == "assistant" else "text"
                    yield f"{self.name}/{producer.id}.{stands}", len(self.written[producer.id].value)
                else:
                    yield f"{self.name}/{part.variable}", self.inputs.get(part.variable, 1)


def _reads(call: Call) -> Iterator[str]:
    """The variables that a call needs."""
    return (read.variable for read in reads(call))
