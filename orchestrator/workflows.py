"""Registered workflows: graphs that are kept by name, and the programs that are made of them.

Owns the names of each tenant and what the journal keeps of them. Never runs anything: a start is a submission.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from pydantic import JsonValue, ValidationError

from dag.diagnostics import InvalidGraph, pointer
from dag.graph import ProgramGraph
from orchestrator.clock import OrchestratorClock
from orchestrator.errors import Busy, InvalidSubmission, NotFound
from orchestrator.journal import Journal, WorkflowKept
from orchestrator.limits import Limits
from tenuto.wire import (
    FieldError,
    Graph,
    InputVariable,
    ProgramSubmission,
    WorkflowDefinition,
    WorkflowStart,
    WorkflowView,
)

log = logging.getLogger(__name__)


class Workflows:
    """The workflows of a server, by tenant and name. What is told to a client is in the journal by then."""

    def __init__(self, journal: Journal, clock: OrchestratorClock, limits: Limits) -> None:
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._known: dict[str, dict[str, WorkflowView]] = {}
        self._changing = asyncio.Lock()  # what was checked still holds when the journal has it

    async def load(self) -> None:
        """Take up what the journal keeps, but for what cannot be read any more. Raises JournalUnavailable."""
        for kept in await self._journal.workflows():
            try:
                definition = kept.parse()
            except ValidationError:  # another version wrote it: the others are served
                log.exception("workflow %r of tenant %r cannot be taken up; register it again", kept.name, kept.tenant)
                continue
            if definition is not None:
                view = WorkflowView(name=kept.name, registered_at=kept.registered_at, definition=definition)
                self._known.setdefault(kept.tenant, {})[kept.name] = view

    async def register(self, name: str, definition: WorkflowDefinition, *, tenant: str) -> tuple[WorkflowView, bool]:
        """Keep a workflow; False: it takes the place of another. Running programs go on as they began.

        Raises InvalidSubmission (located) for a graph that no inputs could run, Busy, JournalUnavailable.
        """
        self._check(name, definition)
        async with self._changing:
            own = self._known.setdefault(tenant, {})
            new, limit = name not in own, self._limits.workflows
            if new and len(own) >= limit:
                raise Busy(f"the tenant has {len(own)} workflows, the limit is {limit} (limits.workflows)")
            view = WorkflowView(name=name, registered_at=self._clock.wall(), definition=definition)
            body = definition.model_dump_json().encode()
            await self._journal.append(WorkflowKept(tenant, name, view.registered_at, body)).committed()
            own[name] = view
            return view, new

    async def remove(self, name: str, *, tenant: str) -> None:
        """Forget a workflow; its programs go on. Raises NotFound, JournalUnavailable."""
        async with self._changing:
            self.get(name, tenant=tenant)
            await self._journal.append(WorkflowKept(tenant, name, self._clock.wall(), b"")).committed()
            del self._known[tenant][name]

    def get(self, name: str, *, tenant: str) -> WorkflowView:
        """Raises NotFound."""
        found = self._known.get(tenant, {}).get(name)
        if found is None:
            raise NotFound(f"there is no workflow {name!r}")
        return found

    def all(self, *, tenant: str) -> tuple[WorkflowView, ...]:
        """The tenant's workflows by name."""
        own = self._known.get(tenant, {})
        return tuple(own[name] for name in sorted(own))

    def submission(self, name: str, start: WorkflowStart, *, tenant: str) -> ProgramSubmission:
        """The program of a start. Raises NotFound, InvalidSubmission for inputs that lack or are not the workflow's."""
        definition = self.get(name, tenant=tenant).definition
        return ProgramSubmission(
            workflow=name,
            graph=Graph(inputs=_inputs(definition, start.inputs), calls=definition.calls, outputs=definition.outputs),
            objective=start.objective or definition.objective,
            toolset=definition.toolset,
            metadata=start.metadata,
        )

    def _check(self, name: str, definition: WorkflowDefinition) -> None:
        """Whatever is wrong with the graph before the inputs have values."""
        inputs = {input: InputVariable(type=given.type, value=None) for input, given in definition.inputs.items()}
        graph = ProgramGraph(definition.objective, self._limits.graph())
        try:
            graph.extend(inputs, definition.calls, definition.outputs, {})
        except InvalidGraph as fault:
            found = [d for d in fault.diagnostics if not (d.pointer.startswith("/inputs/") and "/value" in d.pointer)]
            if found:
                errors = [FieldError(pointer=d.pointer, message=d.message, fix=d.fix) for d in found]
                raise InvalidSubmission(f"workflow {name!r}: {errors[0].message}", errors=errors) from fault


def _inputs(definition: WorkflowDefinition, given: Mapping[str, JsonValue]) -> dict[str, InputVariable]:
    errors = [
        FieldError(
            pointer=pointer("inputs", name),
            message=f"the workflow has no input {name!r}",
            fix=f"its inputs are: {', '.join(definition.inputs) or 'none'}",
        )
        for name in given
        if name not in definition.inputs
    ]
    errors += [
        FieldError(pointer=pointer("inputs", name), message=f"input {name!r} is missing", fix="give it a value")
        for name, wanted in definition.inputs.items()
        if wanted.required and wanted.default is None and name not in given
    ]
    if errors:
        raise InvalidSubmission(errors[0].message, errors=errors)
    return {
        name: InputVariable(type=wanted.type, value=given.get(name, wanted.default))
        for name, wanted in definition.inputs.items()
    }
