"""Programs wait for memory at the gate: who enters, who is parked, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import pytest

from orchestrator.runtime.gate import Gate
from orchestrator.scheduling import Hold
from orchestrator.virtual_time import run_virtually


@dataclass
class Kept:
    program: str
    tokens: int
    remaining_s: float = 60.0
    recompute_s: float = 1.0


class Memory:
    """What is kept for paused programs, in the order in which it is given up; computed again in 1 s."""

    gate: Gate

    def __init__(self, remaining_s: float = 60.0) -> None:
        self.remaining_s = remaining_s
        self.kept: dict[str, int] = {}
        self.parked: list[str] = []
        self.told: list[tuple[int, int]] = []

    def victims(self, tokens: int) -> Iterable[Kept]:
        for program, size in [*self.kept.items()]:
            if tokens <= 0:
                return
            tokens -= size
            yield Kept(program, size, self.remaining_s)

    def park(self, program: str) -> None:
        del self.kept[program]
        self.parked.append(program)
        self.gate.kept(program, 0)

    def pressure(self, waiting: int, running: int) -> None:
        self.told.append((waiting, running))


def gate_of(memory: Memory, capacity: int = 100, window: float = float("inf"), room: int = 8) -> Gate:
    """Keys are (due, arrival)."""
    memory.gate = Gate(
        room, Hold(capacity, reserve=0.0), memory, lambda outside, inside: inside[1] > outside[1] + window
    )
    return memory.gate


async def enters(gate: Gate, program: str, tokens: int, key: tuple[float, ...] = (0.0, 0.0)) -> asyncio.Task[None]:
    task = asyncio.create_task(gate.enter(program, key, tokens))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


def pause(gate: Gate, memory: Memory, program: str, tokens: int) -> None:
    """A call ends and what it leaves is kept."""
    memory.kept[program] = tokens
    gate.leave(program, tokens, tokens)


async def test_newcomers_wait_while_those_inside_fill_the_memory() -> None:
    memory = Memory()
    gate = gate_of(memory)
    first = await enters(gate, "first", 60)
    second = await enters(gate, "second", 60)
    assert first.done() and not second.done() and gate.held == 1
    gate.leave("first", 60, 0)
    await asyncio.sleep(0)
    assert second.done() and gate.held == 0


async def test_what_is_kept_for_a_paused_program_counts_while_others_are_at_work() -> None:
    memory = Memory(remaining_s=3.0)
    gate = gate_of(memory)
    for name, tokens in (("paused", 50), ("busy", 40)):
        assert (await enters(gate, name, tokens)).done()
    pause(gate, memory, "paused", 50)
    newcomer = await enters(gate, "newcomer", 30)
    assert not newcomer.done() and memory.parked == []
    returning = await enters(gate, "paused", 55)  # it is inside: it does not ask
    assert returning.done() and not newcomer.done()


async def test_an_idle_engine_parks_until_the_first_outside_fits() -> None:
    memory = Memory(remaining_s=3.0)
    gate = gate_of(memory)
    for name in ("a", "b", "busy"):
        assert (await enters(gate, name, 30)).done()
    for name in ("a", "b"):
        pause(gate, memory, name, 30)
    newcomer = await enters(gate, "newcomer", 60)
    assert not newcomer.done()
    pause(gate, memory, "busy", 30)
    await asyncio.sleep(0)
    assert newcomer.done() and memory.parked == ["a", "b"] and memory.kept == {"busy": 30}
    assert not gate.hold.is_inside("a") and gate.hold.is_inside("busy")
    back = await enters(gate, "a", 35)
    assert not back.done()  # a parked program asks again


def test_an_idle_engine_waits_for_short_pauses_as_long_as_parking_in_vain_would_cost() -> None:
    async def run() -> None:
        memory = Memory(remaining_s=1.5)
        gate, loop = gate_of(memory), asyncio.get_running_loop()
        for name in ("a", "b"):
            assert (await enters(gate, name, 50)).done()
        for name in ("a", "b"):
            pause(gate, memory, name, 50)
        newcomer = await enters(gate, "newcomer", 60)
        assert not newcomer.done() and memory.parked == []
        await newcomer
        assert loop.time() == 2.0 and memory.parked == ["a", "b"]  # a second for each of the two

    run_virtually(run())


def test_who_comes_back_to_a_waiting_engine_in_time_keeps_its_memory() -> None:
    async def run() -> None:
        memory = Memory(remaining_s=1.5)
        gate, loop = gate_of(memory), asyncio.get_running_loop()
        assert (await enters(gate, "a", 90)).done()
        pause(gate, memory, "a", 90)
        newcomer = await enters(gate, "newcomer", 60)
        await asyncio.sleep(0.9)
        assert (await enters(gate, "a", 95)).done()
        await asyncio.sleep(5)
        assert not newcomer.done() and memory.parked == []
        gate.leave("a", 95, 0)
        await newcomer
        assert loop.time() == 5.9

    run_virtually(run())


async def test_a_smaller_one_behind_takes_room_that_the_first_outside_cannot_use() -> None:
    memory = Memory()
    gate = gate_of(memory, window=10.0)
    assert (await enters(gate, "busy", 60)).done()
    first = await enters(gate, "first", 70, (0.0, 0.0))
    assert (await enters(gate, "small", 30, (5.0, 5.0))).done() and not first.done()
    gate.leave("small", 30, 0)
    late = await enters(gate, "late", 30, (11.0, 11.0))  # arrived more than the window after the first
    assert not late.done() and not first.done()
    gate.leave("busy", 60, 0)
    await asyncio.sleep(0)
    assert first.done() and late.done()


async def test_those_behind_the_first_are_looked_at_in_order() -> None:
    gate = gate_of(Memory())
    assert (await enters(gate, "busy", 90)).done()
    waiting = [await enters(gate, f"p{n}", 100 - n, (float(7 * n % 20), 0.0)) for n in range(20)]
    gate.reprioritize({"p3": (100.0, 0.0)})
    waiting[4].cancel()
    await asyncio.sleep(0)
    keys = [held.key for held in gate._outside.following()]
    assert keys == sorted(keys) and len(keys) == 18  # the head is not behind itself


@pytest.mark.parametrize(("remaining_s", "parked"), [(5.0, ["paused"]), (3.0, [])])
async def test_a_long_pause_gives_way_to_the_first_outside(remaining_s: float, parked: list[str]) -> None:
    """It takes a second to compute again, for which two wait: the one at work and the one that comes back."""
    memory = Memory(remaining_s=remaining_s)
    gate = gate_of(memory)
    for name in ("paused", "busy"):
        assert (await enters(gate, name, 50)).done()
    pause(gate, memory, "paused", 50)
    newcomer = await enters(gate, "newcomer", 40)
    assert newcomer.done() == bool(parked) and memory.parked == parked


async def test_nobody_is_parked_where_the_first_outside_would_still_not_fit() -> None:
    memory = Memory()
    gate = gate_of(memory)
    for name, tokens in (("paused", 20), ("busy", 80)):
        assert (await enters(gate, name, tokens)).done()
    pause(gate, memory, "paused", 20)
    newcomer = await enters(gate, "newcomer", 40)
    assert not newcomer.done() and memory.parked == []


async def test_a_program_larger_than_the_memory_runs_alone() -> None:
    memory = Memory()
    gate = gate_of(memory)
    assert (await enters(gate, "busy", 10)).done()
    huge = await enters(gate, "huge", 1000)
    assert not huge.done()
    gate.leave("busy", 10, 0)
    await asyncio.sleep(0)
    assert huge.done()


async def test_who_outgrows_the_memory_takes_it_from_the_paused() -> None:
    memory = Memory()
    gate = gate_of(memory)
    for name in ("growing", "paused"):
        assert (await enters(gate, name, 45)).done()
    pause(gate, memory, "paused", 45)
    gate.leave("growing", 45, 45)
    assert (await enters(gate, "growing", 80)).done()
    assert memory.parked == ["paused"] and gate.hold.used <= 100


async def test_one_who_waited_longer_than_the_window_is_passed_by_nobody_who_came_later() -> None:
    memory = Memory(remaining_s=3.0)
    gate = gate_of(memory, window=10.0)
    assert (await enters(gate, "early", 50, (5.0, 5.0))).done()
    assert (await enters(gate, "late", 40, (20.0, 20.0))).done()
    waiting = await enters(gate, "waiting", 60, (0.0, 0.0))
    pause(gate, memory, "late", 40)
    late = await enters(gate, "late", 45, (20.0, 20.0))  # arrived 20 s after the one outside: more than the window
    assert not late.done() and not waiting.done()
    early_again = await enters(gate, "early", 10, (5.0, 5.0))  # within the window: it may go on
    assert early_again.done()
    gate.leave("early", 50, 0)
    gate.leave("early", 10, 0)
    await asyncio.sleep(0)
    assert waiting.done()


async def test_a_cancelled_call_keeps_nobody_waiting() -> None:
    memory = Memory()
    gate = gate_of(memory)
    assert (await enters(gate, "busy", 60)).done()
    gone, next_one = await enters(gate, "gone", 60, (0.0, 0.0)), await enters(gate, "next", 60, (1.0, 0.0))
    gone.cancel()
    gate.leave("busy", 60, 0)  # in the step in which it was cancelled
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert next_one.done() and gate.held == 0 and gate.calls == 1
    gate.hold.check()


@pytest.mark.parametrize("seed", range(25))
def test_random_programs_all_end_and_leave_nothing(seed: int) -> None:
    """Virtual time raises where everything waits: a deadlock fails the test."""
    rng = Random(seed)

    async def program(gate: Gate, memory: Memory, name: str) -> None:
        await asyncio.sleep(rng.uniform(0, 5))
        chain = 0
        for _ in range(rng.randint(1, 5)):
            tokens = chain + rng.randint(5, 80)
            await gate.enter(name, (rng.uniform(0, 9), asyncio.get_running_loop().time()), tokens)
            memory.kept.pop(name, None)
            await asyncio.sleep(rng.uniform(0, 2))
            chain = tokens if rng.random() < 0.8 else 0
            if chain:
                memory.kept[name] = chain
            gate.leave(name, tokens, chain)
            gate.hold.check()
            await asyncio.sleep(rng.choice((0.0, rng.uniform(0, 10))))
        memory.kept.pop(name, None)
        gate.kept(name, 0)

    async def run() -> None:
        memory = Memory(remaining_s=rng.choice((1.5, 60.0)))
        gate = gate_of(memory, window=rng.choice((1.0, 1e9)), room=rng.randint(1, 4))
        await asyncio.gather(*(program(gate, memory, f"p{n}") for n in range(8)))
        assert gate.calls == gate.held == gate.hold.used == len(gate.hold) == 0

    run_virtually(run())


async def test_when_an_overdue_one_goes_away_those_who_waited_behind_it_enter() -> None:
    gate = Gate(10, Hold(1000, reserve=0.0), None, lambda outside, inside: inside[0] > outside[0] + 100)
    await gate.enter("a", (0.0,), 900)
    big = asyncio.create_task(gate.enter("big", (1.0,), 500))
    await asyncio.sleep(0)
    behind = [asyncio.create_task(gate.enter(name, key, 10)) for name, key in (("a", (200.0,)), ("s", (300.0,)))]
    await asyncio.sleep(1)
    assert not any(task.done() for task in behind)
    big.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert all(task.done() for task in behind) and gate.calls == 3
