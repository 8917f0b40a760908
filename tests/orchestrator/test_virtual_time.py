"""Virtual time: exact, ordered, and never waiting for ever."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.clock import LoopClock
from orchestrator.virtual_time import EverythingWaits, VirtualClock, VirtualTimeLoop, run_virtually


def test_hours_pass_in_no_time_and_in_order() -> None:
    heard: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        heard.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(sleeper("week", 604800), sleeper("second", 1), sleeper("hour", 3600), sleeper("now", 0))

    run_virtually(main())
    assert heard == [("now", 0.0), ("second", 1.0), ("hour", 3600.0), ("week", 604800.0)]


def test_timeouts_run_on_the_same_time() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(90):
                await asyncio.sleep(100)
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) == 90.0


def test_waiting_for_what_can_never_happen_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(EverythingWaits):
        run_virtually(main())


def test_time_stands_still_while_a_thread_works() -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        results: list[object] = []
        timer = loop.call_later(10.0, results.append, "timer")
        results.append(await asyncio.to_thread(lambda: time.sleep(0.02) or "thread"))
        assert loop.time() == 0.0 and not timer.cancelled()
        await asyncio.sleep(11)
        return results

    assert run_virtually(main()) == ["thread", "timer"]


def test_time_stands_still_while_the_clock_is_told_that_something_works_outside() -> None:
    async def main() -> float:
        loop, clock = asyncio.get_running_loop(), VirtualClock()
        done = loop.create_future()
        with ThreadPoolExecutor(1) as threads:
            with clock.outside():
                threads.submit(lambda: (time.sleep(0.02), loop.call_soon_threadsafe(done.set_result, None)))
                async with asyncio.timeout(5.0):
                    await done
        return clock.now()

    assert run_virtually(main()) == 0.0


def test_the_clock_tells_the_loops_time_and_a_calendar() -> None:
    async def main() -> tuple[float, float, float]:
        clock = VirtualClock(epoch_s=1000.0)
        await clock.sleep(2.5)
        return clock.now(), clock.wall(), LoopClock().now()

    assert run_virtually(main()) == (2.5, 1002.5, 2.5)


def test_a_virtual_clock_on_a_real_loop_is_refused_where_it_matters() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="VirtualTimeLoop"), VirtualClock().outside():
            pass

    asyncio.run(main())


def test_a_loop_can_be_used_step_by_step() -> None:
    loop = VirtualTimeLoop()
    loop.run_until_complete(asyncio.sleep(5))
    loop.run_until_complete(asyncio.sleep(5))
    assert loop.time() == 10.0
    loop.close()


def test_timers_are_due_however_late_it_is() -> None:
    async def main() -> float:
        await asyncio.sleep(1e9)
        await asyncio.gather(*(asyncio.sleep(0.1 * n) for n in range(10)))
        await asyncio.wait_for(asyncio.sleep(1e-7), 1.0)
        return asyncio.get_running_loop().time()

    assert 1e9 < run_virtually(main()) < 1e9 + 1.1
