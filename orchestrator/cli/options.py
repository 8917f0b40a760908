"""What commands share: options with one meaning everywhere, and how a failed command ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from pydantic import ValidationError

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
_MOST_GB = 10_000.0


def fail(message: str, code: int = USAGE_ERROR) -> NoReturn:
    """End the command with its error on stderr, one line a fault."""
    for line in message.splitlines():
        print(f"tenuto: {line}", file=sys.stderr)
    raise typer.Exit(code)


def refused(fault: ValidationError) -> str:
    """What a model says of the values it was given, one line a fault."""
    return "\n".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in fault.errors())


def memory(gb: float | None, option: str) -> int | None:
    """Bytes of an option in gigabytes. Ends the command if no machine has so many, or they are no number."""
    if gb is None:
        return None
    if not gb <= _MOST_GB:
        fail(f"{option}: must be at most {_MOST_GB:,.0f}, got {gb:g}")
    return int(gb * 1e9)


def check_output(path: Path | None, option: str) -> None:
    """End the command if no file can be written there: before the work whose outcome it is for."""
    if path is None:
        return
    try:
        if path.is_dir():
            fail(f"{option} {path}: is a folder")
        if not path.parent.is_dir():
            fail(f"{option} {path}: there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            fail(f"{option} {path}: may not be written")
    except OSError as fault:
        fail(f"{option} {path}: {fault.strerror}")
