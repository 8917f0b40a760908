"""A workflow that a server keeps, as a tool of an MCP server: its inputs are the arguments, its outputs the result."""

from __future__ import annotations

from typing import Any

from tenuto.client import AsyncClient
from tenuto.errors import CallFailed
from tenuto.wire import JsonType, ValueType, VariableStatus, WorkflowView


class PublishedTool:
    """One kept workflow. A call runs a program; a cancelled call cancels it."""

    def __init__(self, client: AsyncClient, view: WorkflowView) -> None:
        definition = view.definition
        self._client = client
        self._outputs = definition.outputs
        self.name = view.name
        self.description = definition.description
        self.input_schema: dict[str, Any] = {
            "type": "object",
            "properties": {
                name: {
                    **_schema(one.type),
                    **({"description": one.description} if one.description else {}),
                    **({} if one.required else {"default": one.default}),
                }
                for name, one in definition.inputs.items()
            },
            "required": [name for name, one in definition.inputs.items() if one.required and one.default is None],
            "additionalProperties": False,
        }
        types = {call.variable: call.type for call in definition.calls}
        self.output_schema: dict[str, Any] = {
            "type": "object",
            "properties": {name: _schema(types[name]) if name in types else {} for name in self._outputs},
            "required": list(self._outputs),
        }

    async def call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run a program to its end. Raises `TenutoError`: `CallFailed` for an output that has no value."""
        program = (await self._client.start(self.name, **arguments)).id
        try:
            return {name: await self._value(program, name) for name in self._outputs}
        except BaseException:
            await self._client.cancel(program)
            raise

    async def _value(self, program: str, name: str) -> Any:
        while True:
            view = await self._client.variable(program, name, wait_s=60.0)
            if view.status is VariableStatus.FAILED:
                raise CallFailed.of(view.error, name, program)
            if view.status is VariableStatus.WRITTEN:
                return view.value


def _schema(type: ValueType) -> dict[str, Any]:
    return type.json_schema if isinstance(type, JsonType) else {"type": "string"}
