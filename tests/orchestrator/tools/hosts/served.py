"""Tools as a server's own module would define them, good and bad."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import tenuto
from tenuto import tool

stopped = threading.Event()
told: list[str] = []


@tool(effects="read")
async def double(x: int) -> int:
    return 2 * x


@tool(effects="read")
def spin(seconds: float) -> str:
    """Works until it is told to stop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if tenuto.cancelled():
            stopped.set()
            return "stopped"
        time.sleep(0.002)
    return "done"


@tool(effects="read")
async def nap(seconds: float) -> str:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        told.append("cancelled")
        raise
    return "rested"


@tool(effects="read")
def fails(how: str) -> int:
    if how == "exit":
        raise SystemExit(3)
    raise ValueError("no such \ud800 thing")


@tool(effects="read")
def lies() -> int:
    return "seven"  # type: ignore[return-value]


@tool(effects="read")
def hog(megabytes: int) -> int:
    return len(bytearray(megabytes * 2**20))


@tool(effects="read")
def burn(seconds: float) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return 1


@tool(effects="read")
def flood(bytes: int) -> str:
    print("noise " * 1000)
    return "x" * bytes


@tool(effects="read")
def chatter(lines: int) -> int:
    for number in range(lines):
        print(f"line {number} " + "x" * 40)
    return lines


@tool(effects="read")
def die() -> None:
    os._exit(7)


@tool(effects="read")
def family(seconds: float) -> list[int]:
    """Starts a child of its own and waits for it."""
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    Path(os.environ["TENUTO_TEST_PIDS"]).write_text(f"{os.getpid()} {child.pid}")
    child.wait()
    return [child.pid]


@tool(effects="read")
def echo(value: Any) -> Any:
    return value
