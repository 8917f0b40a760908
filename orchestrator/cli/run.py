"""`tenuto run FILE:WORKFLOW`: run a workflow of one's own from the shell. The user's code runs in this process."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import typing
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Model, fail

if TYPE_CHECKING:
    from types import ModuleType

    from tenuto import Client, Workflow


def run(
    target: Annotated[str, typer.Argument(metavar="FILE:WORKFLOW", help="A Python file and the workflow in it.")],
    given: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="NAME=VALUE", help="An argument, as JSON or text.")
    ] = None,
    model: Model = None,
    url: Annotated[str | None, typer.Option("--url", help="Use this server instead of a private one.")] = None,
) -> None:
    """Run a workflow on a private server (model: bundled, unless --model says otherwise) and print its value."""
    from tenuto import TenutoError

    workflow = workflow_of(target)
    arguments = _arguments(workflow, given or [])
    try:
        with _client(url, model):
            value = workflow.run(**arguments)
    except TenutoError as fault:
        fail(f"{type(fault).__name__}: {fault}", code=1)
    _show(value)


def _client(url: str | None, model: str | None) -> AbstractContextManager[Client]:
    from tenuto import Client, local

    if url is None:
        return local(model or "bundled")
    if model is not None:
        fail("--model chooses the model of a private server: leave it out with --url")
    return Client(url, api_key=os.environ.get("TENUTO_API_KEY"))


def workflow_of(target: str) -> Workflow[..., Any]:
    """The workflow that FILE:WORKFLOW names. Ends the command if there is none; the file's own errors pass through."""
    from tenuto import Workflow

    path, _, name = target.rpartition(":")
    if not path or not name:
        fail(f"{target!r}: give FILE:WORKFLOW, for example my_flows.py:answer")
    file = Path(path)
    if not file.is_file():
        fail(f"{path}: there is no such file")
    module = _load(file)
    found = getattr(module, name, None)
    if not isinstance(found, Workflow):
        there = ", ".join(sorted(key for key, value in vars(module).items() if isinstance(value, Workflow)))
        fail(f"{path} has no workflow {name!r}; its workflows: {there or 'none'}")
    return found


def _load(file: Path) -> ModuleType:
    """Run the file as a module, with its folder importable as for `python FILE`."""
    sys.path.insert(0, str(file.absolute().parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        fail(f"{file}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # decorators look their function's module up
    spec.loader.exec_module(module)
    return module


def _arguments(workflow: Workflow[..., Any], given: list[str]) -> dict[str, Any]:
    function = inspect.unwrap(workflow)
    known = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    arguments: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            fail(f"--input {item!r}: give NAME=VALUE")
        if name not in known:
            fail(f"--input {item!r}: {workflow.name} has no parameter {name!r}, only {', '.join(known) or 'none'}")
        arguments[name] = text if hints.get(name) is str else _value(text)
    missing = [name for name, p in known.items() if p.default is p.empty and name not in arguments]
    if missing:
        fail("\n".join(f"{workflow.name} needs --input {name}=VALUE" for name in missing))
    return arguments


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _show(value: Any) -> None:
    from pydantic_core import to_json

    print(value if isinstance(value, str) else to_json(value, indent=2, fallback=repr).decode())
