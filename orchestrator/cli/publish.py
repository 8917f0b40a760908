"""`tenuto publish FILE:WORKFLOW`: let a running server keep a workflow, to be started by its name."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from orchestrator.cli.options import fail, refused
from orchestrator.cli.run import workflow_of


def publish(
    target: Annotated[str, typer.Argument(metavar="FILE:WORKFLOW", help="A Python file and the workflow in it.")],
    url: Annotated[
        str | None, typer.Option("--url", envvar="TENUTO_URL", help="The server. Default: the one on this machine.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The name to keep it under. Default: its own.")] = None,
    toolset: Annotated[str | None, typer.Option("--toolset", help="Whose workers will run its tools.")] = None,
) -> None:
    """Register a workflow that awaits nothing; its arguments become the inputs of its programs."""
    from pydantic import ValidationError

    from tenuto import Client, TenutoError

    workflow = workflow_of(target)
    try:
        definition = workflow.definition(toolset=toolset)
        with Client(url, api_key=os.environ.get("TENUTO_API_KEY")) as client:
            view = client.publish(name or workflow.name, definition)
    except TypeError as fault:  # the function needs the value of an argument
        fail(f"{workflow.name} is no graph over its arguments: {fault}", code=1)
    except ValidationError as fault:
        if fault.title != "WorkflowDefinition":  # a model of the file's own
            raise
        no_call = any(error["loc"] == ("calls",) for error in fault.errors())
        fail(f"{workflow.name} cannot be published: {'it makes no call' if no_call else refused(fault)}")
    except TenutoError as fault:
        fail(f"{type(fault).__name__}: {fault}", code=1)
    print(f"{view.name}({', '.join(definition.inputs)}): {len(definition.calls)} calls")
