"""Runs an engine's core in the calling thread: calls come from a queue, what they lead to goes to a function.

Sleeps when there is nothing to do, until a call comes or a lease ends; never polls. A second thread reads the requests
that take long to read, so that no step waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from engine.clock import Clock
from engine.intake import Prepared
from engine.ipc import Call, Method, Output, Ready, Reply
from engine.local import LocalEngine
from engine.protocol import EngineError, GenerateRequest, InvalidRequest, KVBlocks

_QUICK = 2_000
"""Characters or ids of a request that is read between two steps: that takes less than handing it over."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What became of a request that the second thread has read."""

    request: GenerateRequest
    result: Prepared | EngineError


class Driver:
    """The loop around one core. `post` may be called from any thread; `run` returns after a `CLOSE`."""

    def __init__(self, core: LocalEngine, clock: Clock, emit: Callable[[Output], None]) -> None:
        self._core, self._clock, self._emit = core, clock, emit
        self._inbox: SimpleQueue[Call | _Read] = SimpleQueue()
        self._unread: SimpleQueue[GenerateRequest | None] = SimpleQueue()
        self._kv: tuple[KVBlocks, ...] = ()

    @property
    def ready(self) -> Ready:
        return Ready(self._core.model, self._core.capabilities)

    def post(self, call: Call) -> None:
        self._inbox.put(call)

    def run(self) -> None:
        """Serve until closed."""
        core, output = self._core, Output()
        Thread(target=self._read_requests, name="requests", daemon=True).start()
        try:
            while True:
                for call in self._calls():
                    if isinstance(call, _Read):
                        self._accept(call, output)
                    elif call.method is Method.CLOSE:
                        return
                    else:
                        self._perform(call, output)
                output.deliveries += core.step()
                output.events += core.drain_events()
                if output:
                    self._count(output)
                    self._emit(output)
                    output = Output()
        finally:
            self._unread.put(None)

    def _count(self, output: Output) -> None:
        """Let the output say what the memory is used for, if that has changed since the last one."""
        kv = self._core.kv_blocks()
        if kv != self._kv:
            self._kv = output.kv = kv

    def _calls(self) -> list[Call | _Read]:
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

    def _read_requests(self) -> None:
        """The second thread: one request after the other, in the order in which they came."""
        while (request := self._unread.get()) is not None:
            self._inbox.put(self._read(request))

    def _read(self, request: GenerateRequest) -> _Read:
        try:
            return _Read(request, self._core.prepare(request))
        except EngineError as error:
            return _Read(request, error)
        except Exception as error:  # a request of odd types must not end the loop
            return _Read(request, InvalidRequest(f"the request cannot be read: {error!r}"))

    def _accept(self, read: _Read, output: Output) -> None:
        try:
            if isinstance(read.result, Prepared):
                self._core.accept(read.request, read.result)
            elif self._core.refuse(read.request):
                raise read.result
        except EngineError as error:
            output.deliveries.append((read.request.id, error))

    def _generate(self, request: GenerateRequest, output: Output) -> None:
        try:
            quick = _is_quick(request)
            self._core.expect(request)
        except Exception as error:
            fault = error if isinstance(error, EngineError) else InvalidRequest(f"it cannot be read: {error!r}")
            output.deliveries.append((request.id, fault))
            return
        if quick:
            self._accept(self._read(request), output)
        else:
            self._unread.put(request)

    def _perform(self, call: Call, output: Output) -> None:
        method: Callable[..., Any]
        if call.method is Method.GENERATE:
            (request,) = call.arguments
            assert isinstance(request, GenerateRequest)
            self._generate(request, output)
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


def _is_quick(request: GenerateRequest) -> bool:
    """Whether reading it takes no longer than handing it to another thread. A grammar may take seconds."""
    size = len(request.prompt_ids) + sum(len(message.content) for message in request.messages)
    return request.grammar is None and size <= _QUICK
