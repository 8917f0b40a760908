"""What the scheduling benchmark compares: cells (programs, load, seed) and the settings that run on each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.scheduling_runs import Cell, Setting

INFINITE = Setting("fcfs", "lru", infinite=True)
FCFS = Setting("fcfs", "lru")
OURS = Setting("tenuto", "tenuto")
PAPER = Setting("program_fcfs", "continuum_paper")
PUBLIC = Setting("program_fcfs", "continuum_public")
ORACLE = Setting("tenuto", "oracle")
PLAS = Setting("plas", "lru")
SRPT = Setting("srpt", "oracle")
FCFS_HOST = Setting("fcfs", "lru", host_share=1.0)
OURS_HOST = Setting("tenuto", "tenuto", host_share=1.0)
FCFS_SMALL_HOST = Setting("fcfs", "lru", host_share=0.25)
OURS_SMALL_HOST = Setting("tenuto", "tenuto", host_share=0.25)

CHAINS, CHAIN_SLOTS = 25, 8
CAPPED_CALLS = 2
"""Parrot's latency mode lets 4,096 tokens on an engine at once; calls of a map-reduce have about 2,600."""
MAP_REDUCE_RATE, MAP_REDUCE_SATURATED, MIXED_RATE = 0.15, 1.5, 2.5
SQL_RATES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.6, 2.0, 2.5)
"""Programs a second, up to more than any side sustains. An order is compared where the engine is nearly full: before
that nobody waits, and all orders are one."""
DISTURBANCES = ("fast", "slow", "shuffled", "hung")


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells of one benchmark. `agents`, `mixed`: trace files; `measured`: which half of their programs."""

    agents: tuple[str, ...]
    mixed: tuple[str, ...]
    measured: bool | None
    seeds: tuple[int, ...]
    quick: bool = False

    def cell(self, trace: str, load: float, seed: int, disturbance: str = "") -> Cell:
        """A trace's programs at a load."""
        memory_share = 0.15 if self.quick else 1.0
        return Cell(trace, load, seed, 0, self.measured, disturbance, memory_share)

    @staticmethod
    def made(name: str, rate: float, seed: int, programs: int) -> Cell:
        """A generated workload."""
        return Cell(f"gen:{name}", rate, seed, programs)

    def groups(self, only: str = "") -> dict[Cell, list[Setting]]:
        """Every cell with its settings, seeds outermost: a sweep that is stopped has all figures from fewer seeds."""
        found: dict[Cell, list[Setting]] = {}
        for seed in self.seeds:
            for name, cell, settings in self._of_seed(seed):
                if name.startswith(only):
                    known = found.setdefault(cell, [])
                    known += [setting for setting in settings if setting not in known]
        return found

    def _of_seed(self, seed: int) -> Iterator[tuple[str, Cell, list[Setting]]]:
        yield from self._declared(seed)
        if self.quick:  # the first trace at one load
            for trace in self.agents[:1]:
                yield "agents", self.cell(trace, 2.0, seed), [INFINITE, FCFS, OURS, PAPER]
            return
        for load in (2.0, 4.0):
            for trace in self.agents:
                yield "agents", self.cell(trace, load, seed), [INFINITE, FCFS, OURS, PAPER, PUBLIC, ORACLE]
        for trace in self.agents:
            for load in (0.5, 1.0):
                yield "light", self.cell(trace, load, seed), [FCFS, OURS]
            yield "host", self.cell(trace, 2.0, seed), [FCFS_HOST, OURS_HOST]
            yield "host", self.cell(trace, 4.0, seed), [FCFS_HOST, OURS_HOST, FCFS_SMALL_HOST, OURS_SMALL_HOST]
        for trace in self.mixed:
            yield "mixed", self.cell(trace, 2.0, seed), [FCFS, OURS, PLAS, SRPT]
            yield "mixed", self.cell(trace, 4.0, seed), [FCFS_HOST, OURS_HOST]
        if self.agents and seed < self.seeds[0] + 3:
            for disturbance in DISTURBANCES:
                for trace in self.agents:
                    yield "robust", self.cell(trace, 2.0, seed, disturbance), [FCFS, OURS]

    def _declared(self, seed: int) -> Iterator[tuple[str, Cell, list[Setting]]]:
        few = self.quick
        slots = [
            Setting(policy, keep, max_running=CHAIN_SLOTS) for policy, keep in (("fcfs", "lru"), ("tenuto", "tenuto"))
        ]
        yield "declared chains", self.made("chains", 0.0, seed, CHAINS), slots
        capped = Setting("fcfs", "lru", engine_calls=CAPPED_CALLS)
        yield (
            "declared map-reduce",
            self.made("mapreduce", MAP_REDUCE_RATE, seed, 8 if few else 20),
            [FCFS, OURS, capped],
        )
        yield "declared map-reduce", self.made("mapreduce", MAP_REDUCE_SATURATED, seed, 10 if few else 60), [FCFS, OURS]
        if few:
            return
        yield "declared mixed", self.made("mixed", MIXED_RATE, seed, 98), [FCFS, OURS, capped, PLAS]
        sql = [
            FCFS,
            Setting("urgency", "lru", shared_prefix=True),
            Setting("tenuto", "tenuto", shared_prefix=True),
        ]
        for rate in SQL_RATES:
            yield "declared sql", self.made("sql", rate, seed, 60), sql
