"""What is current: the program being built, the client in use, the model that stands in for the engine.

Owns the context variables and the small protocol between a program and the `Var`s that it hands out. Never does I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from tenuto.errors import ForeignVar, OutsideWorkflow

if TYPE_CHECKING:
    from tenuto.builder import Builder
    from tenuto.client import AsyncClient
    from tenuto.sync_client import Client


class Program(Protocol):
    """What stands behind a `Var`: the graph under construction and the values as they arrive."""

    @property
    def builder(self) -> Builder: ...

    @property
    def thread(self) -> int:
        """Identity of the thread whose event loop drives the workflow."""
        ...

    async def values(self, variables: Sequence[str]) -> list[Any]:
        """JSON values of the variables once all are written. Raises `CallFailed` as soon as one has failed."""
        ...

    def model_name(self, stage: str, asked: str | None) -> str | None:
        """The model that an LLM call goes to: the one asked for, or a test double's. Raises `RealEngineCall`."""
        ...


current_program: ContextVar[Program | None] = ContextVar("tenuto_program", default=None)
current_client: ContextVar[Client | AsyncClient | None] = ContextVar("tenuto_client", default=None)


def require_program(function: str, fix: str) -> Program:
    """The program being built here. Raises `OutsideWorkflow`, `ForeignVar` in a thread that the workflow started."""
    program = current_program.get()
    if program is None:
        raise OutsideWorkflow(f"{function} was called outside a workflow: {fix}")
    if program.thread != threading.get_ident():
        raise ForeignVar(
            f"{function} was called in a thread that the workflow started: make calls in the workflow itself"
        )
    return program
