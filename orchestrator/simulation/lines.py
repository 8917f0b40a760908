"""Numbered lines of trace files, packed or not, and the error that names a place in them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path


class TraceError(ValueError):
    """A file or a line of it breaks its format: the message gives the place and what was expected."""


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Raises TraceError."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError, EOFError) as fault:
        raise TraceError(f"{path}: cannot be read: {fault}") from None
