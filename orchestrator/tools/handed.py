"""Function calls that were handed to the client itself, as an answer's `tool_calls`: it runs them and brings the
results with its next request.

Owns the waits, from whoever comes first, the call or its result, until the program ends. To the program it is a
function call like any other, so its pause is foreseen, measured and drawn, and a restart waits for it again.
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

    def deliver(self, program: str, call: str, value: JsonValue) -> None:
        """The client has brought the result of a call that has not ended. Only the first one counts."""
        wait = self._wait(program, call)
        if not wait.done():
            wait.set_result(value)

    async def result(self, run: ToolRun, limit_s: float) -> JsonValue:
        """What the client brings. Raises CallFailure `timeout`."""
        timeout_s = limit_s if run.timeout_s is None else run.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._wait(run.program, run.call))  # an attempt after this one waits too
        except TimeoutError:
            message = f"the client brought no result of {run.tool!r} within {timeout_s:g} s"
            raise CallFailure(FailureType.TIMEOUT, message) from None

    def _wait(self, program: str, call: str) -> asyncio.Future[JsonValue]:
        waits = self._waits.setdefault(program, {})
        if call not in waits:
            waits[call] = asyncio.get_running_loop().create_future()
        return waits[call]

    def program_ended(self, program: str) -> None:
        """Nobody waits for the program's calls any more."""
        for wait in self._waits.pop(program, {}).values():
            wait.cancel()
