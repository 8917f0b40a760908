"""`tenuto demo`: the text-to-SQL example, as a newcomer meets it. The example itself uses the SDK only."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

from orchestrator.cli.options import fail


def demo(
    questions: Annotated[list[str] | None, typer.Argument(help="Questions; without any, five are asked.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a question.")] = False,
    model: Annotated[str, typer.Option("--model", help="A model directory, or 'bundled'.")] = "bundled",
) -> None:
    """Ask a model questions about a world geography database, each answered by a program."""
    try:
        # by name: the floors forbid the server to import its examples
        example = importlib.import_module("examples.text_to_sql.demo")
    except ModuleNotFoundError as fault:
        fail(f"the demo needs the package {fault.name!r}: install it with `pip install 'tenuto[demo]'`", code=1)
    raise typer.Exit(example.demo(questions or (), as_json=as_json, model=model))
