"""Is this extension of a graph sound? Finds every fault at once, each with its place, before anything changes.

Owns the rules of a graph and the order of its new calls. Never changes a graph: it hands back a `Plan`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from dag.diagnostics import Diagnostic, Suggester, listing, pointer, shorten
from dag.limits import GraphLimits
from dag.reads import Read, Steps, constants, expression_depth, reads
from dag.schema import TEXT_SCHEMA, Memo, Node, SchemaError, known_keys, of_type, schema_text, validator
from dag.tool_arguments import ToolCheck
from dag.values import json_faults, value_faults
from tenuto.wire import (
    Call,
    Constant,
    FunctionCall,
    InputVariable,
    JsonType,
    LLMCall,
    TextPart,
    TextType,
    ToolSpec,
    ValueType,
)


@dataclass(frozen=True, slots=True)
class Existing:
    """Live views of the graph that is extended."""

    calls: Mapping[str, Call]
    variables: Mapping[str, ValueType]
    producers: Mapping[str, str]
    outputs: Collection[str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a sound extension joins the graph. Lists run parallel to the new calls.

    `order`: positions of the new calls, each after those it needs. `variables`: what each call reads, once each.
    `predecessors`: ids each call waits for, existing or new, once each.
    """

    order: list[int]
    variables: list[tuple[str, ...]]
    predecessors: list[tuple[str, ...]]


def plan_extension(
    existing: Existing,
    inputs: Mapping[str, InputVariable],
    calls: Sequence[Call],
    outputs: Sequence[str],
    tools: Mapping[str, ToolSpec],
    limits: GraphLimits,
) -> tuple[Plan, tuple[Diagnostic, ...]]:
    """The plan of an extension, to be used only if there are no diagnostics. Cost: O(size of the extension)."""
    return _Validation(existing, inputs, calls, outputs, tools, limits).run()


