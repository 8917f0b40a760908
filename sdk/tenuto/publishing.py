"""A workflow as a graph over its arguments, for a server to keep and start by name.

Owns the dry run whose arguments are variables. Never talks to a server.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from tenuto.errors import InvalidArgument
from tenuto.plan import Plan, in_own_loop, invoke, outputs_of, planned
from tenuto.signature import Signature
from tenuto.var import Var
from tenuto.wire import Objective, Reference, WorkflowDefinition, WorkflowInput


def definition_of(
    function: Callable[..., Any], name: str, objective: Objective, toolset: str | None
) -> WorkflowDefinition:
    """The workflow with an input for each argument. What the function itself gives to calls are inputs with defaults.

    Raises InvalidArgument if it is not known without running: it awaits a Var, or returns something else than Vars;
    and what the function raises where it needs the value of an argument (a `TypeError` that names it).
    """
    signature = Signature(function, name, {})
    program, value, ended = in_own_loop(lambda: _dry_run(function, signature))
    if not ended:
        raise InvalidArgument(f"{name} awaits a Var: only a workflow that awaits nothing is a graph of its own")
    outputs = outputs_of(value)
    if not outputs:
        raise InvalidArgument(f"{name} returns no Var: a published workflow's outputs are variables")
    graph = program.builder.graph(outputs)
    inputs = {
        name: WorkflowInput(type=one.type, default=one.value, required=False) for name, one in graph.inputs.items()
    }
    for parameter, typed in signature.parameters.items():
        default = signature.signature.parameters[parameter].default
        required = default is inspect.Parameter.empty
        inputs[parameter] = WorkflowInput(
            type=typed.value_type("validation"),
            default=None if required else typed.to_json(default),
            required=required,
        )
    return WorkflowDefinition(
        description=inspect.getdoc(function) or "",
        inputs=inputs,
        calls=graph.calls,
        outputs=outputs,
        objective=objective,
        toolset=toolset if program.builder.tools else None,
    )


async def _dry_run(function: Callable[..., Any], signature: Signature) -> tuple[Plan, Any, bool]:
    """The function's program with variables for arguments, what it returned, and whether it came to its end."""
    program = Plan()
    given: dict[str, Any] = {
        parameter: Var(program, Reference(variable=parameter), typed)
        for parameter, typed in signature.parameters.items()
    }
    return program, *await planned(program, lambda: invoke(program, lambda: function(**given)))
