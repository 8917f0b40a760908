"""Random programs in memory so tight that leases break all the time: everything ends, nothing is left behind."""

from __future__ import annotations

import pytest

from benchmarks.random_schedules import run_schedule, run_schedules


@pytest.mark.parametrize("block", range(4))
def test_no_random_schedule_hangs_or_leaks(block: int) -> None:
    totals = run_schedules(range(block * 50, block * 50 + 50))
    assert totals.faults == ()
    assert totals.outcomes["pressure"] > 10, "leases were broken"
    assert totals.outcomes["handoff"] > 100, "and others were of use"


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert run_schedule(5) == run_schedule(5)
