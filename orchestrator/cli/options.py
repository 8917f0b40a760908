"""What commands share: options with one meaning everywhere, and how a failed command ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

Config = Annotated[
    Path | None, typer.Option("--config", envvar="TENUTO_CONFIG", help="Settings file. Default: tenuto.toml here.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="A model directory, 'bundled', or 'none' for a server without a model.")
]
Journal = Annotated[
    Path | None, typer.Option("--journal", help="SQLite file that programs survive a restart in. Default: memory.")
]

USAGE_ERROR = 2


def fail(message: str, code: int = USAGE_ERROR) -> NoReturn:
    """End the command with its error on stderr, one line a fault."""
    for line in message.splitlines():
        print(f"tenuto: {line}", file=sys.stderr)
    raise typer.Exit(code)
