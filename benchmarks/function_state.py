"""Conflicting stateful tools: 1,000 random programs in virtual time, each compared with its serial run.

Used by `benchmarks.functions`. A file system with a current folder (`cd` is exclusive, as it moves what every relative
path means), files written by key, and a booking desk whose seats are keys. Calls take random times, so that an order
that was not kept would show in the final state.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

from benchmarks.function_server import bench, function, program
from orchestrator.virtual_time import VirtualClock, VirtualTimeLoop
from tenuto import tool
from tenuto.wire import EffectClass, FunctionCall


@dataclass
class World:
    """The state that the tools change, and how many of them run at once."""

    folder: str = "/"
    files: dict[str, str] = field(default_factory=dict)
    seats: dict[str, list[str]] = field(default_factory=dict)
    running: int = 0
    most: int = 0
    together: int = 0

    def state(self) -> tuple[Any, ...]:
        return self.folder, dict(sorted(self.files.items())), dict(sorted(self.seats.items()))


world = World()


async def _takes(seconds: float) -> None:
    world.running += 1
    world.together += world.running > 1
    world.most = max(world.most, world.running)
    await asyncio.sleep(seconds)


def apply(name: str, key: str, value: str) -> None:
    """What a tool does to the world, at its end."""
    if name == "cd":
        world.folder = f"/{key}"
    elif name == "append":
        path = f"{world.folder}/{key}"
        world.files[path] = world.files.get(path, "") + value
    elif name == "remove":
        world.files.pop(f"{world.folder}/{key}", None)
    elif name == "book":
        world.seats.setdefault(key, []).append(value)
    elif name == "cancel":
        world.seats[key] = world.seats.get(key, [])[:-1]


def _stateful(name: str, effect: str, key: str | None) -> Any:
    async def run(key: str, value: str, seconds: float) -> str:
        await _takes(seconds)
        apply(name, key, value)
        world.running -= 1
        return value

    options: dict[str, Any] = {"effects": effect, "name": name}
    if key is not None:
        options["effect_key"] = key
    return tool(**options)(run)


TOOLS = [
    _stateful("cd", "exclusive", None),
    _stateful("append", "write", "file:{key}"),
    _stateful("remove", "write", "file:{key}"),
    _stateful("book", "write", "seat:{key}"),
    _stateful("cancel", "write", "seat:{key}"),
    _stateful("look", "read", None),
]
_EFFECTS = {"cd": EffectClass.EXCLUSIVE, "look": EffectClass.READ}


def draw(rng: Random) -> list[tuple[FunctionCall, str, str, str]]:
    """A program of 6 to 16 calls, some of which wait for others on top of their effects."""
    calls: list[tuple[FunctionCall, str, str, str]] = []
    for index in range(rng.randrange(6, 17)):
        name = rng.choices(("cd", "append", "remove", "book", "cancel", "look"), (1, 4, 1, 4, 1, 3))[0]
        key = rng.choice("abc")
        effect = _EFFECTS.get(name, EffectClass.WRITE)
        after = rng.sample([call.id for call, *_ in calls], min(len(calls), rng.choice((0, 0, 0, 1, 2))))
        options: dict[str, Any] = {"effect": effect, "after": tuple(after)}
        if effect is EffectClass.WRITE:
            options["effect_key"] = f"{'file' if name in ('append', 'remove') else 'seat'}:{key}"
        arguments = {"key": key, "value": f"{index};", "seconds": rng.choice((0.1, 1.0, 5.0)) * rng.random()}
        calls.append((function(f"c{index}", name, arguments, **options), name, key, f"{index};"))
    return calls


def mismatches(programs: int, seed: int) -> dict[str, int]:
    """Programs whose final state is not that of the serial run; and how much ran at once."""
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(_mismatches(programs, seed))
    finally:
        loop.close()


async def _mismatches(programs: int, seed: int) -> dict[str, int]:
    global world
    rng = Random(seed)
    found = {"programs": programs, "mismatches": 0, "calls": 0, "calls_that_overlapped": 0, "most_at_once": 0}
    async with bench(TOOLS, clock=VirtualClock()) as server:
        for _ in range(programs):
            drawn = draw(rng)
            world = World()
            for _, name, key, value in drawn:
                apply(name, key, value)
            serial = world.state()
            world = World()
            calls = [call for call, *_ in drawn]
            id, _, _ = await server.run(program(calls, [call.id for call in calls]))
            failed = any(call.state != "ended" for call in server.view(id).call_views)
            found["mismatches"] += world.state() != serial or failed
            found["calls"] += len(calls)
            found["calls_that_overlapped"] += world.together
            found["most_at_once"] = max(found["most_at_once"], world.most)
    return found
