"""The measured critical path covers a program's life once, and says what nothing accounts for."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from orchestrator.runtime.attribution import Measured, PathStep, calls_of, causes, path


def test_the_path_goes_from_each_call_to_what_it_waited_for_longest() -> None:
    calls = {
        "a": Measured((), (("queue", 0.0, 1.0), ("decode", 1.0, 3.0))),
        "fast": Measured(("a",), (("tool", 3.0, 4.0),)),
        "slow": Measured(("a",), (("tool", 3.0, 8.0),)),
        "z": Measured(("fast", "slow"), (("prefill", 8.0, 9.0), ("decode", 9.0, 10.0))),
    }
    steps = path(calls, 10.0)
    assert calls_of(steps) == ("a", "slow", "z")
    assert causes(steps) == {"tool": 5.0, "decode": 3.0, "queue": 1.0, "prefill": 1.0}


def test_what_nothing_accounts_for_is_said() -> None:
    calls = {"a": Measured((), (("decode", 1.0, 2.0), ("decode", 3.0, 4.0)))}
    assert path(calls, 6.0) == (
        PathStep(None, None, 0.0, 1.0),
        PathStep("a", "decode", 1.0, 2.0),
        PathStep(None, None, 2.0, 3.0),
        PathStep("a", "decode", 3.0, 4.0),
        PathStep(None, None, 4.0, 6.0),
    )


def test_a_call_that_began_while_its_producer_still_decoded_counts_only_what_came_before() -> None:
    """Function calls start when their text is complete, not when the generation that wrote them is."""
    calls = {
        "plan": Measured((), (("decode", 0.0, 5.0),)),
        "search": Measured(("plan",), (("tool", 2.0, 9.0),)),
    }
    assert path(calls, 9.0) == (PathStep("plan", "decode", 0.0, 2.0), PathStep("search", "tool", 2.0, 9.0))


def test_a_call_that_its_client_declared_late_waited_for_what_the_client_waited_for() -> None:
    """`rows = await run_sql(...)`, then `vote(rows)`: no edge, but the client declared one when the other had ended."""
    calls = {
        "write": Measured((), (("decode", 0.0, 4.0),)),
        "other": Measured((), (("decode", 0.0, 1.0),)),
        "run": Measured(("write",), (("tool", 4.0, 6.0),)),
        "vote": Measured((), (("client", 6.0, 7.0), ("tool", 7.0, 8.0))),
    }
    steps = path(calls, 8.0)
    assert calls_of(steps) == ("write", "run", "vote")
    assert causes(steps) == {"decode": 4.0, "tool": 3.0, "client": 1.0}


def test_a_program_without_calls_is_unaccounted_for() -> None:
    assert path({}, 0.0) == ()
    assert path({}, 2.0) == (PathStep(None, None, 0.0, 2.0),)


@pytest.mark.parametrize("seed", range(50))
def test_the_path_covers_every_moment_once(seed: int) -> None:
    rng = Random(seed)
    calls: dict[str, Measured] = {}
    for n in range(rng.randint(1, 30)):
        after = [name for name in calls if rng.random() < 0.2]
        now_s = max((calls[name].spans[-1][2] for name in after), default=0.0)
        spans = []
        for cause in ("queue", "prefill", "decode"):
            gap_s, seconds = rng.choice((0.0, 0.0, 1.0)), rng.random()
            spans.append((cause, now_s + gap_s, now_s + gap_s + seconds))
            now_s += gap_s + seconds
        calls[f"c{n}"] = Measured(after, spans)  # type: ignore[arg-type]
    end_s = max(call.spans[-1][2] for call in calls.values()) + rng.choice((0.0, 1.0))
    steps = path(calls, end_s)
    assert steps[0].start_s == 0.0 and steps[-1].end_s == end_s
    assert all(one.end_s == two.start_s for one, two in itertools.pairwise(steps))
    assert sum(causes(steps).values()) <= end_s + 1e-9


def test_the_time_until_its_client_seals_a_program_is_the_clients() -> None:
    calls = {"a": Measured((), (("decode", 0.0, 2.0),))}
    assert path(calls, 6.0, client_s=5.0) == (
        PathStep("a", "decode", 0.0, 2.0),
        PathStep(None, "client", 2.0, 5.0),
        PathStep(None, None, 5.0, 6.0),
    )
    assert path(calls, 2.0, client_s=1.0) == (PathStep("a", "decode", 0.0, 2.0),)
    assert path({}, 3.0, client_s=3.0) == (PathStep(None, "client", 0.0, 3.0),)
