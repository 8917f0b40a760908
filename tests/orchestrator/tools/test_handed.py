"""Function calls that the client runs itself end with its result, its program or its time, and leave nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.tools import CallFailure, ToolRun
from orchestrator.tools.handed import HandedOut
from orchestrator.virtual_time import run_virtually


def run(call: str = "look", timeout_s: float | None = None) -> ToolRun:
    return ToolRun("p", call, "look", "default", "", {}, 1, timeout_s)


def test_a_result_is_taken_once() -> None:
    async def main() -> None:
        handed = HandedOut()
        assert not handed.deliver("p", "look", "early")
        handed.expect("p", "look")
        assert handed.holds("p", "look") and not handed.holds("p", "other")
        waiting = asyncio.create_task(handed.result(run(), 10.0))
        assert handed.deliver("p", "look", {"n": 1})
        assert not handed.deliver("p", "look", "again")
        assert await waiting == {"n": 1}
        handed.program_ended("p")
        assert not handed.holds("p", "look")

    run_virtually(main())


@pytest.mark.parametrize(("own_s", "after_s"), [(None, 10.0), (3.0, 3.0)])
def test_a_client_that_does_not_come_back_is_a_timeout(own_s: float | None, after_s: float) -> None:
    async def main() -> None:
        handed = HandedOut()
        handed.expect("p", "look")
        with pytest.raises(CallFailure, match="brought no result of 'look'") as caught:
            await handed.result(run(timeout_s=own_s), 10.0)
        assert (caught.value.type, asyncio.get_running_loop().time()) == ("timeout", after_s)

    run_virtually(main())
