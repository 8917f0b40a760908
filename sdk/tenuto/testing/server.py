"""A private server process without an engine: programs whose LLM calls are answered by doubles run on it."""

from __future__ import annotations

from typing import Any

from tenuto.local import local


def server(**settings: Any) -> local:
    """`with server() as client:` or `async with server() as client:`; settings as those of `local`."""
    return local("none", **settings)
