"""A real process, really killed: what it had told is in its journal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.clock import LoopClock
from orchestrator.journal import SqliteJournal, Written

ROOT = Path(__file__).parents[3]

_CHILD = """
import asyncio, sys
from random import Random
from benchmarks.null_engine import NullEngine
from orchestrator.clock import LoopClock
from orchestrator.engines import EnginePool
from orchestrator.journal import SqliteJournal
from orchestrator.limits import Limits
from orchestrator.runtime import Runtime
from orchestrator.scheduling import make_policy
from orchestrator.tools import WorkerPool
from tests.orchestrator.runtime.support import llm, program, var

async def main(path):
    clock, limits, rng = LoopClock(), Limits(), Random(0)
    runtime = Runtime(clock=clock, engines=EnginePool([NullEngine()]), workers=WorkerPool(limits=limits, rng=rng),
                      journal=SqliteJournal(path, clock=clock), policy=make_policy("fcfs"), limits=limits, rng=rng)
    await runtime.start()
    chain = program(llm("c0"), *(llm(f"c{n}", var(f"c{n - 1}")) for n in range(1, 50)))
    async def follow():
        while True:
            summary, _ = await runtime.submit(chain, tenant="t")
            print("accepted", summary.id, flush=True)
            async for event in runtime.events(summary.id, tenant="t"):
                if event.kind == "variable.written":
                    print("written", summary.id, event.call, flush=True)
    await asyncio.gather(*(follow() for _ in range(3)))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_what_a_killed_process_had_told_is_in_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", _CHILD, str(path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'sdk'}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(200)]
        child.send_signal(signal.SIGKILL)
        told += child.stdout.readlines()
    if not told[-1].endswith("\n"):
        told.pop()  # killed in the middle of a line
    assert told.count("") == 0, "the child ended by itself"
    accepted = {line.split()[1] for line in told if line.startswith("accepted")}
    written = {(line.split()[1], line.split()[2]) for line in told if line.startswith("written")}

    async def read() -> set[tuple[str, str]]:
        journal = SqliteJournal(path, clock=LoopClock())
        await journal.open(lambda fault: None)
        try:
            found = set()
            for program in accepted:
                records = await journal.records(program)
                assert records, "an accepted program is lost"
                found |= {(program, record.call) for record in records if isinstance(record, Written)}
            return found
        finally:
            await journal.close()

    assert len(accepted) >= 3
    assert written <= asyncio.run(read())
