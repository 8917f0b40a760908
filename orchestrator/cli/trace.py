"""`tenuto trace PROGRAM`: where the seconds of a program's life went, on the terminal or as a file."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import check_output, fail

if TYPE_CHECKING:
    from tenuto.wire import Timeline


class Format(StrEnum):
    GANTT = "gantt"
    JSON = "json"
    CHROME = "chrome"
    MERMAID = "mermaid"
    SVG = "svg"


def trace(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="A program's id, or 'last' for the newest one.")],
    url: Annotated[
        str | None, typer.Option("--url", envvar="TENUTO_URL", help="The server. Default: the one on this machine.")
    ] = None,
    format: Annotated[
        Format,
        typer.Option("--format", help="gantt: drawn here; chrome: for Perfetto; mermaid: the graph; svg: a picture."),
    ] = Format.GANTT,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of the terminal.")] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Calls to draw; the critical path's come first.")] = 100,
) -> None:
    """Draw a program's timeline: every call's seconds by cause, and the calls that its end waited for."""
    from tenuto import Client, TenutoError

    check_output(out, "--out")
    try:
        with Client(url, api_key=os.environ.get("TENUTO_API_KEY")) as client:
            if program == "last":
                newest = client.programs(limit=1).data
                if not newest:
                    fail("the server has no programs yet", code=1)
                program = newest[0].id
            timeline = client.timeline(program)
    except TenutoError as fault:
        fail(f"{type(fault).__name__}: {fault}", code=1)
    if format is Format.GANTT:
        _draw(timeline, rows, out)
        return
    text = _text(timeline, format)
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text)


def _text(timeline: Timeline, format: Format) -> str:
    from orchestrator.telemetry import timelines

    match format:
        case Format.CHROME:
            return json.dumps(timelines.chrome(timeline)) + "\n"
        case Format.MERMAID:
            return timelines.flowchart(timeline)
        case Format.SVG:
            return timelines.svg(timeline)
        case _:
            return timeline.model_dump_json(indent=2) + "\n"


def _draw(timeline: Timeline, rows: int, out: Path | None) -> None:
    from rich.console import Console

    from orchestrator.telemetry import timelines

    if out is None:
        console = Console()
        console.print(timelines.gantt(timeline, console.width, rows))
        return
    with out.open("w") as file:
        Console(file=file, width=120).print(timelines.gantt(timeline, 120, rows))