class _Validation:
    def __init__(
        self,
        existing: Existing,
        inputs: Mapping[str, InputVariable],
        calls: Sequence[Call],
        outputs: Sequence[str],
        tools: Mapping[str, ToolSpec],
        limits: GraphLimits,
    ) -> None:
        self.existing, self.inputs, self.calls, self.outputs = existing, inputs, calls, outputs
        self.tools, self.limits = tools, limits
        self.faults: list[Diagnostic] = []
        self.untold = 0
        self.suggester = Suggester()
        self.positions: dict[str, int] = {}  # new calls by id
        self.types: dict[str, ValueType] = {name: variable.type for name, variable in inputs.items()}
        self.producers: dict[str, str] = {}  # new variables to the new calls that write them
        self.schemas: dict[str, Node | SchemaError] = {}  # by their text
        self.nodes: dict[str, Node] = {}  # schemas of new JSON variables: one object for equal ones, for the memo
        self.memo = Memo()
        self.checks: dict[str, ToolCheck] = {}  # made when first needed: a growing program names few tools a time
        self.plan = Plan([], [], [])

    def run(self) -> tuple[Plan, tuple[Diagnostic, ...]]:
        if not self._fits():
            return self.plan, tuple(self.faults)
        self._names()
        self._types_and_values()
        for position, call in enumerate(self.calls):
            self._call(position, call)
        self._outputs()
        self._order()
        if self.untold:
            message = f"{self.untold} more faults are not shown"
            self.faults.append(Diagnostic("more_faults", "", message, "mend the faults above and submit again"))
        return self.plan, tuple(self.faults)

    def fault(self, code: str, where: Steps, message: str, fix: str, inside: str = "") -> None:
        """Tell a fault at `where`; `inside` is a pointer from there on."""
        if len(self.faults) < self.limits.max_diagnostics:
            self.faults.append(Diagnostic(code, pointer(*where) + inside, shorten(message, 1000), shorten(fix)))
        else:
            self.untold += 1

    def suggest(self, name: str, known: Iterable[str], otherwise: str) -> str:
        """The fix for a name that nobody declared: the nearest known one, if any is near."""
        if len(self.faults) >= self.limits.max_diagnostics:
            return otherwise
        closest = self.suggester.closest(name, known)
        return f"did you mean {closest!r}?" if closest else otherwise

    def exceeded(self, code: str, where: Steps, what: str, count: int, most: int, fix: str) -> None:
        """Tell that `count` is beyond its limit."""
        self.fault(code, where, f"{what}: {count}, where at most {most} are allowed", fix)

    # -- sizes and names --------------------------------------------------------------------------

    def _fits(self) -> bool:
        limits = self.limits
        calls = len(self.existing.calls) + len(self.calls)
        inputs = len(self.existing.variables) - len(self.existing.producers) + len(self.inputs)
        if calls > limits.max_calls:
            fix = "split the work into several programs"
            self.exceeded("too_many_calls", ("calls",), "calls of the program", calls, limits.max_calls, fix)
        if inputs > limits.max_inputs:
            fix = "put the values into fewer, structured inputs"
            self.exceeded("too_many_inputs", ("inputs",), "inputs of the program", inputs, limits.max_inputs, fix)
        return not self.faults

    def _names(self) -> None:
        for name in self.inputs:
            if name in self.existing.producers:
                writer = self.existing.producers[name]
                message = f"input {name!r} has the name of a variable that call {writer!r} writes"
                self.fault("input_and_output_same_name", ("inputs", name), message, "rename the input")
            elif name in self.existing.variables:
                message = f"the program has an input {name!r} already, and inputs are written once"
                self.fault("duplicate_input", ("inputs", name), message, "leave it out, or choose another name")
        for position, call in enumerate(self.calls):
            if call.id in self.positions or call.id in self.existing.calls:
                first = f"/calls/{self.positions[call.id]}" if call.id in self.positions else "an earlier extension"
                message = f"call id {call.id!r} is taken by {first}"
                self.fault("duplicate_call", ("calls", position, "id"), message, "give each call an id of its own")
                if call.output is None:
                    continue
            else:
                self.positions[call.id] = position
            self._produces(position, call)

    def _produces(self, position: int, call: Call) -> None:
        variable = call.variable
        where: Steps = ("calls", position, "id" if call.output is None else "output")
        other = self.producers.get(variable) or self.existing.producers.get(variable)
        if other is not None:
            message = f"variable {variable!r} is written by call {other!r} and by call {call.id!r}"
            self.fault("two_producers", where, message, "a variable has one producer: rename one call's output")
        elif variable in self.inputs or variable in self.existing.variables:
            message = f"call {call.id!r} writes {variable!r}, which is an input of the program"
            self.fault("input_and_output_same_name", where, message, "rename the call's output or the input")
        else:
            self.producers[variable] = call.id
            self.types[variable] = call.type

    # -- types and values -------------------------------------------------------------------------

    def _types_and_values(self) -> None:
        for name, variable in self.inputs.items():
            if self._schema_is_sound(name, variable.type, ("inputs", name, "type", "json_schema")):
                fix = "change the value or the declared type"
                for inside, message in value_faults(variable.type, variable.value):
                    where = ("inputs", name, "value")
                    self.fault("value_mismatch", where, f"input {name!r}: {message}", fix, inside)
        for position, call in enumerate(self.calls):
            self._schema_is_sound(call.variable, call.type, ("calls", position, "type", "json_schema"))

    def _schema_is_sound(self, variable: str, type: ValueType, where: Steps) -> bool:
        if isinstance(type, TextType):
            return True
        try:
            text = schema_text(type.json_schema)
            if len(text) > (most := self.limits.max_schema_chars):
                what, fix = "characters of the JSON Schema", "use a smaller schema"
                self.exceeded("schema_too_large", where, what, len(text), most, fix)
                return False
            if text not in self.schemas:
                self.schemas[text] = _compiled(type)
            found = self.schemas[text]
        except SchemaError as error:
            found = error
        if isinstance(found, Node):
            self.nodes.setdefault(variable, found)
            return True
        message = f"not a JSON Schema (draft 2020-12): {found}"
        fix = "mend the schema; its $refs must stay inside it"
        self.fault("invalid_schema", where, message, fix, found.pointer)
        return False

    def node_of(self, variable: str) -> Node | None:
        """The schema of a variable, new or existing; None if nobody declares it."""
        found = self.nodes.get(variable)
        if found is not None:
            return found
        type = self.types.get(variable) or self.existing.variables.get(variable)
        return None if type is None else of_type(type)

    # -- one call ---------------------------------------------------------------------------------

    def _call(self, position: int, call: Call) -> None:
        base: Steps = ("calls", position)
        variables: dict[str, None] = {}
        predecessors: dict[str, None] = {}
        edges = len(call.after)
        if not self._call_fits(base, call):
            self._join(variables, predecessors)
            return
        for read in reads(call):
            edges += 1
            self._read(base, call, read, variables, predecessors)
        for index, name in enumerate(call.after):
            if name == call.id:
                message = f"call {call.id!r} waits for itself"
                self.fault("self_reference", (*base, "after", index), message, "leave it out of its own 'after'")
            elif name in self.positions or name in self.existing.calls:
                predecessors[name] = None
            else:
                self._unknown_call((*base, "after", index), name)
        if edges > (most := self.limits.max_edges_per_call):
            what, fix = f"references of call {call.id!r}", "gather the values in calls between"
            self.exceeded("too_many_edges", base, what, edges, most, fix)
        if isinstance(call, FunctionCall) and call.tool in self.tools:
            self._tool_call(base, call)
        self._join(variables, predecessors)

    def _tool_call(self, base: Steps, call: FunctionCall) -> None:
        check = self.checks.get(call.tool)
        if check is None:
            check = self.checks[call.tool] = ToolCheck(self.tools[call.tool], self.node_of, self.memo)
        known = self.nodes.get(call.variable) if self.types.get(call.variable) is call.type else None
        for fault in check.faults(call, known or of_type(call.type)):
            fix = self.suggest(fault.name, fault.known, fault.fix)
            self.fault(fault.code, (*base, *fault.where), fault.message, fix)

    def _join(self, variables: dict[str, None], predecessors: dict[str, None]) -> None:
        self.plan.variables.append(tuple(variables))
        self.plan.predecessors.append(tuple(predecessors))

    def _call_fits(self, base: Steps, call: Call) -> bool:
        """Sizes that must hold before the call is looked into any deeper."""
        limits = self.limits
        if isinstance(call, LLMCall):
            texts = (part.text for message in call.messages for part in message.parts if isinstance(part, TextPart))
            if (chars := sum(map(len, texts))) <= limits.max_prompt_chars:
                return True
            what, most = f"characters in the prompt of call {call.id!r}", limits.max_prompt_chars
            self.exceeded("prompt_too_large", (*base, "messages"), what, chars, most, "shorten the prompt")
            return False
        fits = True
        for name, expr in call.arguments.items():
            if isinstance(expr, Constant) and not json_faults(expr.value):
                continue  # most arguments are plain values
            where = (*base, "arguments", name)
            if (depth := expression_depth(expr)) > (most := limits.max_expression_depth):
                what = f"nested lists and objects in argument {name!r}"
                self.exceeded("expression_too_deep", where, what, depth, most, "pass a flatter value")
                fits = False
                continue
            for constant, inside in constants(expr, where):
                for place, message in json_faults(constant.value):
                    told = f"constant in argument {name!r}: {message}"
                    self.fault("value_mismatch", (*inside, "value"), told, "pass a JSON value", place)
                    fits = False
        return fits

    def _read(
        self, base: Steps, call: Call, read: Read, variables: dict[str, None], predecessors: dict[str, None]
    ) -> None:
        name = read.variable
        producer = self.producers.get(name)
        if producer is None:
            if name not in self.types and name not in self.existing.variables:
                what = f"call {call.id!r} reads an unknown variable"
                self._unknown_variable("unknown_variable", (*base, *read.where, "variable"), what, name)
                return
            producer = self.existing.producers.get(name)
        variables[name] = None
        if producer == call.id:
            message = f"call {call.id!r} reads {name!r}, which it writes itself"
            self.fault("self_reference", (*base, *read.where, "variable"), message, "read another call's variable")
            return
        if producer is not None:
            predecessors[producer] = None
        if read.path:
            self._path(base, read)

    def _path(self, base: Steps, read: Read) -> None:
        node = self.node_of(read.variable)
        if node is None:
            return
        found = self.memo.follow(node, read.path)
        if isinstance(found, Node):
            return
        index, absent = found
        where = (*base, *read.where, "path", index)
        if node.schema is TEXT_SCHEMA:
            message = f"variable {read.variable!r} is text and has no parts"
            self.fault("type_mismatch", where, message, "drop the path, or give the variable a JSON type")
            return
        parent = self.memo.follow(node, read.path[:index])
        keys = known_keys(parent) if isinstance(parent, Node) else ()
        at = pointer(*read.path[:index])
        message = f"variable {read.variable!r} has nothing at {pointer(*read.path[: index + 1])}: "
        message += f"by its schema {'what is at ' + at if at else 'it'} {absent.reason}"
        fix = self.suggest(str(read.path[index]), keys, f"known keys: {listing(keys)}" if keys else "mend the path")
        self.fault("type_mismatch", where, message, fix)

    def _unknown_variable(self, code: str, where: Steps, what: str, name: str) -> None:
        call = self.calls[self.positions[name]] if name in self.positions else self.existing.calls.get(name)
        if call is not None:
            fix = f"call {name!r} writes the variable {call.variable!r}: did you mean that?"
        else:
            fix = self.suggest(
                name, chain(self.types, self.existing.variables), "name an input or a variable that a call writes"
            )
        self.fault(code, where, f"{what} {name!r}", fix)

    def _unknown_call(self, where: Steps, name: str) -> None:
        producer = self.producers.get(name) or self.existing.producers.get(name)
        if producer is not None:
            fix = f"{name!r} is a variable; did you mean its call {producer!r}?"
        else:
            known = chain(self.positions, self.existing.calls)
            fix = self.suggest(name, known, "'after' takes ids of calls of this program")
        self.fault("unknown_call", where, f"'after' names an unknown call {name!r}", fix)

    # -- the whole --------------------------------------------------------------------------------

    def _outputs(self) -> None:
        for index, name in enumerate(self.outputs):
            if name not in self.types and name not in self.existing.variables:
                self._unknown_variable("unreachable_output", ("outputs", index), "nothing produces the output", name)

    def _order(self) -> None:
        """Kahn's algorithm over the new calls alone: existing calls can never need a new one."""
        waiting = [0] * len(self.calls)
        successors: list[list[int]] = [[] for _ in self.calls]
        for position, predecessors in enumerate(self.plan.predecessors):
            for name in predecessors:
                before = self.positions.get(name)
                if before is not None:
                    waiting[position] += 1
                    successors[before].append(position)
        free = deque(position for position, count in enumerate(waiting) if not count)
        order = self.plan.order
        while free:
            position = free.popleft()
            order.append(position)
            for successor in successors[position]:
                waiting[successor] -= 1
                if not waiting[successor]:
                    free.append(successor)
        if len(order) < len(self.calls):
            self._cycles([position for position, count in enumerate(waiting) if count], successors)

    def _cycles(self, stuck: list[int], successors: list[list[int]]) -> None:
        """One fault for each knot of calls that wait for each other, naming a shortest circle through its first."""
        import networkx as nx  # only on the way to a refusal: its import takes longer than most programs' validation

        inside = set(stuck)
        graph: Any = nx.DiGraph()
        graph.add_nodes_from(stuck)
        graph.add_edges_from((node, after) for node in stuck for after in successors[node] if after in inside)
        knots = [sorted(knot) for knot in nx.strongly_connected_components(graph) if len(knot) > 1]
        for knot in sorted(knots):
            first = knot[0]
            within = graph.subgraph(knot)
            # The way from the first call to one that it waits for closes a circle.
            ways = nx.single_source_shortest_path(within, first)
            last = min(within.predecessors(first), key=lambda node: (len(ways[node]), node))
            circle = [self.calls[position].id for position in (*ways[last], first)]
            message = "calls wait for each other in a circle: " + " -> ".join(map(repr, _shorten(circle)))
            fix = f"let {circle[0]!r} not depend on {circle[-2]!r}"
            self.fault("cycle", self._place_of_edge(first, self.calls[last].id), message, fix)

    def _place_of_edge(self, position: int, predecessor: str) -> Steps:
        call = self.calls[position]
        base: Steps = ("calls", position)
        for read in reads(call):
            if self.producers.get(read.variable) == predecessor:
                return (*base, *read.where, "variable")
        return (*base, "after", call.after.index(predecessor))


def _shorten(names: list[str], limit: int = 12) -> list[str]:
    return names if len(names) <= limit else [*names[: limit - 3], "…", *names[-2:]]


def _compiled(type: JsonType) -> Node | SchemaError:
    try:
        validator(type.json_schema)
        return of_type(type)
    except SchemaError as error:
        return error
