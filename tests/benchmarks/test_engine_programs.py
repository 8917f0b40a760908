"""The programs of `benchmarks.engine_cpu`: what they ask for, and that the hold lets in what fits, in order."""

from __future__ import annotations

import pytest

from benchmarks.engine_programs import Load, Peer, drive, run_batch

LOAD = Load(programs=5, turns=3, shared=8, private=20, tool=4, output=2, pause_s=(0.0, 0.0), vocab=1000)


class Echo(Peer):
    """Answers at once; notes what was asked and how many programs were inside."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.paused: list[str] = []
        self.live: set[str] = set()
        self.most = 0
        self._ended: list[tuple[str, list[int]]] = []

    def submit(self, name: str, prompt: list[int], tokens: int, program: str = "", order: int = 0) -> None:
        self.asked.append((name, tuple(prompt)))
        self.live.add(program)
        self.most = max(self.most, len(self.live))
        self._ended.append((name, [7] * tokens))

    def poll(self, wait_s: float) -> list[tuple[str, list[int]]]:
        return [self._ended.pop(0)]

    @property
    def busy(self) -> bool:
        return bool(self._ended)

    def pauses(self, program: str, chain: list[int], order: int) -> None:
        self.paused.append(program)

    def ends(self, program: str) -> None:
        self.live.remove(program)


def test_prompts_grow_by_output_and_tool_and_share_their_beginning() -> None:
    peer = Echo()
    drive(peer, LOAD.make(3))
    prompts = dict(peer.asked)
    assert len(prompts) == 15 and len({prompt[:8] for prompt in prompts.values()}) == 1
    assert len({prompt[8:] for name, prompt in prompts.items() if name.endswith(":0")}) == 5
    for index in range(5):
        first, second = prompts[f"p{index}:0"], prompts[f"p{index}:1"]
        assert len(first) == 28 and second[:30] == (*first, 7, 7) and len(second) == 34
    assert len(peer.paused) == 10 and peer.most == 5


def test_demand_is_what_all_chains_take_at_their_end() -> None:
    programs = LOAD.make(0)
    assert LOAD.demand == 8 + sum(program.final_tokens - 8 for program in programs)
    assert LOAD.kv_tokens == LOAD.demand // 3


@pytest.mark.parametrize("room", [1, 2, 3])
def test_the_hold_lets_in_what_fits_in_order(room: int) -> None:
    programs = LOAD.make(1)
    peer = Echo()
    private = programs[0].mean_tokens - 8
    drive(peer, programs, hold_tokens=8 + room * private, shared=8)
    assert peer.most == room
    starts = [name for name, _ in peer.asked if name.endswith(":0")]
    assert starts == [f"p{index}:0" for index in range(5)]


def test_a_program_that_never_fits_runs_alone() -> None:
    peer = Echo()
    drive(peer, LOAD.make(1), hold_tokens=10, shared=8)
    assert peer.most == 1 and len(peer.asked) == 15


def test_programs_beyond_the_limit_are_cut_off_and_counted() -> None:
    outcome = drive(Echo(), LOAD.make(1), limit_s=-1.0)
    assert outcome.unfinished == 5 and outcome.makespan_s >= 0.0
    assert drive(Echo(), LOAD.make(1)).unfinished == 0


def test_equal_seeds_give_equal_batches() -> None:
    first, second = Echo(), Echo()
    _, outputs = run_batch(first, 3, 5, 4, seed=9, vocab=1000)
    run_batch(second, 3, 5, 4, seed=9, vocab=1000)
    assert first.asked == second.asked and outputs == [[7] * 4] * 3
