"""The graph of one program as its workflow declares it, in declaration order, with deterministic names.

Owns names, shared inputs and what is not yet sent. Never checks what needs the whole graph (the server does).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tenuto.errors import InvalidArgument
from tenuto.wire import Call, FunctionCall, Graph, InputVariable, JsonType, TextType

if TYPE_CHECKING:
    from tenuto.functions import Tool


_FOREIGN = re.compile(r"[^A-Za-z0-9_]")
"""Characters that Python's identifiers may have and the server's names may not."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What was declared since the last `take`."""

    inputs: dict[str, InputVariable]
    calls: tuple[Call, ...]

    def __bool__(self) -> bool:
        return bool(self.inputs or self.calls)


class Builder:
    """Invariant: names are unique over inputs and calls, and depend on nothing but the order of declarations."""

    def __init__(self, on_growth: Callable[[], None] = lambda: None) -> None:
        self.inputs: dict[str, InputVariable] = {}
        self.calls: dict[str, Call] = {}
        self.tools: dict[str, Tool[..., Any, Any]] = {}
        self._on_growth = on_growth
        self._by_content: dict[str, str] = {}
        self._used: Counter[str] = Counter()
        self._new_inputs: dict[str, InputVariable] = {}
        self._new_calls: list[Call] = []

    def call_id(self, function: str) -> str:
        """`f`, `f.2`, `f.3`, …"""
        return self._name(function)

    def input(self, parameter: str, value: Any) -> str:
        """The variable that holds this JSON value: one per content, named after the parameter that used it first."""
        text = isinstance(value, str)
        content = value if text else json.dumps(value, separators=(",", ":"), sort_keys=False)
        key = f"{'text' if text else 'json'}:{content}"
        if key not in self._by_content:
            name = self._name("input." + _FOREIGN.sub("_", parameter))
            variable = InputVariable(type=TextType() if text else JsonType(), value=value)
            self.inputs[name] = self._new_inputs[name] = variable
            self._by_content[key] = name
        return self._by_content[key]

    def add(self, call: Call, tool: Tool[..., Any, Any] | None = None) -> None:
        """Add a call whose id is from `call_id`. Raises `InvalidArgument` if two tools of one program share a name."""
        if tool is not None and isinstance(call, FunctionCall):
            self.use(tool)
        self.calls[call.id] = call
        self._new_calls.append(call)
        self._on_growth()

    def use(self, tool: Tool[..., Any, Any]) -> None:
        """Calls of this tool may be made, here or by a model. Raises `InvalidArgument` as `add`."""
        known = self.tools.setdefault(tool.name, tool)
        if known.raw is not tool.raw:
            raise InvalidArgument(
                f"two tools are named {tool.name!r} ({known.place} and {tool.place}): rename one with @tool(name=...)"
            )

    def take(self) -> Batch:
        """Everything that was declared since the last call."""
        batch = Batch(self._new_inputs, tuple(self._new_calls))
        self._new_inputs, self._new_calls = {}, []
        return batch

    def graph(self, outputs: Iterable[str] = ()) -> Graph:
        """All of it."""
        return Graph(inputs=dict(self.inputs), calls=tuple(self.calls.values()), outputs=tuple(outputs))

    def _name(self, base: str) -> str:
        self._used[base] += 1
        ordinal = self._used[base]
        return base if ordinal == 1 else f"{base}.{ordinal}"
