"""The event log: replay by number, live readers, bounded token events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.limits import Limits
from orchestrator.runtime.events import EventLog
from orchestrator.virtual_time import run_virtually
from tenuto.wire import EventKind
from tests.orchestrator.runtime.support import TENANT, Say, ScriptedEngine, Server, kinds, llm, program, var

READY, TOKENS, END = EventKind.CALL_READY, EventKind.CALL_TOKENS, EventKind.PROGRAM_SUCCEEDED


async def test_a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice(server: Server) -> None:
    server.engine.script = lambda request: Say("some words here", seconds=3.0)
    id = await server.submit(program(llm("a"), llm("b", var("a"))))
    seen = []
    last = 0
    for _ in range(100):
        async with aclosing(server.runtime.events(id, tenant=TENANT, after_seq=last)) as events:
            async for event in events:
                seen.append(event)
                last = event.seq
                if len(seen) % 3 == 0:
                    break
        if seen[-1].kind is END:
            break
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert kinds(seen).count(TOKENS) == 6


async def test_a_reader_that_was_at_the_end_already_ends_at_once(server: Server) -> None:
    id = await server.submit(program(llm("a")))
    events = await server.follow(id)
    assert await server.follow(id, after_seq=events[-1].seq) == []
    assert await server.follow(id, after_seq=10**9) == []


async def test_many_readers_see_the_same(server: Server) -> None:
    server.engine.script = lambda request: Say("some words here", seconds=3.0)
    id = await server.submit(program(llm("a"), llm("b", var("a"))))
    first, *others = await asyncio.gather(*(server.follow(id) for _ in range(20)))
    assert all(other == first for other in others)


async def test_token_events_are_bounded_per_program_and_kept_of_the_last_ended_ones_only() -> None:
    server = await Server(
        ScriptedEngine(lambda request: Say("word " * 99 + "word", seconds=10.0)), limits=Limits(token_events=10)
    ).start()
    id = await server.submit(program(llm("a"), llm("b", var("a"))))
    await server.until(id, EventKind.CALL_STARTED, "b")
    seen = []
    async with aclosing(server.runtime.events(id, tenant=TENANT)) as events:
        async for event in events:
            seen.append(event)
            if event.kind is EventKind.CALL_STARTED and event.call == "b":
                break
    assert kinds(seen, "a").count(TOKENS) == 10
    assert EventKind.VARIABLE_WRITTEN in kinds(seen, "a")
    await server.follow(id)
    assert kinds(await server.follow(id)).count(TOKENS) == 10
    for _ in range(70):
        await server.run(program(llm("a")))
    assert TOKENS not in kinds(await server.follow(id))
    assert EventKind.VARIABLE_WRITTEN in kinds(await server.follow(id))
    await server.close()


def test_what_is_held_is_not_read_and_what_is_released_is() -> None:
    log = EventLog(10)
    log.add(0.0, READY)
    assert log.hold() == 2
    log.add(0.0, READY)
    log.add_tokens(0.0, "a", "a", 1, "text")
    assert log.hold() == 4
    log.add(0.0, END)
    assert [entry.seq for entry in log.read(0)] == [1]
    log.release()
    assert [entry.seq for entry in log.read(0)] == [1, 2, 3]
    log.release()
    assert [entry.seq for entry in log.read(0)] == [1, 2, 3, 4]


async def test_a_reader_waits_where_token_events_have_given_way() -> None:
    log = EventLog(2)
    read: list[int] = []

    async def reader() -> None:
        async for entry in log.follow(0):
            read.append(entry.seq)

    for _ in range(5):
        log.add_tokens(0.0, "a", "a", 1, "text")
    task = asyncio.create_task(reader())
    await asyncio.sleep(1)
    assert read == [4, 5] and not task.done()
    log.jump(100)
    await asyncio.sleep(1)
    log.add(0.0, END)
    await task
    assert read == [4, 5, 100]


_OPERATIONS = st.lists(st.sampled_from(["add", "token", "hold", "release", "pause"]), max_size=60)


@given(_OPERATIONS, st.integers(1, 5))
def test_a_live_reader_sees_every_kept_event_once_in_order_and_never_one_that_is_held(
    operations: list[str], token_events: int
) -> None:
    async def run() -> None:
        log = EventLog(token_events)
        read: list[int] = []
        added: list[int] = []

        async def reader() -> None:
            async for entry in log.follow(0):
                assert entry.seq <= log.visible
                read.append(entry.seq)

        task = asyncio.create_task(reader())
        holds = 0
        for operation in operations:
            if operation == "add":
                log.add(0.0, READY)
                added.append(log.last)
            elif operation == "token":
                log.add_tokens(0.0, "a", "a", 1, "t")
            elif operation == "hold":
                log.hold()
                holds += 1
            elif operation == "release" and holds:
                log.release()
                holds -= 1
            elif operation == "pause":
                await asyncio.sleep(1)
        log.add(0.0, END)
        added.append(log.last)
        for _ in range(holds):
            log.release()
        async with asyncio.timeout(10):
            await task
        assert read == sorted(set(read)) and set(added) <= set(read)

    run_virtually(run())


async def test_readers_that_stop_early_disturb_nobody(server: Server) -> None:
    server.engine.script = lambda request: Say("word " * 50, seconds=50.0)
    id = await server.submit(program(llm("a")))
    readers = [asyncio.create_task(server.follow(id)) for _ in range(3)]
    await asyncio.sleep(10)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    with pytest.raises(asyncio.CancelledError):
        await readers[0]
    await server.follow(id)
