"""A workflow's graph without a model call: what is declared until the first `await` of a `Var`.

Owns dry runs. Never talks to a server.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from pydantic import ValidationError

from tenuto.builder import Builder
from tenuto.context import Program, current_program
from tenuto.var import Handle, handles, variable_of
from tenuto.wire import Graph

T = TypeVar("T")


class Plan:
    """The program of a dry run: calls are declared, and no value ever arrives."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.thread = threading.get_ident()
        self.blocked = asyncio.Event()

    async def values(self, variables: Sequence[str]) -> list[Any]:
        self.blocked.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("unreachable: nothing completes this future")

    def model_name(self, stage: str, asked: str | None) -> str | None:
        return asked


async def invoke(program: Program, function: Callable[[], Any]) -> Any:
    """Run a workflow's function, sync or async, so that its calls are declared in `program`."""
    before = current_program.get()
    current_program.set(program)
    try:
        value = function()
        return await value if asyncio.iscoroutine(value) else value
    except ValidationError as error:
        _explain(error)
        raise
    finally:
        current_program.set(before)


def _explain(error: ValidationError) -> None:
    """A pydantic model validates at once and cannot hold a value that is still to come: say what to do instead."""
    if any(isinstance(fault.get("input"), Handle) for fault in error.errors()):
        error.add_note(
            f"{error.title} was given a Var whose value is not there yet: `await` it first, or build the model "
            f"with {error.title}.model_construct(...), whose Vars are filled in and validated when the workflow ends"
        )


def outputs_of(tree: Any) -> tuple[str, ...]:
    """Names of the variables in a workflow's return value, once each, in order."""
    return tuple(dict.fromkeys(variable_of(handle) for handle in handles(tree)))


async def plan(function: Callable[[], Any]) -> Graph:
    """The graph, with its outputs if the function ended. Exceptions of the function propagate."""
    program = Plan()
    value, ended = await planned(program, lambda: invoke(program, function))
    return program.builder.graph(outputs_of(value) if ended else ())


async def planned(program: Plan, run: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, bool]:
    """What a run returned; (None, False) if it stopped at a Var's value. Its exceptions propagate."""
    work = asyncio.create_task(run())
    blocked = asyncio.create_task(program.blocked.wait())
    try:
        await asyncio.wait({work, blocked}, return_when=asyncio.FIRST_COMPLETED)
        return (work.result(), True) if work.done() else (None, False)
    finally:
        await _cancelled((work, blocked))


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def in_own_loop(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in a fresh event loop of a thread of its own: works whether or not a loop runs here."""
    result: Future[T] = Future()

    def target() -> None:
        try:
            result.set_result(asyncio.run(main()))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), name="tenuto-plan", daemon=True)
    thread.start()
    return result.result()
