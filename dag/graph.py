"""The program graph: which calls a program has, what they wait for, and which may run now.

Owns the only state of this package, all of it counters. Never runs a call, never holds a value, never asks the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from dag.diagnostics import InvalidGraph
from dag.limits import GraphLimits
from dag.validate import Existing, Plan, plan_extension
from tenuto.wire import Call, InputVariable, Objective, ToolSpec, ValueType


class CallState(StrEnum):
    """WAITING for its inputs, READY to run (or running), ENDED with its variable written, FAILED without one,
    SKIPPED because a call it needs has failed."""

    WAITING = "waiting"
    READY = "ready"
    ENDED = "ended"
    FAILED = "failed"
    SKIPPED = "skipped"


class CallStateError(RuntimeError):
    """`end` or `fail` was told something that cannot have happened: the caller's fault, never the client's."""


@dataclass(slots=True, eq=False)
class _Node:
    call: Call
    index: int
    depth: int
    predecessors: tuple[_Node, ...]
    waiting: int
    state: CallState
    read_by_client: bool
    cause: str | None = None
    successors: list[_Node] = field(default_factory=list)


class ProgramGraph:
    """The calls of one program, declared whole or grown by extensions while it runs.

    Invariant: a call is READY from the moment that all its predecessors are ENDED, and is reported exactly
    once, by the `extend` or `end` that made it so. A call whose ancestor FAILED is SKIPPED. Edges run from
    older to newer calls or within one extension, so growth can never close a cycle through older calls.
    """

    def __init__(self, objective: Objective | None = None, limits: GraphLimits | None = None) -> None:
        self.objective = objective or Objective()
        self.limits = limits or GraphLimits()
        self._nodes: dict[str, _Node] = {}  # in topological order
        self._calls: dict[str, Call] = {}
        self._unfinished: dict[str, Call] = {}  # in topological order: later analysis costs what is left, not what was
        self._variables: dict[str, ValueType] = {}
        self._producers: dict[str, str] = {}
        self._consumers: dict[str, list[str]] = {}
        self._outputs: dict[str, None] = {}

    # -- growth ---------------------------------------------------------------------------------

    def extend(
        self,
        inputs: Mapping[str, InputVariable],
        calls: Sequence[Call],
        outputs: Sequence[str],
        tools: Mapping[str, ToolSpec] | None = None,
    ) -> tuple[str, ...]:
        """Add inputs, calls in any order, and outputs; return the ids of the new calls that are ready at once.

        `tools` gives the arguments of function calls a check against their tool's parameters; a tool that it
        lacks is not checked (its worker may come later). New calls that need a failed call are SKIPPED at once:
        see `state` and `cause`. Outputs named before are kept once.

        Raises InvalidGraph with every fault found; the graph is then as it was.
        Cost: O(size of the extension), whatever the size of the graph.
        """
        existing = Existing(self._calls, self._variables, self._producers, self._outputs)
        plan, faults = plan_extension(existing, inputs, calls, outputs, tools or {}, self.limits)
        if faults:
            raise InvalidGraph(faults)
        return self._apply(plan, inputs, calls, outputs)

    def _apply(
        self, plan: Plan, inputs: Mapping[str, InputVariable], calls: Sequence[Call], outputs: Sequence[str]
    ) -> tuple[str, ...]:
        for name, given in inputs.items():
            self._variables[name] = given.type
            self._consumers[name] = []
        offset = len(self._calls)
        for call in calls:
            id, variable = call.id, call.variable
            self._calls[id] = call
            self._variables[variable] = call.type
            self._producers[variable] = id
            self._consumers[variable] = []
        for position in plan.order:
            self._add_node(calls[position], offset + position, plan.predecessors[position])
        for call, variables, predecessors in zip(calls, plan.variables, plan.predecessors, strict=True):
            node = self._nodes[call.id]
            for read in variables:
                self._consumers[read].append(call.id)
            for predecessor in predecessors:
                self._nodes[predecessor].successors.append(node)
        self._outputs.update(dict.fromkeys(outputs))
        ready: list[str] = []
        for call in calls:
            node = self._nodes[call.id]
            # Whoever declares a call that no other call reads reads it himself: the program ends with it.
            node.read_by_client = not node.successors and call.objective is None
            if node.state is CallState.READY:
                ready.append(call.id)
        return tuple(ready)

    def _add_node(self, call: Call, index: int, predecessors: tuple[str, ...]) -> None:
        nodes = tuple(self._nodes[name] for name in predecessors)
        depth = waiting = 0
        cause: str | None = None
        for node in nodes:
            depth = max(depth, node.depth + 1)
            if node.state is CallState.FAILED:
                cause = cause or node.call.id
            elif node.state is CallState.SKIPPED:
                cause = cause or node.cause
            elif node.state is not CallState.ENDED:
                waiting += 1
        state = CallState.SKIPPED if cause else CallState.WAITING if waiting else CallState.READY
        self._nodes[call.id] = _Node(call, index, depth, nodes, waiting, state, read_by_client=False, cause=cause)
        if cause is None:
            self._unfinished[call.id] = call

    # -- progress -------------------------------------------------------------------------------

    def end(self, call: str) -> tuple[str, ...]:
        """The call's variable is written: return the calls that this made ready, in declaration order.

        Raises CallStateError unless the call is READY. Cost: O(successors of the call).
        """
        node = self._node(call)
        if node.state is not CallState.READY:
            raise CallStateError(f"call {call!r} cannot end: it is {node.state}")
        node.state = CallState.ENDED
        del self._unfinished[call]
        ready: list[str] = []
        for successor in node.successors:
            successor.waiting -= 1
            if not successor.waiting and successor.state is CallState.WAITING:
                successor.state = CallState.READY
                ready.append(successor.call.id)
        return tuple(ready)

    def fail(self, call: str) -> tuple[str, ...]:
        """The call will never have a value: return every descendant that can now never run, in declaration order.

        Raises CallStateError unless the call is WAITING or READY. Cost: O(descendants and their edges).
        """
        node = self._node(call)
        if node.state not in (CallState.WAITING, CallState.READY):
            raise CallStateError(f"call {call!r} cannot fail: it is {node.state}")
        node.state = CallState.FAILED
        del self._unfinished[call]
        skipped: list[_Node] = []
        stack = [node]
        while stack:
            for successor in stack.pop().successors:
                if successor.state is CallState.WAITING:
                    successor.state = CallState.SKIPPED
                    successor.cause = call
                    del self._unfinished[successor.call.id]
                    skipped.append(successor)
                    stack.append(successor)
        skipped.sort(key=lambda skip: skip.index)
        return tuple(skip.call.id for skip in skipped)

    # -- questions ------------------------------------------------------------------------------

    @property
    def calls(self) -> Mapping[str, Call]:
        """Every call by id, in declaration order."""
        return MappingProxyType(self._calls)

    @property
    def unfinished_calls(self) -> Mapping[str, Call]:
        """The calls that are WAITING or READY, in a topological order."""
        return MappingProxyType(self._unfinished)

    def topological(self) -> Iterator[tuple[str, Call]]:
        """Every call with its id, each after those it needs."""
        return ((name, node.call) for name, node in self._nodes.items())

    @property
    def unfinished(self) -> int:
        """How many calls are WAITING or READY."""
        return len(self._unfinished)

    @property
    def variables(self) -> Mapping[str, ValueType]:
        """Type of every variable, inputs included."""
        return MappingProxyType(self._variables)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The variables that are the program's results, in the order they were declared."""
        return tuple(self._outputs)

    def producer(self, variable: str) -> str | None:
        """Id of the call that writes `variable`; None for an input. Raises KeyError if there is no such variable."""
        if variable not in self._variables:
            raise KeyError(variable)
        return self._producers.get(variable)

    def consumers(self, variable: str) -> tuple[str, ...]:
        """Ids of the calls that read `variable`, in declaration order. Raises KeyError if there is none such."""
        return tuple(self._consumers[variable])

    def predecessors(self, call: str) -> tuple[str, ...]:
        """Ids of the calls that must end before `call` starts: producers of what it reads, and its `after`."""
        return tuple(node.call.id for node in self._node(call).predecessors)

    def successors(self, call: str) -> tuple[str, ...]:
        """Ids of the calls that wait for `call`, in declaration order."""
        return tuple(node.call.id for node in self._node(call).successors)

    def depth(self, call: str) -> int:
        """Edges on the longest way from a source to `call` (sources: 0). Growth never changes it."""
        return self._node(call).depth

    def state(self, call: str) -> CallState:
        """Where the call stands."""
        return self._node(call).state

    def cause(self, call: str) -> str | None:
        """For a SKIPPED call, the failed ancestor that it was first skipped for; else None."""
        return self._node(call).cause

    def read_by_client(self, call: str) -> bool:
        """True if the client itself reads the call's variable: a declared output, or a call that had no reader
        and no objective of its own when it was declared. Once true it stays true."""
        node = self._node(call)
        return node.read_by_client or node.call.variable in self._outputs

    def _node(self, call: str) -> _Node:
        try:
            return self._nodes[call]
        except KeyError:
            raise KeyError(f"no call {call!r} in this program") from None
