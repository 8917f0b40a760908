"""Which model stands in for the engine, and the guard against real ones. `tenuto.testing` is the public face.

Owns the two switches; never runs a model.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tenuto.errors import RealEngineCall
from tenuto.tasks import Model
from tenuto.wire import Call, LLMCall

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
_guards_lock = threading.Lock()


@contextmanager
def no_real_engine() -> Iterator[None]:
    """While open, an LLM call that no double answers raises `RealEngineCall` where it is made, in the whole process."""
    global _guards
    with _guards_lock:
        _guards += 1
    try:
        yield
    finally:
        with _guards_lock:
            _guards -= 1


def guard_calls(calls: Iterable[Call], toolset: str) -> None:
    """Raise `RealEngineCall` inside `no_real_engine()` if one of a graph's calls is not answered by a double."""
    if _guards:
        for call in calls:
            if isinstance(call, LLMCall) and not (call.model or "").startswith(toolset + "/"):
                guard_real_engine(call.id)


def guard_real_engine(stage: str) -> None:
    """Raise `RealEngineCall` inside `no_real_engine()`."""
    if _guards:
        raise RealEngineCall(
            f"{stage} would reach a real engine inside no_real_engine(): answer it with "
            "`with tenuto.testing.override(ScriptedModel(...)):`"
        )
