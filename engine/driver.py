"""Runs an engine's core in the calling thread: calls come from a queue, what they lead to goes to a function.

Sleeps when there is nothing to do, until a call comes or a lease ends; never polls.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from engine.clock import Clock
from engine.ipc import Call, Method, Output, Ready, Reply
from engine.local import LocalEngine
from engine.protocol import EngineError, GenerateRequest, InvalidRequest


class Driver:
    """The loop around one core. `post` may be called from any thread; `run` returns after a `CLOSE`."""

    def __init__(self, core: LocalEngine, clock: Clock, emit: Callable[[Output], None]) -> None:
        self._core, self._clock, self._emit = core, clock, emit
        self._inbox: SimpleQueue[Call] = SimpleQueue()

    @property
    def ready(self) -> Ready:
        return Ready(self._core.model, self._core.capabilities)

    def post(self, call: Call) -> None:
        self._inbox.put(call)

    def run(self) -> None:
        """Serve until closed."""
        core, output = self._core, Output()
        while True:
            for call in self._calls():
                if call.method is Method.CLOSE:
                    return
                self._perform(call, output)
            output.deliveries += core.step()
            output.events += core.drain_events()
            if output:
                self._emit(output)
                output = Output()

    def _calls(self) -> list[Call]:
        """All calls that are here; with nothing to do, wait for one, or for a lease to end."""
        calls = []
        try:
            if not self._core.has_work:
                deadline_s = self._core.next_deadline_s()
                wait_s = None if deadline_s is None else max(deadline_s - self._clock.now(), 0.0)
                calls.append(self._inbox.get(timeout=wait_s))
            while True:
                calls.append(self._inbox.get_nowait())
        except Empty:
            return calls

    def _perform(self, call: Call, output: Output) -> None:
        method: Callable[..., Any]
        if call.method is Method.GENERATE:
            (request,) = call.arguments
            assert isinstance(request, GenerateRequest)
            try:
                self._core.submit(request)
            except EngineError as error:
                output.deliveries.append((request.id, error))
            except Exception as error:  # a request of odd types must not end the loop
                output.deliveries.append((request.id, InvalidRequest(f"the request cannot be read: {error!r}")))
            return
        method = getattr(self._core, call.method.value)
        try:
            reply = Reply(call.number, method(*call.arguments))
        except EngineError as error:
            reply = Reply(call.number, error=error)
        except Exception as error:
            reply = Reply(call.number, error=InvalidRequest(f"{call.method} cannot be done: {error!r}"))
        if call.number:
            output.replies.append(reply)
