"""The default order: the shortest rest first, inside a window of arrivals that nothing can leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag.graph import ProgramGraph
from engine.protocol import Usage
from orchestrator.scheduling import EndedCall, ProgramArrival, ReadyCall
from orchestrator.scheduling.tenuto import Tenuto
from tenuto.wire import Objective
from tests.orchestrator.runtime.support import llm

WINDOW_S = 100.0


def chain(length: int, seconds: float = 5.0, objective: Objective | None = None) -> ProgramGraph:
    graph = ProgramGraph(objective or Objective())
    grow(graph, range(length), seconds)
    return graph


def grow(graph: ProgramGraph, numbers: range, seconds: float = 5.0) -> None:
    calls = [
        llm(f"c{n}").model_copy(update={"expected_s": seconds, "after": (f"c{n - 1}",) if n else ()}) for n in numbers
    ]
    graph.extend({}, calls, [])


class Player:
    """Plays chains of calls on a policy."""

    def __init__(self, policy: Tenuto) -> None:
        self.policy = policy
        self.graphs: dict[str, ProgramGraph] = {}

    def arrive(
        self, name: str, graph: ProgramGraph, now: float = 0.0, *, open: bool = False, workflow: str = "w"
    ) -> None:
        self.graphs[name] = graph
        arrival = ProgramArrival(name, "t", workflow, graph.objective, graph, open)
        self.policy.program_arrived(arrival, now)

    def ready(self, name: str, call: str, now: float = 0.0) -> tuple[float, ...]:
        return self.policy.call_ready(ReadyCall(name, self.graphs[name].calls[call]), now)

    def end(self, name: str, call: str, seconds: float, now: float, tokens: int = 10) -> dict[str, tuple[float, ...]]:
        usage = Usage(10, 0, tokens, 0.0, 0.0, seconds)
        call_ = self.graphs[name].calls[call]
        changes = dict(self.policy.call_ended(EndedCall(name, call_, seconds, usage, True), now))
        self.graphs[name].end(call)
        return changes


def player() -> Player:
    return Player(Tenuto(WINDOW_S, half_s=20.0))


def test_of_two_that_arrive_together_the_shorter_goes_first_and_progress_counts() -> None:
    play = player()
    play.arrive("long", chain(10))
    play.arrive("short", chain(3))
    assert play.ready("short", "c0") < play.ready("long", "c0")
    for n in range(8):
        play.end("long", f"c{n}", 5.0, now=5.0 * n)
    assert play.ready("long", "c8", 40.0) < play.ready("short", "c0", 40.0)


programs = st.lists(
    st.tuples(
        st.floats(0, 1000),
        st.integers(1, 6),
        st.floats(0.1, 500),
        st.booleans(),
        st.sampled_from([None, 1.0, 50.0, 1000.0]),
        st.booleans(),
    ),
    min_size=2,
    max_size=12,
)


@given(programs)
def test_nobody_is_overtaken_by_a_program_that_arrived_a_window_later(
    given: list[tuple[float, int, float, bool, float | None, bool]],
) -> None:
    """Whatever is expected, learned, declared or asked for: the stated bound."""
    play = player()
    keys: list[tuple[float, tuple[float, ...]]] = []
    for number, (at, length, seconds, open, deadline_s, bulk) in enumerate(sorted(given, key=lambda one: one[0])):
        objective = Objective(kind="throughput") if bulk else Objective()
        if deadline_s is not None:
            objective = Objective(kind="deadline", deadline_s=deadline_s)
        name = f"p{number}"
        play.arrive(name, chain(length, seconds, objective), at, open=open)
        now = at
        for n in range(length):
            keys.append((at, play.ready(name, f"c{n}", now)))
            for key in play.policy.tokens_made(name, f"c{n}", 1000, now + seconds / 2).values():
                keys.append((at, key))
            now += seconds
            play.end(name, f"c{n}", seconds, now, tokens=2000)
        play.policy.program_ended(name, now)
    for at, key in keys:
        assert at <= key[0] <= at + WINDOW_S
        assert all(key < other for later, other in keys if later > at + WINDOW_S)


def test_an_open_program_is_endless_until_one_has_ended_and_goes_back_as_its_workflow_goes_on() -> None:
    play = player()
    play.arrive("declared", chain(1))
    graph = chain(1)
    play.arrive("first", graph, open=True)
    assert play.ready("declared", "c0") < play.ready("first", "c0"), "nothing open has ended yet"
    for n in range(40):
        play.arrive(f"chat{n}", chain(1), open=True, workflow="chat")
        play.ready(f"chat{n}", "c0")
        play.end(f"chat{n}", "c0", 1.0, 0.0)
        play.policy.program_ended(f"chat{n}", 0.0)
    keys = []
    for n in range(20):
        keys.append(play.ready("first", f"c{n}", 0.0))
        play.end("first", f"c{n}", 10.0, 0.0)
        grow(graph, range(n + 1, n + 2))
    assert keys == sorted(keys) and keys[-1][0] > keys[0][0] + WINDOW_S / 4


def test_open_programs_are_expected_to_need_what_others_of_their_workflow_needed() -> None:
    play = player()
    for name, seconds in [(f"a{n}", 1.0) for n in range(40)] + [(f"b{n}", 200.0) for n in range(40)]:
        play.arrive(name, chain(1), open=True, workflow=name[0])
        play.ready(name, "c0")
        play.end(name, "c0", seconds, 0.0)
        play.policy.program_ended(name, 0.0)
    play.arrive("short", chain(1), open=True, workflow="a")
    play.arrive("long", chain(1), open=True, workflow="b")
    assert play.ready("short", "c0") < play.ready("long", "c0")


def test_a_deadline_that_can_be_met_comes_in_time_and_a_lost_one_takes_its_turn() -> None:
    play = player()
    play.arrive("bulk", chain(1, 10.0))
    play.arrive("due", chain(2, 10.0, Objective(kind="deadline", deadline_s=22.0)))
    (due_s, _) = play.ready("due", "c0")
    assert due_s == pytest.approx(2.0, abs=1e-9) and (due_s,) < play.ready("bulk", "c0")
    (late_s, _) = play.ready("due", "c0", now=10.0)
    assert late_s > play.ready("bulk", "c0")[0]


def test_throughput_goes_last_in_its_window() -> None:
    play = player()
    play.arrive("bulk", chain(1, 1.0, Objective(kind="throughput")))
    play.arrive("session", chain(10, 100.0))
    assert play.ready("session", "c0") < play.ready("bulk", "c0") == (WINDOW_S, 0.0)


def test_a_call_that_outlives_its_expectation_moves_its_program_back() -> None:
    play = player()
    for n in range(20):
        play.arrive(f"p{n}", chain(1))
        play.ready(f"p{n}", "c0")
        play.end(f"p{n}", "c0", 2.0, 0.0, tokens=100)
        play.policy.program_ended(f"p{n}", 0.0)
    play.arrive("p", chain(1))
    before = play.ready("p", "c0")
    told = [play.policy.tokens_made("p", "c0", 1, 1.0) for _ in range(2000)]
    changes = [dict(change) for change in told if change]
    assert 1 <= len(changes) <= 6  # at doublings only
    assert changes[-1]["p"] > before


def test_programs_of_about_the_same_rest_go_by_arrival() -> None:
    """Of declared programs, whose rest is known well, no more than a factor of two."""
    play = player()
    keys = {}
    for name, seconds in (("a", 20.0), ("b", 17.0), ("c", 70.0)):
        graph = ProgramGraph()
        graph.extend({}, [llm("x").model_copy(update={"expected_s": seconds})], [])
        play.arrive(name, graph)
        keys[name] = play.ready(name, "x")
    assert keys["a"] == keys["b"] < keys["c"]  # all arrived at once


def test_siblings_share_a_key_that_improves_as_they_end() -> None:
    play = player()
    graph = ProgramGraph()
    maps = [llm(f"m{n}").model_copy(update={"expected_s": 20.0}) for n in range(32)]
    reduce = llm("r").model_copy(update={"expected_s": 5.0, "after": tuple(call.id for call in maps)})
    graph.extend({}, [*maps, reduce], [])
    play.arrive("p", graph)
    keys = {play.ready("p", call.id) for call in maps}
    assert len(keys) == 1
    changes: dict[str, tuple[float, ...]] = {}
    for call in maps[:24]:
        changes |= play.end("p", call.id, 20.0, 1.0)
    assert changes["p"] < min(keys)


def test_a_deadline_of_an_open_program_counts_before_any_has_ended() -> None:
    play = player()
    play.arrive("p", chain(1, 5.0, Objective(kind="deadline", deadline_s=30.0)), open=True)
    assert play.ready("p", "c0")[0] == pytest.approx(25.0, abs=1.0)
