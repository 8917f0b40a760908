"""From calls as they were written to calls of a program: tools looked up, arguments named, references made edges.

Pure. Owns what a written call means for the graph; types of arguments are checked by `dag.validate` when it grows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dag.diagnostics import Diagnostic, Suggester, listing
from dag.plan.model import Argument, OpenText, PlannedCall, PlanRef, PlanText, PlanValue
from dag.plan.tool_calls import EmittedCall
from dag.schema import TEXT, Memo, Node, possible_kinds
from tenuto.wire import (
    Constant,
    DictExpr,
    EffectClass,
    Expr,
    FunctionCall,
    JsonType,
    ListExpr,
    Reference,
    TextExpr,
    TextType,
    ToolSpec,
    ValueType,
)

_HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class CallFault(Exception):
    """A call that was read cannot be run. `argument` is the position of the argument at fault, None for the call."""

    def __init__(self, code: str, message: str, fix: str, argument: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.fix, self.argument = code, message, fix, argument


class PlanCompiler:
    """Makes `FunctionCall`s of one plan. `tools` are those that it may use; `variables` gives the variable of a number.

    Positional arguments take the tool's parameters in the order in which its schema lists them.
    """

    def __init__(self, tools: Mapping[str, ToolSpec], variables: Mapping[int, str]) -> None:
        self._tools = tools
        self._variables = variables
        self._memo = Memo()
        self._suggester = Suggester()

    def compile(self, call: PlannedCall, id: str) -> FunctionCall:
        """The call, with `id` and as yet undeclared. Raises CallFault."""
        tool = self._tool(call.tool)
        if call.repaired and tool.effect is not EffectClass.READ:
            message = f"call {call.id} of {tool.name!r} lacked its closing brackets, and it changes something"
            raise CallFault("unclosed_call", message, "write the call again, closed with )")
        parameters = Node(tool.parameters, tool.parameters)
        arguments: dict[str, Expr] = {}
        names = list(tool.parameters.get("properties", {}))
        plain: dict[str, Any] = {}
        for position, argument in enumerate(call.arguments):
            name = self._name_of(tool, names, position, argument, arguments)
            arguments[name] = self._expression(argument.value, self._memo.part(parameters, name))
            plain[name] = argument.value
        return self._call(id, tool, arguments, plain)

    def compile_emitted(self, call: EmittedCall, id: str) -> FunctionCall:
        """A call of a function-calling model: its arguments are data. Raises CallFault."""
        tool = self._tool(call.tool)
        arguments: dict[str, Expr] = {name: Constant(value=value) for name, value in call.arguments.items()}
        return self._call(id, tool, arguments, call.arguments)

    def partial(self, opened: OpenText) -> tuple[str, dict[str, Any]] | None:
        """The name of the open argument and the others, if the tool can begin on it: all others that it requires are
        there, and are constants."""
        tool = self._tools.get(opened.tool)
        if tool is None:
            return None
        names = list(tool.parameters.get("properties", {}))
        given: dict[str, Any] = {}
        try:
            for position, argument in enumerate(opened.arguments):
                given[self._name_of(tool, names, position, argument, given)] = argument.value
        except CallFault:
            return None
        name = self.name_of_open(opened)
        if name is None or name in given or name not in tool.partial or any(map(_holds_references, given.values())):
            return None
        required = set(tool.parameters.get("required", ())) - {name}
        return (name, given) if required <= given.keys() else None

    def name_of_open(self, opened: OpenText) -> str | None:
        """The name of the argument that is being written; None if the tool has none there."""
        tool = self._tools.get(opened.tool)
        names = list(tool.parameters.get("properties", {})) if tool is not None else []
        position = len(opened.arguments)
        return opened.name or (names[position] if position < len(names) else None)

    def _tool(self, name: str) -> ToolSpec:
        tool = self._tools.get(name)
        if tool is None:
            close = self._suggester.closest(name, self._tools)
            fix = f"did you mean {close!r}?" if close else f"the tools are {listing(self._tools) or 'none'}"
            raise CallFault("unknown_tool", f"there is no tool {name!r}", fix)
        return tool

    def _name_of(
        self, tool: ToolSpec, names: list[str], position: int, argument: Argument, taken: Mapping[str, Any]
    ) -> str:
        if argument.name is None:
            if position >= len(names):
                message = f"tool {tool.name!r} takes {len(names)} arguments, and more are given"
                fix = f"its parameters are {listing(names)}" if names else "it takes no arguments"
                raise CallFault("too_many_arguments", message, fix, position)
            return names[position]
        if argument.name in taken:
            message = f"argument {argument.name!r} of tool {tool.name!r} is given twice: by position and by name"
            raise CallFault("argument_twice", message, "give it once", position)
        return argument.name

    def _call(self, id: str, tool: ToolSpec, arguments: dict[str, Expr], plain: Mapping[str, Any]) -> FunctionCall:
        return FunctionCall(
            id=id,
            tool=tool.name,
            type=result_type(tool),
            stage=tool.name,
            arguments=arguments,
            effect=tool.effect,
            effect_key=effect_key(tool, plain),
            idempotent=tool.idempotent,
            expected_s=tool.expected_s,
            retry=tool.retry,
        )

    def _expression(self, value: PlanValue, wanted: Any) -> Expr:
        """`wanted` is the schema of the place, if it is known."""
        node = wanted if isinstance(wanted, Node) else None
        if isinstance(value, PlanRef):
            reference = self._reference(value)
            as_text = value.quoted and node is not None and possible_kinds(node) == TEXT
            return TextExpr(parts=(reference,)) if as_text else reference
        if isinstance(value, PlanText):
            return TextExpr(
                parts=tuple(part if isinstance(part, str) else self._reference(part) for part in value.parts)
            )
        if isinstance(value, list) and _holds_references(value):
            return ListExpr(items=tuple(self._expression(v, self._part(node, i)) for i, v in enumerate(value)))
        if isinstance(value, dict) and _holds_references(value):
            return DictExpr(items={key: self._expression(v, self._part(node, key)) for key, v in value.items()})
        return Constant(value=value)

    def _reference(self, ref: PlanRef) -> Reference:
        if ref.id not in self._variables:
            message = f"call {ref.id}, which this needs, could not be made"
            raise CallFault("unknown_reference", message, f"mend call {ref.id}, and give both again")
        return Reference(variable=self._variables[ref.id], path=ref.path)

    def _part(self, node: Node | None, step: str | int) -> Any:
        return None if node is None else self._memo.part(node, step)


def result_type(tool: ToolSpec) -> ValueType:
    """The type of the variable that holds a tool's result."""
    described = {"title", "description"}
    if {key: value for key, value in tool.returns.items() if key not in described} == {"type": "string"}:
        return TextType()
    return JsonType(json_schema=tool.returns)


def effect_key(tool: ToolSpec, arguments: Mapping[str, Any]) -> str | None:
    """What a call of this tool writes: the tool's `effect_key` with arguments in its holes.

    None, which conflicts with every effect, if an argument in it is not known yet or is no plain text or number.
    """
    if tool.effect is not EffectClass.WRITE or tool.effect_key is None:
        return None
    known = {name: str(value) for name, value in arguments.items() if isinstance(value, str | int)}
    if any(hole not in known for hole in _HOLE.findall(tool.effect_key)):
        return None
    key = _HOLE.sub(lambda hole: known[hole[1]], tool.effect_key)
    return key if len(key) <= 200 else None


def argument_of(fault: Diagnostic) -> str | None:
    """The name of the argument that a fault of an extension with this one call points at."""
    steps = fault.pointer.split("/")
    return steps[4].replace("~1", "/").replace("~0", "~") if steps[1:2] == ["calls"] and len(steps) > 4 else None


def _holds_references(value: PlanValue) -> bool:
    stack: list[PlanValue] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, PlanRef | PlanText):
            return True
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
    return False
