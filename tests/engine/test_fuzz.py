"""Random traffic over scheduler, tiers, prefixes, leases, forks, drafts and aborts; everything checked each step."""

from __future__ import annotations

import pytest

from engine.protocol import LeaseOutcome
from tests.engine.traffic import Traffic

STEPS = 2_500


@pytest.mark.parametrize("seed", range(8))
def test_random_traffic_keeps_every_invariant(seed: int) -> None:
    tally = Traffic(seed).run(STEPS)
    assert tally.finished > 50 and tally.steps >= STEPS


def test_the_traffic_exercises_what_it_claims_to() -> None:
    tally = Traffic(13).run(1_500)
    seen = (tally.preempted, tally.recomputed, tally.copied, tally.forked, tally.continued, tally.drafted)
    assert min(seen) > 0, seen
    assert {LeaseOutcome.HANDOFF, LeaseOutcome.EXPIRED, LeaseOutcome.PRESSURE} <= tally.leases.keys()


def test_who_went_on_in_blocks_of_a_step_that_failed_computes_them_again() -> None:
    """Of 450 engines this one had a step fail whose blocks a sequence outside that step had taken up already."""
    assert Traffic(1_000_178).run(200).finished > 10
