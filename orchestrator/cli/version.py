"""`tenuto version`: what is installed."""

from __future__ import annotations

import importlib.metadata
import platform


def version() -> None:
    """Print the versions of Tenuto and Python."""
    print(f"tenuto {installed('tenuto')}, Python {platform.python_version()}")


def installed(distribution: str) -> str:
    """Version of an installed distribution, or "not installed"."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
