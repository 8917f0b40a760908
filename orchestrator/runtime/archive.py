"""Programs by their ids, wherever they are: in memory, or in the journal, from whose records they are made again.

Owns the way from a record to a program. Never lets one go on: that is the runtime's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from random import Random

from orchestrator.clock import OrchestratorClock
from orchestrator.errors import IdempotencyMismatch, JournalUnavailable, NotFound
from orchestrator.journal import Accepted, Journal
from orchestrator.limits import Limits
from orchestrator.runtime.program import Host, Program
from orchestrator.runtime.replay import replay
from orchestrator.runtime.shelf import Shelf
from orchestrator.telemetry import NullTelemetry, ProgramTrace, Telemetry, parse_traceparent
from tenuto.wire import ProgramSubmission

log = logging.getLogger(__name__)


class Archive:
    """The programs of one server. `policy`: its name, for their traces."""

    def __init__(
        self,
        journal: Journal,
        telemetry: Telemetry,
        *,
        clock: OrchestratorClock,
        limits: Limits,
        rng: Random,
        policy: str,
    ) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._no_telemetry = NullTelemetry(rng)
        self._clock = clock
        self._limits = limits
        self._policy = policy
        self.shelf = Shelf(limits)

    # -- finding --------------------------------------------------------------------------------

    def known(self, id: str, tenant: str) -> Program:
        """A program in memory. Raises NotFound."""
        program = self.shelf.get(id)
        if program is None or program.tenant != tenant:
            raise NotFound(f"there is no program {id!r} in memory")
        return program

    async def find(self, id: str, tenant: str) -> Program:
        """A program in memory or in the journal. Raises NotFound, JournalUnavailable."""
        program = self.shelf.get(id)
        if program is None:
            try:
                if records := await self._journal.records(id):
                    program = replay(records, self._recalled, self._limits.graph())
            except ValueError as error:
                raise JournalUnavailable(str(error)) from error
            if program is not None:
                self.shelf.put_recalled(program)
        if program is None or program.tenant != tenant:
            raise NotFound(f"there is no program {id!r}")
        return program

    async def under_key(self, key: str, body_hash: str, tenant: str) -> Program | None:
        """The program that a key was used for. Raises IdempotencyMismatch if that was for another body."""
        program = self.shelf.under_key(key)
        if program is None:
            accepted = await self._journal.find_key(key)
            if accepted is None:
                return None
            program = await self.find(accepted.program, tenant)
        check_same(program.body_hash, body_hash)
        return program

    async def unfinished(self) -> AsyncIterator[Program]:
        """Every program that the journal holds and that has not ended, as its records leave it."""
        for id in await self._journal.unfinished():
            try:
                program = replay(await self._journal.records(id), self._remade, self._limits.graph())
            except ValueError:  # must not keep the others from going on
                log.exception("program %s cannot be taken up; it stays in the journal", id)
            else:
                yield program

    # -- making ---------------------------------------------------------------------------------

    def make(self, accepted: Accepted, submission: ProgramSubmission, trace: ProgramTrace, host: Host) -> Program:
        """The program of an acceptance."""
        return Program(
            accepted.program,
            accepted.tenant,
            submission,
            accepted_at=accepted.accepted_at,
            began_s=self._clock.now(),
            limits=self._limits.graph(),
            token_events=self._limits.token_events,
            inline_bytes=self._limits.inline_bytes,
            trace=trace,
            host=host,
            key=accepted.key,
            body_hash=accepted.body_hash,
            principal=accepted.principal,
        )

    def trace(
        self,
        program: str,
        submission: ProgramSubmission,
        at_s: float,
        traceparent: str | None,
        earlier: str | None = None,
    ) -> ProgramTrace:
        """The trace of a program, which goes on with its client's and with that of an earlier server."""
        return self._telemetry.program(
            program,
            submission.workflow,
            at_s,
            parse_traceparent(traceparent),
            parse_traceparent(earlier),
            agent=submission.agent,
            objective=submission.objective.kind,
            policy=self._policy,
        )

    def _remade(self, accepted: Accepted, submission: ProgramSubmission, host: Host) -> Program:
        """A program of an earlier server, whose trace goes on."""
        wall_s = self._clock.wall()
        trace = self.trace(accepted.program, submission, wall_s, accepted.traceparent, accepted.span)
        return self.make(accepted, submission, trace, host)

    def _recalled(self, accepted: Accepted, submission: ProgramSubmission, host: Host) -> Program:
        """An ended program, for reading only: its trace is over."""
        span = parse_traceparent(accepted.span)
        trace = self._no_telemetry.program(accepted.program, submission.workflow, accepted.accepted_at, span)
        return self.make(accepted, submission, trace, host)


def check_same(first: str | None, again: str) -> None:
    """Raises IdempotencyMismatch if a key's first body and this one differ."""
    if first != again:
        raise IdempotencyMismatch("this idempotency key was used for another body: use a fresh key for a new program")
