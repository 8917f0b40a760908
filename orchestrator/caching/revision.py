"""Which weights stand behind a model's name, as far as can be told without reading them."""

from __future__ import annotations

import hashlib
from pathlib import Path

_WEIGHTS = ("*.safetensors", "*.json", "*.jinja")


def weights_revision(directory: Path) -> str:
    """Changes whenever a file of the model does: a digest over names, sizes and times of change."""
    digest = hashlib.sha256()
    for pattern in _WEIGHTS:
        for path in sorted(directory.glob(pattern)):
            found = path.stat()
            digest.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
