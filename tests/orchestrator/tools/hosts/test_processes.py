"""Tools in processes: limits of memory, CPU and output; a call that is cancelled ends its process and its children."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.tools import CallFailure
from orchestrator.tools.processes import ProcessLimits, ProcessTools
from tests.orchestrator.tools.hosts.support import SERVED, ask, until

LIMITS = ProcessLimits(memory_bytes=3 * 2**30, cpu_s=1.0, result_bytes=10_000)


@pytest.fixture(scope="module")
def pids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pids") / "pids"
    os.environ["TENUTO_TEST_PIDS"] = str(path)
    return path


@pytest.fixture
async def host(pids: Path) -> AsyncIterator[ProcessTools]:
    host = ProcessTools([SERVED], processes=2, limits=LIMITS)
    await host.start()
    yield host
    await host.close()


async def test_one_process_serves_call_after_call_and_survives_what_tools_raise(host: ProcessTools) -> None:
    assert await ask(host, "double", x=4) == 8
    (child,) = host._idle
    for _ in range(3):
        with pytest.raises(CallFailure, match="ValueError"):
            await ask(host, "fails", how="raise")
    with pytest.raises(CallFailure) as caught:
        await ask(host, "double", x="four")
    assert caught.value.type == "arguments_invalid"
    with pytest.raises(CallFailure, match="10000") as caught:
        await ask(host, "flood", bytes=20_000)
    assert caught.value.type == "result_too_large"
    assert await ask(host, "flood", bytes=5) == "xxxxx"  # what it prints is no part of its answer
    assert await ask(host, "echo", value={"ü": [None, 1.5]}) == {"ü": [None, 1.5]}
    assert list(host._idle) == [child]


async def test_memory_and_cpu_are_bounded_and_a_death_costs_its_own_call_alone(host: ProcessTools) -> None:
    with pytest.raises(CallFailure, match="memory") as caught:
        await ask(host, "hog", megabytes=4000)
    assert caught.value.type == "resource_exhausted"
    with pytest.raises(CallFailure, match="CPU") as caught:
        await ask(host, "burn", seconds=60.0)
    assert caught.value.type == "resource_exhausted"
    with pytest.raises(CallFailure, match="code 7") as caught:
        await ask(host, "die")
    assert caught.value.type == "worker_lost" and caught.value.lost
    assert await ask(host, "double", x=1) == 2


async def test_a_cancelled_call_ends_its_process_and_what_that_started(host: ProcessTools, pids: Path) -> None:
    task = asyncio.create_task(ask(host, "family", seconds=60.0))
    await until(lambda: pids.exists() and " " in pids.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.gather(*host._burials)
    family = [int(pid) for pid in (await asyncio.to_thread(pids.read_text)).split()]
    await until(lambda: all(map(_gone, family)))  # who is killed is gone once the kernel gets to it


async def test_a_module_that_cannot_be_loaded_is_told_when_it_is_named() -> None:
    with pytest.raises(ValueError, match="no_such_module"):
        await ProcessTools(["no_such_module"]).start()


def _gone(pid: int) -> bool:
    """Dead, or a zombie that only waits for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_what_a_tool_prints_is_shown_up_to_a_bound_and_never_stops_it(
    pids: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    host = ProcessTools([SERVED], processes=1, limits=ProcessLimits(print_bytes=1_000))
    await host.start()
    assert await ask(host, "chatter", lines=20_000) == 20_000  # more than a pipe holds
    await until(lambda: any("prints too much" in record.message for record in caplog.records))
    shown = capsys.readouterr().err
    assert shown.startswith("line 0 xx") and shown.count("line") < 30
    assert await ask(host, "chatter", lines=3) == 3
    seen: list[str] = []

    def printed() -> bool:
        seen.append(capsys.readouterr().err)
        return "line 2 xx" in "".join(seen)

    await until(printed)  # each call has a bound of its own
    await host.close()
