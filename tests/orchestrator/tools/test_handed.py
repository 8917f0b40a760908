"""Function calls that the client runs itself end with its result, its program or its time, and leave nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.tools import CallFailure, ToolRun
from orchestrator.tools.handed import HandedOut
from orchestrator.virtual_time import run_virtually


def run(call: str = "look", timeout_s: float | None = None) -> ToolRun:
    return ToolRun("p", call, "look", "default", "", {}, 1, timeout_s)


def test_the_first_result_counts_whoever_comes_first() -> None:
    async def main() -> None:
        handed = HandedOut()
        waiting = asyncio.create_task(handed.result(run("late"), 10.0))
        await asyncio.sleep(1)
        for call in ("early", "late"):
            handed.deliver("p", call, {"n": 1})
            handed.deliver("p", call, "again")
        assert await waiting == await handed.result(run("early"), 10.0) == {"n": 1}

    run_virtually(main())


def test_nobody_waits_for_a_program_that_has_ended() -> None:
    async def main() -> None:
        handed = HandedOut()
        waiting = asyncio.create_task(handed.result(run(), 10.0))
        await asyncio.sleep(1)
        handed.program_ended("p")
        assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], asyncio.CancelledError)

    run_virtually(main())


@pytest.mark.parametrize(("own_s", "after_s"), [(None, 10.0), (3.0, 3.0)])
def test_a_client_that_does_not_come_back_is_a_timeout(own_s: float | None, after_s: float) -> None:
    async def main() -> None:
        handed = HandedOut()
        with pytest.raises(CallFailure, match="brought no result of 'look'") as caught:
            await handed.result(run(timeout_s=own_s), 10.0)
        assert (caught.value.type, asyncio.get_running_loop().time()) == ("timeout", after_s)

    run_virtually(main())


def test_an_attempt_after_a_timeout_waits_for_the_same_result() -> None:
    async def main() -> None:
        handed = HandedOut()
        for came in ("while an attempt waits", "between attempts"):
            with pytest.raises(CallFailure, match="brought no result"):
                await handed.result(run(came), 10.0)
            again = asyncio.create_task(handed.result(run(came), 10.0))
            if came == "between attempts":
                handed.deliver("p", came, 1)
            await asyncio.sleep(5)
            handed.deliver("p", came, 1)
            assert await again == 1

    run_virtually(main())
