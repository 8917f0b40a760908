"""The engine process: `python -P -m engine.server`. Frames in on stdin, frames out on what was stdout.

Its first frame is an `EngineConfig`; it answers `Ready` or `LoadFailed`. It ends when its parent's pipe closes.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from threading import Thread
from typing import BinaryIO

from engine.clock import SystemClock
from engine.config import EngineConfig
from engine.driver import Driver
from engine.ipc import Call, LoadFailed, Message, Method, pack, read_frame
from engine.protocol import EngineError, ModelLoadError


def main() -> int:
    """Serve one parent; 0 after a clean end, 1 if the model could not be loaded."""
    # An interrupt on the terminal reaches the whole group: the parent decides when the engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming, outgoing = _take_pipes()
    config = read_frame(incoming)
    if not isinstance(config, EngineConfig):
        return 0

    def emit(message: Message) -> None:
        outgoing.write(pack(message))
        outgoing.flush()

    clock = SystemClock()
    try:
        driver = _load(config, clock, emit)
    except EngineError as error:
        emit(LoadFailed(error))
        return 1
    try:
        emit(driver.ready)
        Thread(target=_listen, args=(incoming, driver), name="calls", daemon=True).start()
        driver.run()
    except BrokenPipeError:
        pass  # the parent is gone: nobody is left to serve
    return 0


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Private copies of stdin and stdout; from here on, what anyone prints goes to stderr."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return incoming, outgoing


def _load(config: EngineConfig, clock: SystemClock, emit: Callable[[Message], None]) -> Driver:
    from engine.loading import load_engine

    try:
        return Driver(load_engine(config, clock), clock, emit)
    except EngineError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{config.model}: cannot be loaded: {error!r}") from error


def _listen(incoming: BinaryIO, driver: Driver) -> None:
    """Pass the parent's calls on; its end is a close."""
    while isinstance(call := read_frame(incoming), Call):
        driver.post(call)
    driver.post(Call(0, Method.CLOSE))


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Nothing is left to save: the thread that reads the pipe must not be waited for, nor torch be taken down.
    os._exit(status)
