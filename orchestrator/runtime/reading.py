"""What may be asked of programs without changing one: views, lists, variables, events.

Owns the waits of readers; each ends with a value or a typed error. Never starts or ends anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from pydantic import JsonValue

from orchestrator.caching.caller import Caller
from orchestrator.errors import NotFound, RuntimeFault, ShuttingDown
from orchestrator.limits import Limits
from orchestrator.runtime import views
from orchestrator.runtime.answered import caller, drives_effects
from orchestrator.runtime.archive import Archive
from orchestrator.runtime.events import Entry
from orchestrator.runtime.program import Program
from orchestrator.scheduling import StageStatistics
from tenuto.wire import (
    CacheHit,
    CallView,
    Event,
    LLMCall,
    Page,
    ProgramStatus,
    ProgramSummary,
    ProgramView,
    Timeline,
    VariableView,
)


class Reader:
    """Reads the programs of an archive. "In memory": live, ended not long ago, or brought back by `recall`."""

    def __init__(self, archive: Archive, statistics: StageStatistics, limits: Limits) -> None:
        self._archive = archive
        self._statistics = statistics
        self._limits = limits
        self._fault: RuntimeFault | None = ShuttingDown("the runtime has not been started")

    @property
    def fault(self) -> RuntimeFault | None:
        """Why nothing can be accepted: the journal's fault, or that the server is closing. None if all is well."""
        return self._fault

    def _check_alive(self) -> None:
        if self._fault is not None:
            raise self._fault

    async def recall(self, program: str, *, tenant: str) -> None:
        """Bring an ended program back into memory from the journal, if it is not there. Raises NotFound."""
        await self._archive.find(program, tenant)

    def view(self, program: str, *, tenant: str) -> ProgramView:
        """A program in memory. Raises NotFound."""
        return views.view(self._archive.known(program, tenant))

    def cached(self, program: str, name: str, *, tenant: str) -> CacheHit | None:
        """How the semantic cache answered the call that writes a variable of a program in memory; None if it did not.

        Raises NotFound.
        """
        found = self._archive.known(program, tenant)
        producer = found.graph.producer(name) if name in found.variables else None
        hit = None if producer is None else found.calls[producer].cache
        return None if hit is None else hit.view()

    def llm_call(
        self, program: str, call: str, *, tenant: str
    ) -> tuple[LLMCall, Mapping[str, JsonValue], Caller, bool]:
        """An LLM call of a program in memory, the values that there are, whose it is, and whether an effect reads what
        it answers. Raises NotFound."""
        found = self._archive.known(program, tenant)
        run = found.calls.get(call)
        if run is None or not isinstance(run.call, LLMCall):
            raise NotFound(f"program {program!r} has no LLM call {call!r}")
        return run.call, found.values, caller(found), drives_effects(found, call)

    def timeline(self, program: str, *, tenant: str) -> Timeline:
        """Where the time of a program in memory went. Raises NotFound."""
        return views.timeline(self._archive.known(program, tenant), self._statistics)

    def list(
        self,
        *,
        tenant: str,
        limit: int = 20,
        after: str | None = None,
        order: str = "desc",
        status: ProgramStatus | None = None,
        workflow: str | None = None,
    ) -> Page[ProgramSummary]:
        """A page of the tenant's programs in memory, newest first unless `order` is "asc"."""
        limit = max(1, min(limit, self._limits.page))
        found: list[ProgramSummary] = []
        for program in self._archive.shelf.of_tenant(tenant, after=after, newest_first=order != "asc"):
            if (status is None or program.status is status) and (workflow is None or program.workflow == workflow):
                if len(found) == limit:
                    return _page(found, has_more=True)
                found.append(views.summary(program))
        return _page(found, has_more=False)

    async def variable(self, program: str, name: str, *, tenant: str, wait_s: float = 0.0) -> VariableView:
        """A variable; waits up to `wait_s` seconds for its value or error.

        Raises NotFound, and what stopped the server if that happens while it waits.
        """
        found = await self._archive.find(program, tenant)
        variable = found.variables.get(name)
        if variable is None:
            raise NotFound(f"program {program!r} has no variable {name!r}")
        if not variable.durable and wait_s > 0:
            self._check_alive()
            waiter = asyncio.get_running_loop().create_future()
            if variable.waiters is None:
                variable.waiters = {}
            variable.waiters[waiter] = None
            try:
                async with asyncio.timeout(min(wait_s, self._limits.variable_wait_s)):
                    await waiter
            except TimeoutError:
                pass
            finally:
                if variable.waiters is not None:
                    variable.waiters.pop(waiter, None)
        return views.variable_view(found, name)

    def events(self, program: str, *, tenant: str, after_seq: int = 0) -> AsyncGenerator[Event, None]:
        """The events beyond number `after_seq` of a program in memory: those that were, then live ones, to the
        terminal event. Raises NotFound at once; while it is read, what stopped the server if that happens."""
        return _events(self._archive.known(program, tenant), after_seq)

    def entries(self, program: str, *, tenant: str, after_seq: int = 0) -> AsyncGenerator[Entry, None]:
        """As `events`, in the form in which they are kept: for readers in this process."""
        return self._archive.known(program, tenant).log.follow(after_seq)

    def last_event(self, program: str, *, tenant: str) -> int:
        """Number of the last event that readers of a program in memory may see. Raises NotFound."""
        return self._archive.known(program, tenant).log.visible

    def call(self, program: str, call: str, *, tenant: str) -> CallView:
        """One call of a program in memory. Raises NotFound."""
        run = self._archive.known(program, tenant).calls.get(call)
        if run is None:
            raise NotFound(f"program {program!r} has no call {call!r}")
        return views.call_view(run)


async def _events(program: Program, after_seq: int) -> AsyncGenerator[Event, None]:
    async with aclosing(program.log.follow(after_seq)) as entries:
        async for entry in entries:
            yield entry.event()


def _page(found: Sequence[ProgramSummary], *, has_more: bool) -> Page[ProgramSummary]:
    first_id, last_id = (found[0].id, found[-1].id) if found else (None, None)
    return Page[ProgramSummary].model_construct(
        data=tuple(found), first_id=first_id, last_id=last_id, has_more=has_more
    )
