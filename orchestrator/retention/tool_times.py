"""When function calls started and returned, until a rule must know.

Owns running calls and a few that returned lately. A call costs two entries in a table; what is learned from it is
computed when the next decision is near, and of many quick calls of one tool only the latest count.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue

from kv_ttl.durations import ToolCall
from orchestrator.retention.rules import RetentionRule
from orchestrator.retention.shapes import shape_of
from tenuto.wire import FunctionCall, ToolSpec

if TYPE_CHECKING:
    from orchestrator.runtime.program import Program

Specs = Callable[[str, str | None, str], ToolSpec | None]
"""(tenant, toolset, tool) -> the tool as its workers or the server declare it."""

_RECENT = 256
"""Calls that returned and were not learned from yet; more than that between two decisions are not looked at."""
_OF_ONE = 24
"""So many of one tool and shape: a key remembers about as many."""

_Id = tuple[str, str]


class _Running:
    """A function call that a worker has. `tool`: None until somebody asks what kind of call it is."""

    __slots__ = ("arguments", "call", "program", "since", "told", "tool")

    def __init__(self, program: Program, call: FunctionCall, arguments: Mapping[str, JsonValue], since: float) -> None:
        self.program, self.call, self.arguments, self.since = program, call, arguments, since
        self.tool: ToolCall | None = None
        self.told = False


class _Returned(NamedTuple):
    run: _Running
    at: float


class ToolTimes:
    """Running function calls, and those that returned since the rule was last told."""

    def __init__(self, rule: RetentionRule, specs: Specs) -> None:
        self._rule, self._specs = rule, specs
        self._running: dict[_Id, _Running] = {}
        self._untold: dict[_Id, _Running] = {}
        self._returned: deque[_Returned] = deque(maxlen=_RECENT)

    def started(self, program: Program, call: FunctionCall, arguments: Mapping[str, JsonValue], now: float) -> None:
        """A worker has the call."""
        id = (program.id, call.id)
        if id in self._running:
            self.ended(id, now, returned=False)  # an earlier attempt that was never heard of again
        self._running[id] = self._untold[id] = _Running(program, call, arguments, now)

    def ended(self, id: _Id, now: float, *, returned: bool) -> None:
        """It has returned, well or failed; or (not `returned`) it never will. No error if it never started."""
        run = self._running.pop(id, None)
        if run is None:
            return
        if run.told:
            (self._rule.returned(id, now) if returned else self._rule.cancelled(id))
        else:
            del self._untold[id]
            if returned:
                self._returned.append(_Returned(run, now))

    def of(self, program: Program, call: FunctionCall) -> tuple[ToolCall, float | None]:
        """What is known of a call that a pause waits for, and when it started; None: not yet."""
        run = self._running.get((program.id, call.id))
        if run is None:
            return self._tool_call(program, call, ""), None
        return self._kind(run), run.since

    def tell(self) -> None:
        """Let the rule know of every call up to now: a decision follows."""
        if self._returned:
            seen: Counter[ToolCall] = Counter()
            told: list[tuple[ToolCall, float]] = []
            for run, at in reversed(self._returned):
                tool = self._kind(run)
                if run.program.outcome is not None:
                    tool = replace(tool, program="")  # nobody will ask for its own any more
                seen[tool] += 1
                if seen[tool] <= _OF_ONE:
                    told.append((tool, at - run.since))
            self._returned.clear()
            for tool, seconds in reversed(told):
                self._rule.observe(tool, seconds)
        for id, run in self._untold.items():
            run.told = True
            self._rule.started(id, self._kind(run), run.since)
        self._untold.clear()

    def _kind(self, run: _Running) -> ToolCall:
        if run.tool is None:
            run.tool = self._tool_call(run.program, run.call, shape_of(run.arguments))
        return run.tool

    def _tool_call(self, program: Program, call: FunctionCall, shape: str) -> ToolCall:
        spec = self._specs(program.tenant, program.toolset, call.tool)
        declared_s = call.expected_s if call.expected_s is not None else spec.expected_s if spec is not None else None
        timeout_s = call.timeout_s if call.timeout_s is not None else spec.timeout_s if spec is not None else None
        return ToolCall(
            tool=call.tool,
            environment=program.metadata.get("environment") or program.toolset or program.workflow,
            tenant=program.tenant,
            program=program.id,
            shape=shape,
            declared_s=declared_s,
            timeout_s=math.inf if timeout_s is None else timeout_s,
        )
