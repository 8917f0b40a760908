"""What goes wrong in a simulation, by seed: engines that crash and come back empty, tools that are slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from engine.simulated import SimulatedEngine
from orchestrator.clock import OrchestratorClock
from orchestrator.engines.supervisor import SupervisedEngine


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what happens. The default is a world without faults.

    `crash_every_s`: mean seconds between crashes of one engine (0: never), `restart_s` until it serves again.
    `slow_share` of the tool calls take `slow_factor` times as long.
    """

    crash_every_s: float = 0.0
    restart_s: float = 30.0
    slow_share: float = 0.0
    slow_factor: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.slow_share <= 1.0:
            raise ValueError(f"slow_share must be a share, 0 to 1, got {self.slow_share!r}")
        if min(self.crash_every_s, self.restart_s, self.slow_factor) < 0:
            raise ValueError("times and factors of faults must not be negative")

    def tool_seconds(self, rng: Random) -> Callable[[str, float], float]:
        """What a tool call takes that should take some seconds."""
        if not self.slow_share:
            return lambda key, seconds: seconds
        return lambda key, seconds: seconds * (self.slow_factor if rng.random() < self.slow_share else 1.0)


NO_FAULTS = Faults()


class CrashingEngine:
    """A supervised engine whose process dies now and then. `made` are all its processes, the last one lives.

    `crashed` is told of each that dies.
    """

    def __init__(
        self,
        name: str,
        model: str,
        make: Callable[[], SimulatedEngine],
        faults: Faults,
        rng: Random,
        clock: OrchestratorClock,
        crashed: Callable[[SimulatedEngine], None],
    ) -> None:
        self._make, self._faults, self._rng, self._clock, self._crashed = make, faults, rng, clock, crashed
        self.made: list[SimulatedEngine] = []
        self._crash: asyncio.TimerHandle | None = None
        self.supervised = SupervisedEngine(
            name, self._start, clock=clock, serves=model, start_wait_s=10 * faults.restart_s + 60.0
        )

    async def _start(self) -> SimulatedEngine:
        if self.made:
            await self._clock.sleep(self._faults.restart_s)
        engine = self._make()
        self.made.append(engine)
        lives_s = self._rng.expovariate(1 / self._faults.crash_every_s)
        self._crash = asyncio.get_running_loop().call_later(lives_s, self._die, engine)
        return engine

    def _die(self, engine: SimulatedEngine) -> None:
        engine.lose("the engine crashed")
        self._crashed(engine)

    def stop(self) -> None:
        """No more crashes."""
        if self._crash is not None:
            self._crash.cancel()
