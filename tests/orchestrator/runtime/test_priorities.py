"""What the policy answers reaches the engines."""

from __future__ import annotations

import asyncio

from engine.protocol import PriorityKey
from orchestrator.scheduling import NO_CHANGES, Changes, EndedCall, ProgramArrival, ReadyCall
from tenuto.wire import EventKind
from tests.orchestrator.runtime.support import TENANT, Hang, Say, Server, function, llm, program, var


class Recorder:
    """A policy that writes down what it is told, and changes its mind with every token."""

    name = "recorder"
    holds = False

    def __init__(self) -> None:
        self.told: list[tuple[str, ...]] = []
        self.tokens = 0

    def overdue(self, waiting: PriorityKey, running: PriorityKey) -> bool:
        return False

    def program_arrived(self, program: ProgramArrival, now: float) -> Changes:
        self.told.append(("arrived", program.workflow, str(len(program.graph.calls))))
        return NO_CHANGES

    def call_ready(self, call: ReadyCall, now: float) -> PriorityKey:
        self.told.append(("ready", call.call.id))
        return (7.0, 1.0)

    def tokens_made(self, program: str, call: str, tokens: int, now: float) -> Changes:
        self.tokens += tokens
        return {program: (float(self.tokens),)}

    def call_ended(self, call: EndedCall, now: float) -> Changes:
        self.told.append(("ended", call.call.id, f"{call.seconds:g}", str(call.succeeded)))
        return NO_CHANGES

    def program_ended(self, program: str, now: float) -> Changes:
        self.told.append(("program ended",))
        return NO_CHANGES


async def test_the_policy_is_told_all_in_order_and_its_keys_reach_the_engine() -> None:
    policy = Recorder()
    server = await Server(policy=policy).start()
    server.engine.script = lambda request: Say("one two three", seconds=3.0, queue_s=2.0)
    server.worker(look=lambda text: asyncio.sleep(4.0))
    await server.run(program(llm("a"), function("t", "look", {"text": var("a")})))
    assert policy.told == [
        ("arrived", "test", "2"),
        ("ready", "a"),
        ("ended", "a", "3", "True"),
        ("ready", "t"),
        ("ended", "t", "4", "True"),
        ("program ended",),
    ]
    assert server.engine.requests[0].key == (7.0, 1.0)
    assert [key for _, key in server.engine.keys] == [(1.0,), (2.0,), (3.0,)]
    await server.close()


async def test_only_the_newest_key_of_a_program_is_sent_while_an_engine_is_slow() -> None:
    policy = Recorder()
    server = await Server(policy=policy).start()
    told = server.engine.reprioritize

    async def slow(program: str, key: PriorityKey) -> None:
        await asyncio.sleep(10.0)
        await told(program, key)

    server.engine.reprioritize = slow  # type: ignore[method-assign]
    server.engine.script = lambda request: Say("word " * 99 + "word", seconds=50.0)
    await server.run(program(llm("a")))
    keys = [key[0] for _, key in server.engine.keys]
    assert keys == sorted(keys) and 4 <= len(keys) <= 6
    await server.close()


async def test_after_a_cancel_the_policy_hears_of_the_program_alone() -> None:
    policy = Recorder()
    server = await Server(policy=policy).start()
    server.engine.script = lambda _: Hang()
    id = await server.submit(program(llm("a"), llm("b")))
    await server.until(id, EventKind.CALL_STARTED, "b")
    await server.runtime.cancel(id, tenant=TENANT)
    assert policy.told[-1] == ("program ended",) and "ended" not in [told[0] for told in policy.told]
    await server.close()
