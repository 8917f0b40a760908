"""An event loop in a thread of its own, for blocking callers. Owns the thread; knows nothing of what runs in it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tenuto.errors import NoClient, RunningLoop

T = TypeVar("T")

_UNWIND_S = 10.0
"""How long an interrupted caller waits for its coroutine to clean up (cancel its program)."""


class LoopThread:
    """Runs coroutines for other threads. Context variables of the caller are those of the coroutine."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end; return its value. An interrupt (Ctrl-C) cancels it and waits for its cleanup."""
        if threading.get_ident() == self._thread.ident:
            raise RunningLoop(
                "a blocking call inside the client's own event loop would wait for itself: use the async one"
            )
        if self._loop.is_closed():
            raise NoClient("the client is closed")
        ended = threading.Event()

        async def watched() -> T:
            try:
                return await make()
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait(_UNWIND_S)
            raise

    def post(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run a coroutine without waiting; nothing happens if the loop has ended. From any thread, this one too."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(make()))

    def stop(self) -> None:
        """End the loop and its thread. A second stop is no error."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.get_ident() != self._thread.ident:
            self._thread.join()
