"""The folder that questions are asked about, and its index: made once in a process, anew when a file has changed.

`TENUTO_DOCS` names the folder; without it the default corpus is written to the user's cache directory.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from examples.rag import corpus
from examples.rag.documents import SUFFIXES, read_folder
from examples.rag.index import Index

_lock = threading.Lock()
_made: dict[Path, tuple[tuple[tuple[str, int, int], ...], Index]] = {}


def folder() -> Path:
    """The folder with the documents."""
    if named := os.environ.get("TENUTO_DOCS"):
        return Path(named)
    home = os.environ.get("TENUTO_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return corpus.write(Path(home) / "tenuto" / "geography-pages")


def index() -> Index:
    """The index of `folder()`. Raises `DocumentError`."""
    return _index(folder())


def _index(path: Path) -> Index:
    with _lock:  # several threads may ask first
        known = _made.get(path)
        if known is not None:
            return known[1]
        made = Index(read_folder(path))
        _made[path] = (state(path), made)
        return made


def refresh() -> bool:
    """Read the folder again if a file was added, changed or removed. True if one was."""
    path = folder()
    with _lock:
        known = _made.get(path)
        if known is None or known[0] == state(path):
            return False
        _made[path] = (state(path), Index(read_folder(path)))
        return True


def state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every document."""
    files = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    return tuple(sorted((str(p), (s := p.stat()).st_size, s.st_mtime_ns) for p in files))
