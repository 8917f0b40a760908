"""Function calls that were handed to the client itself, as an answer's `tool_calls`: it runs them and brings the
results with its next request.

Owns the waits. A call is here from before it joins its program until its result came, its time was over or the program
ended; to the program it is a function call like any other, so its pause is foreseen, measured and drawn.
"""

from __future__ import annotations

import asyncio

from pydantic import JsonValue

from orchestrator.tools.failures import CallFailure, FailureType
from orchestrator.tools.runs import ToolRun


class HandedOut:
    """What clients run themselves, by program and call. Invariant: no entry outlives its program."""

    def __init__(self) -> None:
        self._waits: dict[str, dict[str, asyncio.Future[JsonValue]]] = {}

    def expect(self, program: str, call: str) -> None:
        """The client will bring the call's result. To be told before the call joins its program."""
        self._waits.setdefault(program, {})[call] = asyncio.get_running_loop().create_future()

    def holds(self, program: str, call: str) -> bool:
        return call in self._waits.get(program, ())

    def deliver(self, program: str, call: str, value: JsonValue) -> bool:
        """The client has brought a result. False: nobody waits for it (any more)."""
        wait = self._waits.get(program, {}).get(call)
        if wait is None or wait.done():
            return False
        wait.set_result(value)
        return True

    async def result(self, run: ToolRun, limit_s: float) -> JsonValue:
        """What the client brings. Raises CallFailure `timeout`."""
        timeout_s = limit_s if run.timeout_s is None else run.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._waits[run.program][run.call]
        except TimeoutError:
            message = f"the client brought no result of {run.tool!r} within {timeout_s:g} s"
            raise CallFailure(FailureType.TIMEOUT, message) from None

    def program_ended(self, program: str) -> None:
        """Nobody waits for the program's calls any more."""
        for wait in self._waits.pop(program, {}).values():
            wait.cancel()
