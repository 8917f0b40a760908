"""The database and its linker, made once in a process, at first use.

The file lies in the user's cache directory (`TENUTO_CACHE`, else `XDG_CACHE_HOME`, else `~/.cache`), under `tenuto/`.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path

from examples.text_to_sql.geography import build
from examples.text_to_sql.linking import Linker
from examples.text_to_sql.places import PlaceIndex

_building = threading.RLock()  # `cache` alone lets every thread that comes first build one of its own


@cache
def _database() -> Path:
    home = os.environ.get("TENUTO_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return build(Path(home) / "tenuto" / "geography.db")


@cache
def _linker() -> Linker:
    return Linker(PlaceIndex(_database()))


def database() -> Path:
    """The geography database; built if it is not there yet (about two seconds)."""
    with _building:
        return _database()


def linker() -> Linker:
    """The linker over `database()`; made at first use (about a second)."""
    with _building:
        return _linker()


def forget() -> None:
    """Make both anew at their next use: where the file lies may have changed."""
    with _building:
        _database.cache_clear()
        _linker.cache_clear()
