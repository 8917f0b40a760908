"""`tenuto demo` and `tenuto demo rag`: the examples, as a newcomer meets them. They use the SDK only."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.options import fail


def demo(
    questions: Annotated[
        list[str] | None,
        typer.Argument(help="Questions; without any, five are asked. A first word 'rag' asks about documents instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a question.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="A model directory, or 'bundled'. Default: the bundled one for it.")
    ] = None,
    docs: Annotated[
        Path | None, typer.Option("--docs", help="With 'rag': a folder of text, Markdown, HTML and PDF files.")
    ] = None,
) -> None:
    """Ask a model questions about a world geography database, each answered by a program. `demo rag` asks about
    documents: it quotes them and names its sources."""
    asked = list(questions or ())
    chosen: dict[str, Any] = {} if model is None else {"model": model}
    if asked[:1] == ["rag"]:
        del asked[0]
        example = _example("examples.rag.demo")
        chosen["docs"] = docs
    else:
        if docs is not None:
            fail("--docs goes with `tenuto demo rag`")
        example = _example("examples.text_to_sql.demo")
    raise typer.Exit(example.demo(asked, as_json=as_json, **chosen))


def _example(name: str) -> Any:
    """The example's module, by name: the floors forbid the server to import its examples."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as fault:
        fail(f"the demo needs the package {fault.name!r}: install it with `pip install 'tenuto[demo]'`", code=1)
