"""The folder that questions are asked about, and its index: made once in a process, anew when a file has changed.

`TENUTO_DOCS` names the folder; without it the default corpus is written to the user's cache directory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from examples.rag import corpus
from examples.rag.documents import SUFFIXES, read_folder
from examples.rag.index import Index

State: TypeAlias = tuple[tuple[str, int, int], ...]

LOOK_S = 1.0
"""So often, at most, the folder is looked at for changes."""

_lock = threading.Lock()


@dataclass(slots=True)
class _Made:
    index: Index
    state: State
    looked_s: float


_made: dict[Path, _Made] = {}


def folder() -> Path:
    """The folder with the documents."""
    if named := os.environ.get("TENUTO_DOCS"):
        return Path(named)
    home = os.environ.get("TENUTO_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return corpus.write(Path(home) / "tenuto" / "geography-pages")


def index() -> Index:
    """The index of `folder()`, made anew if a file was added, changed or removed. Raises `DocumentError`."""
    path = folder()
    with _lock:  # several threads may ask first
        made = _made.get(path)
        if made is not None and time.monotonic() - made.looked_s < LOOK_S:
            return made.index
        now = state(path) if path.is_dir() else ()  # `read_folder` says what is wrong
        if made is None or made.state != now:
            made = _made[path] = _Made(Index(read_folder(path)), now, 0.0)
        made.looked_s = time.monotonic()
        return made.index


def state(path: Path) -> State:
    """Name, size and time of change of every document."""
    return tuple(sorted((entry.path, (s := entry.stat()).st_size, s.st_mtime_ns) for entry in _documents(path)))


def _documents(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    """Entries, for they are a fifth of the price of paths."""
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _documents(entry.path)
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry
