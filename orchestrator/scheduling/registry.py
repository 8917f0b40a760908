"""Policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from orchestrator.scheduling.fcfs import Fcfs, ProgramFcfs
from orchestrator.scheduling.plas import Plas
from orchestrator.scheduling.policy import Policy
from orchestrator.scheduling.tenuto import Tenuto
from orchestrator.scheduling.urgency import Urgency

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        Fcfs.name: Fcfs,
        ProgramFcfs.name: ProgramFcfs,
        Plas.name: Plas,
        Urgency.name: Urgency,
        Tenuto.name: Tenuto,
    }
)


class UnknownPolicy(ValueError):
    """No policy has this name."""


def make_policy(name: str) -> Policy:
    """A fresh policy. Raises UnknownPolicy, which lists the names there are."""
    factory = POLICIES.get(name)
    if factory is None:
        raise UnknownPolicy(f"no scheduling policy {name!r}; choose one of: {', '.join(sorted(POLICIES))}")
    return factory()
