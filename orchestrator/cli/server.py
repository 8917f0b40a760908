"""uvicorn's server with what it lacks: it says when it listens, ends streams when it stops, and exits with 0."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

SIGNALS = (signal.SIGINT, signal.SIGTERM)
KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections: the side that sends the next request should be the one that closes."""

_SWITCH_S = 0.0005
GRACE_S = 5
"""How long answers that are under way may take when the server stops."""


def server_config(app: ASGIApp) -> uvicorn.Config:
    """How every server of ours speaks HTTP. The app's lifespan is the caller's to run."""
    return uvicorn.Config(
        app,
        http="httptools" if sys.platform != "win32" else "auto",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


def settle_interpreter() -> None:
    """Call once everything is loaded: keep what lives for ever out of garbage collection, and collect the rest seldom;
    let no thread keep the interpreter from the event loop for longer than half a millisecond (by default it is five).

    Parsing a graph of 10,000 calls makes so many objects that collections would take most of its time (0.95 s of
    CPU instead of 0.25 s). Nearly all garbage here is freed by reference counts, so little piles up meanwhile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    sys.setswitchinterval(_SWITCH_S)


class Server(uvicorn.Server):
    """`on_listening` is called when connections are accepted, `on_stopping` before open ones are waited for."""

    def __init__(
        self, config: uvicorn.Config, *, on_listening: Callable[[], None], on_stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_stopping = on_stopping
        self._exit = asyncio.Event()

    def stop(self) -> None:
        """Begin a graceful end."""
        self.should_exit = True
        self._exit.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._exit.set()

    async def main_loop(self) -> None:
        # uvicorn asks ten times a second whether it should end; here the end is told.
        await self.on_tick(0)
        await self._exit.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams never end by themselves, and uvicorn waits for every answer: they must be told first.
        self._on_stopping()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully on a signal, and exit with 0: unlike uvicorn, the signal is not raised again afterwards."""
        if sys.platform == "win32":
            with super().capture_signals():
                yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
