"""Which call is served first. Pure: events in, priority keys out; no clock, no I/O, no engine."""

from __future__ import annotations

from orchestrator.scheduling.footprints import Footprints
from orchestrator.scheduling.hold import Hold
from orchestrator.scheduling.learned import Learned
from orchestrator.scheduling.policy import NO_CHANGES, Changes, EndedCall, Policy, ProgramArrival, ReadyCall
from orchestrator.scheduling.registry import POLICIES, UnknownPolicy, make_policy
from orchestrator.scheduling.room import Room
from orchestrator.scheduling.statistics import StageStatistics, stage_of

__all__ = [
    "NO_CHANGES",
    "POLICIES",
    "Changes",
    "EndedCall",
    "Footprints",
    "Hold",
    "Learned",
    "Policy",
    "ProgramArrival",
    "ReadyCall",
    "Room",
    "StageStatistics",
    "UnknownPolicy",
    "make_policy",
    "stage_of",
]
