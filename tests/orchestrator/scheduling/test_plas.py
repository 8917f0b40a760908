"""Autellix's order: attained service, queues, and nobody starving."""

from __future__ import annotations

from dag.graph import ProgramGraph
from orchestrator.scheduling import EndedCall, Policy, ProgramArrival, ReadyCall
from orchestrator.scheduling.fcfs import Fcfs
from orchestrator.scheduling.plas import Plas
from tenuto.wire import Objective
from tests.orchestrator.runtime.support import llm


def arrive(policy: Policy, *programs: str) -> None:
    for program in programs:
        policy.program_arrived(ProgramArrival(program, "t", "w", Objective(), ProgramGraph()), 0.0)


def ready(policy: Policy, program: str, call: str, now: float = 0.0) -> tuple[float, ...]:
    return policy.call_ready(ReadyCall(program, llm(call)), now)


def ended(policy: Policy, program: str, call: str, seconds: float, now: float) -> dict[str, tuple[float, ...]]:
    return dict(policy.call_ended(EndedCall(program, llm(call), seconds, None, True), now))


def total_wait(policy: Policy) -> float:
    """Batch 2, programs A{4,3,1,1} B{3,3,4} C{1,2} D{4}, all at t=0: the paper's worked example."""
    lengths = {"A": [4, 3, 1, 1], "B": [3, 3, 4], "C": [1, 2], "D": [4]}
    arrive(policy, *lengths)
    queue = [(ready(policy, name, "c0"), name, 0, 0.0) for name in lengths]
    running: list[tuple[float, str, int]] = []
    now = waited = 0.0
    while queue or running:
        queue.sort()
        while queue and len(running) < 2:
            _, name, index, since = queue.pop(0)
            waited += now - since
            running.append((now + lengths[name][index], name, index))
        running.sort()
        now, name, index = running.pop(0)
        ended(policy, name, f"c{index}", lengths[name][index], now)
        if index + 1 < len(lengths[name]):
            queue.append((ready(policy, name, f"c{index + 1}", now), name, index + 1, now))
    return waited


def test_the_worked_example_of_the_paper() -> None:
    """FCFS waits 18 in all, as in the paper; PLAS less (there 12, with calls cut at their quantum; here whole)."""
    policy = Plas(quantum_s=1e-9, beta=1e9)
    policy._queue = lambda service_s: int(service_s)  # type: ignore[method-assign]  # one queue a second of service
    assert total_wait(Fcfs()) == 18
    assert total_wait(policy) == 14


def test_service_is_the_longest_path_and_siblings_share_it() -> None:
    policy = Plas(quantum_s=1.0)
    arrive(policy, "p")
    keys = [ready(policy, "p", name) for name in ("a", "b")]
    assert keys[0][0] == keys[1][0] == 0
    ended(policy, "p", "a", 3.0, 3.0)
    ended(policy, "p", "b", 2.0, 2.0)
    assert policy._programs["p"].service_s == 3.0  # parallel, not 5
    assert ready(policy, "p", "c", 3.0)[0] == 2  # the queue of [2, 4)


def test_one_who_waited_too_long_for_what_it_got_is_promoted() -> None:
    policy = Plas(quantum_s=1.0, beta=2.0)
    arrive(policy, "old", "new")
    ready(policy, "old", "a")
    ended(policy, "old", "a", 8.0, 8.0)
    assert ready(policy, "old", "b", 10.0)[0] > 0
    ready(policy, "new", "x", 10.0)
    assert ended(policy, "new", "x", 1.0, 25.0) == {}
    changes = ended(policy, "new", "x", 1.0, 26.0)  # 16 s of waiting for 8 s of service
    assert changes["old"][0] == 0.0
