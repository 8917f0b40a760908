"""Rebuilds a program from its journal records, by the same transitions that made them.

Owns nothing. Launches nothing: what was running is found READY, and the runtime starts it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields

from dag.graph import CallStateError
from dag.limits import GraphLimits
from orchestrator.journal import Accepted, Commit, Ended, Extended, Failed, Intent, Record, Resumed, Written
from orchestrator.runtime.calls import CallRun
from orchestrator.runtime.program import Host, Program
from orchestrator.tools import FailureType
from tenuto.wire import ErrorValue, EventKind, GraphExtension, ProgramStatus, ProgramSubmission

ProgramMaker = Callable[[Accepted, ProgramSubmission, Host], Program]

_NO_LIMITS = GraphLimits(*(sys.maxsize for _ in fields(GraphLimits)))
_CANCELLED = ErrorValue(type=FailureType.CANCELLED, message="the program was cancelled")


class _PastHost:
    """The world as it was: time is that of the record, everything is durable, nothing runs."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self._commit = Commit.of_nothing()

    def at_s(self, program: Program) -> float:
        return self.time_s

    def launch(self, program: Program, run: CallRun) -> None:
        return

    def record(self, record: Record) -> Commit:
        return self._commit

    def grow(self, program: Program, extension: GraphExtension) -> None:
        raise CallStateError("nothing is generated while the past is read")

    def idle(self, program: Program) -> None:
        return

    def ended(self, program: Program) -> None:
        return

    def end_durable(self, program: Program) -> None:
        return


class UnreadableProgram(ValueError):
    """The journal's records of a program make none: another version wrote them, or the file was changed."""


def replay(records: Sequence[Record], make: ProgramMaker, limits: GraphLimits) -> Program:
    """The program as its records leave it; give it a live host before going on.

    What was accepted once is not measured against today's limits; what comes later is. Raises UnreadableProgram.
    """
    try:
        return _replay(records, make, limits)
    except (ValueError, TypeError, LookupError, CallStateError) as error:
        raise UnreadableProgram(f"the records of program {records[0].program!r} make none: {error}") from error


def _replay(records: Sequence[Record], make: ProgramMaker, limits: GraphLimits) -> Program:
    past = _PastHost()
    first, *rest = records
    if not isinstance(first, Accepted):
        raise ValueError("the acceptance is missing")
    submission = first.parse()
    program = make(first, submission, past)
    program.holds_end = True
    program.graph.limits = _NO_LIMITS
    durable = Commit.of_nothing()
    ready = program.declare(submission.graph, {})
    program.log.hold()
    program.begin(EventKind.PROGRAM_ACCEPTED, submission.graph, ready, durable)
    for record in rest:
        if isinstance(record, Intent):
            program.calls[record.call].intended = True
            continue
        if isinstance(record, Accepted):
            raise ValueError("it was accepted twice")
        past.time_s = record.at_s
        program.log.jump(record.seq)
        match record:
            case Resumed():
                program.restarts += 1
            case Extended():
                extension = record.parse()
                ready = program.declare(extension, {})
                program.log.hold()
                program.begin(EventKind.PROGRAM_EXTENDED, extension, ready, durable)
                if extension.seal:
                    program.seal(extension.result, record.at_s)
            case Written():
                run = program.calls[record.call]
                run.restore(record.facts)
                program.write(run, record.parse(), record.value, record.facts, record.at_s)
            case Failed():
                run = program.calls[record.call]
                run.restore(record.facts)
                program.fail(run, record.error, record.facts, record.at_s)
            case Ended(status=ProgramStatus.CANCELLED):
                program.cancel(record.error or _CANCELLED, dict(record.cut))
            case Ended():
                program.end(record.status, record.error, record.at_s)
    program.holds_end = False
    program.graph.limits = limits
    return program
