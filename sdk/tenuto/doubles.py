"""Which model stands in for the engine, and the guard against real ones. `tenuto.testing` is the public face.

Owns the two switches; never runs a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tenuto.errors import RealEngineCall
from tenuto.tasks import Model

_numbers = itertools.count(1)


class Override:
    """A double, and the name under which each client's worker hosts it."""

    def __init__(self, model: Model, label: str) -> None:
        self._model = model
        self._suffix = f"{label}-{next(_numbers)}"

    def model_name(self, toolset: str) -> str:
        """Unique over clients and doubles."""
        return f"{toolset}/{self._suffix}"

    def models(self, toolset: str) -> dict[str, Model]:
        """What the client's worker must host."""
        return {self.model_name(toolset): self._model}


current_override: ContextVar[Override | None] = ContextVar("tenuto_override", default=None)

_guards = 0


@contextmanager
def no_real_engine() -> Iterator[None]:
    """While open, an LLM call that no double answers raises `RealEngineCall` where it is made, in the whole process."""
    global _guards
    _guards += 1
    try:
        yield
    finally:
        _guards -= 1


def guard_real_engine(stage: str) -> None:
    """Raise `RealEngineCall` inside `no_real_engine()`."""
    if _guards:
        raise RealEngineCall(
            f"{stage} would reach a real engine inside no_real_engine(): answer it with "
            "`with tenuto.testing.override(ScriptedModel(...)):`"
        )
