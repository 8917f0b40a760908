"""Server processes for tests: started as users start them, on a port of their own, gone when the test is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START_S = 300.0


class ServerProcess:
    """`tenuto serve` as a child process."""

    def __init__(self, directory: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TENUTO_")}
        self.log = directory / f"server-{len(list(directory.glob('server-*')))}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "orchestrator", "serve", "--port", "0", "--exit-with-parent", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=directory,
                env={**clean, **(environment or {})},
            )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        assert self.line, self.log.read_text()
        self.said = json.loads(self.line)
        self.url = str(self.said["url"])

    def end_stdin(self) -> int:
        """What a parent that dies does. Returns the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(START_S)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(START_S)

    def rest_of_stdout(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


Launch = Callable[..., ServerProcess]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts servers in the test's own directory."""
    started: list[ServerProcess] = []

    def start(*arguments: str, environment: dict[str, str] | None = None) -> ServerProcess:
        started.append(ServerProcess(tmp_path, *arguments, environment=environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def tenuto(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TENUTO_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator", *arguments],
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S,
    )
