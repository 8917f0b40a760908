"""The client of an engine process: starts it, speaks the engine protocol to it, notices when it dies.

Imports nothing heavy: the orchestrator's process never loads torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
from asyncio.subprocess import PIPE, Process
from typing import Self

from engine.config import EngineConfig
from engine.front import EngineFront
from engine.ipc import HEADER_BYTES, Call, LoadFailed, Method, Output, Ready, body_bytes, pack
from engine.protocol import EngineLost

_CLOSE_S = 10.0


class EngineProcess(EngineFront):
    """`await EngineProcess.start(config)`, then the engine protocol.

    When the process dies, running calls raise `EngineLost`, and so does every later one: start another.
    """

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, config: EngineConfig) -> Self:
        """Start a process and load the model of `config`. Raises `ModelLoadError`, or `EngineLost` if it dies."""
        # -P: a file named engine.py in the working directory must not shadow this package.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "engine.server", stdin=PIPE, stdout=PIPE
        )
        engine = cls(process)
        try:
            engine._write(config)
            message = await engine._read()
            if isinstance(message, LoadFailed):
                raise message.error
            if not isinstance(message, Ready):
                raise EngineLost(f"the engine process ended with {await process.wait()} while it loaded")
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await engine._reap()
            raise
        engine._ready = message
        engine._reader = asyncio.create_task(engine._listen(), name="engine-process")
        return engine

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> int:
        """Wait for the process to end, for whatever reason; its exit status."""
        if self._reader is not None:
            await asyncio.shield(self._reader)
        return await self._process.wait()

    async def close(self) -> None:
        self._on_lost("the engine was closed")
        if self._process.returncode is None:
            self._post(Call(0, Method.CLOSE))
        await self._reap()

    def _post(self, call: Call) -> None:
        self._write(call)

    def _write(self, message: object) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(pack(message))

    async def _read(self) -> object | None:
        """The next message; None when the process has closed its end."""
        stream = self._process.stdout
        assert stream is not None
        try:
            size = body_bytes(await stream.readexactly(HEADER_BYTES))
            message: object = pickle.loads(await stream.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    async def _listen(self) -> None:
        while isinstance(message := await self._read(), Output):
            self._on_output(message)
        status = await self._process.wait()
        self._on_lost(f"the engine process ended with status {status}")

    async def _reap(self) -> None:
        """Close the pipe, wait for the process, kill it if it does not end."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _CLOSE_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
