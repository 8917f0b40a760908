"""`local()`: a private server process on loopback, for as long as the `with` block lasts.

Owns the process: its command line, its start, its log and its end. Imports nothing of the server, which runs in an
interpreter of its own (`-P`: nothing in the working directory can shadow its modules).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tenuto.client import AsyncClient
from tenuto.errors import InvalidArgument, ServerNotInstalled, ServerStartError
from tenuto.sync_client import Client

_LOG_LINES = 200
_STOP_S = 10.0


class LocalServer:
    """A server process. `start` returns when it accepts connections; `stop` ends it; it never outlives this process."""

    def __init__(
        self, model: str, settings: Mapping[str, Any], *, timeout_s: float, on_log: Callable[[str], object]
    ) -> None:
        self._model = model
        self._settings = dict(settings)
        self._timeout_s = timeout_s
        self._on_log = on_log
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._lines: Queue[str] = Queue()
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self.url = ""

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that the server wrote to its log."""
        return tuple(self._log)

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> str:
        """The server's URL. Raises `ServerNotInstalled`, `ServerStartError` with the end of its log."""
        settings = _toml(self._settings)
        self._directory = tempfile.TemporaryDirectory(prefix="tenuto-")
        config = Path(self._directory.name) / "tenuto.toml"
        config.write_text(settings, encoding="utf-8")
        command = [sys.executable, "-P", "-m", "orchestrator", "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--model", self._model, "--config", str(config), "--exit-with-parent"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(self._settings),
            # its own group: Ctrl-C in a terminal reaches the program, which then stops the server in its own time
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read_output, name="tenuto-local-output", daemon=True),
            threading.Thread(target=self._read_log, name="tenuto-local-log", daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.url = self._announced()
        except BaseException:
            self.stop()
            raise
        return self.url

    def _announced(self) -> str:
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except Empty:
            raise ServerStartError(self._told(f"the local server did not start within {self._timeout_s:g} s")) from None
        try:
            return str(json.loads(line)["url"])
        except (ValueError, KeyError, TypeError):
            pass
        assert self._process is not None
        code = self._process.wait()
        self._readers[1].join(_STOP_S)
        if any("No module named orchestrator" in said for said in self._log):
            raise ServerNotInstalled(
                f"local() starts the server, which is not installed for {sys.executable}: "
                "install the whole of Tenuto there, or connect to a server with tenuto.Client(url)"
            )
        raise ServerStartError(self._told(f"the local server ended with exit status {code} before it was ready"))

    def _told(self, what: str) -> str:
        return "\n".join([what + (":" if self._log else " and wrote nothing"), *("  " + line for line in self._log)])

    def _read_output(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # the end: whoever waits for a line hears it

    def _read_log(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line.rstrip("\n"))
            self._on_log(line.rstrip("\n"))

    def stop(self) -> None:
        """End the process: ask (its standard input ends), then insist. A second stop is no error."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            for insist in (process.terminate, process.kill):
                try:
                    process.wait(_STOP_S)
                    break
                except subprocess.TimeoutExpired:
                    insist()
            process.wait()
            for reader in self._readers:
                reader.join(_STOP_S)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None


class local:  # read as a function: `with local():`
    """A private server and a client of it: `with local() as client:` or `async with local() as client:`.

    `model`: "bundled", a model directory, or "none". `settings`: any of the server's (`limits={"page": 50}`,
    `policy="fcfs"`, `engine={"threads": 2}`); an unknown one is an error. `timeout_s`: how long the server may take to
    start. `client`: parameters of the client. `on_log` is given each line of the server's log.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "bundled",
        *,
        timeout_s: float = 60.0,
        client: Mapping[str, Any] | None = None,
        on_log: Callable[[str], object] = lambda line: None,
        **settings: Any,
    ) -> None:
        for name in ("host", "port", "api_keys"):
            if name in settings:
                raise InvalidArgument(
                    f"local(): a private server has its own {name}: leave it out, or use `tenuto serve`"
                )
        self.server = LocalServer(os.fspath(model), settings, timeout_s=timeout_s, on_log=on_log)
        self._options = dict(client or {})
        self._client: Client | None = None
        self._async_client: AsyncClient | None = None

    def __enter__(self) -> Client:
        url = self.server.start()
        try:
            self._client = Client(url, **self._options)
            return self._client.__enter__()
        except BaseException:
            self.server.stop()
            raise

    def __exit__(self, *exc: object) -> None:
        try:
            if self._client is not None:
                self._client.__exit__(*exc)
        finally:
            self.server.stop()

    async def __aenter__(self) -> AsyncClient:
        starting = asyncio.ensure_future(asyncio.to_thread(self.server.start))
        try:
            url = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.gather(starting, return_exceptions=True)
            await asyncio.to_thread(self.server.stop)
            raise
        try:
            self._async_client = AsyncClient(url, **self._options)
            return await self._async_client.__aenter__()
        except BaseException:
            await asyncio.to_thread(self.server.stop)
            raise

    async def __aexit__(self, *exc: object) -> None:
        try:
            if self._async_client is not None:
                await self._async_client.__aexit__(*exc)
        finally:
            await asyncio.shield(asyncio.to_thread(self.server.stop))


def _environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Ours, without the variables that would change what was asked for here."""
    given = {"HOST", "PORT", "MODEL", "API_KEYS", *(name.upper() for name in settings)}
    return {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("TENUTO_") and name.removeprefix("TENUTO_").partition("__")[0] in given)
    }


def _toml(settings: Mapping[str, Any]) -> str:
    return "".join(f"{_toml_key(name)} = {_toml_value(value, name)}\n" for name, value in settings.items())


def _toml_key(name: str) -> str:
    return json.dumps(name)


def _toml_value(value: Any, where: str) -> str:
    """A TOML value. JSON's strings and numbers are TOML's too. Raises `InvalidArgument` for what TOML cannot hold."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bool | str):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        items = (f"{_toml_key(name)} = {_toml_value(item, f'{where}.{name}')}" for name, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml_value(item, where) for item in value) + "]"
    raise InvalidArgument(f"local(): setting {where}={value!r}: give text, a number, true or false, a list or a dict")
