"""Deadlines mean what `asyncio.timeout` means, with one timer for all waits of a length."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.tools.deadlines import Deadlines
from orchestrator.virtual_time import VirtualClock, VirtualTimeLoop


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_wait_ends_at_its_deadline_and_not_before() -> None:
    deadlines = Deadlines(VirtualClock())
    timer = deadlines.within(2.0)
    with pytest.raises(TimeoutError):
        with timer:
            await asyncio.sleep(60)
    assert timer.expired and now() == 2.0
    with deadlines.within(2.0) as timer:
        await asyncio.sleep(1.9)
    assert not timer.expired
    task = asyncio.current_task()
    assert task is not None and not task.cancelling()


async def test_a_timeout_of_the_work_itself_and_a_cancellation_from_outside_stay_what_they_are() -> None:
    deadlines = Deadlines(VirtualClock())

    async def work(error: BaseException | None) -> None:
        with deadlines.within(5.0):
            await asyncio.sleep(1)
            if error is not None:
                raise error
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError, match="its own"):
        await work(TimeoutError("its own"))
    cancelled = asyncio.create_task(work(None))
    await asyncio.sleep(2)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    both = asyncio.create_task(work(None))
    asyncio.get_running_loop().call_later(5.0, both.cancel)  # at the very moment of its deadline
    with pytest.raises(asyncio.CancelledError):
        await both


async def test_an_inner_deadline_leaves_the_outer_one_alone_and_the_other_way_round() -> None:
    deadlines = Deadlines(VirtualClock())
    with deadlines.within(5.0) as outer:
        with pytest.raises(TimeoutError):
            with deadlines.within(1.0):
                await asyncio.sleep(60)
        await asyncio.sleep(1)
    assert not outer.expired and now() == 2.0
    inner = deadlines.within(5.0)
    with pytest.raises(TimeoutError):
        with deadlines.within(1.0):
            with inner:
                await asyncio.sleep(60)
    assert not inner.expired and now() == 3.0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 8), st.integers(0, 4)), max_size=20))
def test_many_waits_of_few_lengths_each_end_as_under_asyncio_timeout(waits: list[tuple[int, int, int]]) -> None:
    async def one(limit: int, work: int, start: int, deadlines: Deadlines | None) -> tuple[bool, float]:
        await asyncio.sleep(start)
        try:
            if deadlines is None:
                async with asyncio.timeout(limit):
                    await asyncio.sleep(work + 0.5)
            else:
                with deadlines.within(limit):
                    await asyncio.sleep(work + 0.5)
        except TimeoutError:
            return True, now()
        return False, now()

    async def all_of_them(deadlines: Deadlines | None) -> list[tuple[bool, float]]:
        return await asyncio.gather(*(one(*wait, deadlines) for wait in waits))

    found = [VirtualTimeLoop().run_until_complete(all_of_them(d)) for d in (Deadlines(VirtualClock()), None)]
    assert found[0] == found[1]


async def test_lengths_that_came_once_are_forgotten() -> None:
    deadlines = Deadlines(VirtualClock())
    for number in range(2_000):
        with deadlines.within(10.0 + number / 1000):
            pass
    assert len(deadlines._lanes) <= 256
    deadlines.close()
    assert not deadlines._lanes
