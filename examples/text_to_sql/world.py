"""The database and its linker, made once in a process, at first use.

The file lies in the user's cache directory (`TENUTO_CACHE`, else `XDG_CACHE_HOME`, else `~/.cache`), under `tenuto/`.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from examples.text_to_sql.geography import build
from examples.text_to_sql.linking import Linker
from examples.text_to_sql.places import PlaceIndex


@cache
def database() -> Path:
    """The geography database; built if it is not there yet (about two seconds)."""
    home = os.environ.get("TENUTO_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return build(Path(home) / "tenuto" / "geography.db")


@cache
def linker() -> Linker:
    """The linker over `database()`."""
    return Linker(PlaceIndex(database()))
