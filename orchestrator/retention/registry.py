"""Retention rules by name, for the command line and for simulations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from orchestrator.retention.baselines import (
    Checked,
    ContinuumPaperRule,
    Foresight,
    KeepAlways,
    Lru,
    Oracle,
    continuum_public,
)
from orchestrator.retention.rules import RetentionRule, Tenuto

ORACLE = Oracle.name
"""Needs the future: for simulations alone."""

RULES: Mapping[str, Callable[[], RetentionRule]] = MappingProxyType(
    {
        "tenuto": Tenuto,
        "lru": Lru,
        "keep_always": KeepAlways,
        "continuum_public": continuum_public,
        "continuum_paper": ContinuumPaperRule,
        "thunderagent": Checked,
    }
)


class UnknownRule(ValueError):
    """No retention rule has this name, or it cannot be used here."""


def make_rule(name: str, foresight: Foresight | None = None) -> RetentionRule:
    """A fresh rule. `foresight`: what the oracle knows. Raises UnknownRule, which lists the names there are."""
    if name == ORACLE:
        if foresight is None:
            raise UnknownRule(f"retention rule {ORACLE!r} knows the future: it can be used in simulations alone")
        return Oracle(foresight)
    factory = RULES.get(name)
    if factory is None:
        raise UnknownRule(f"no retention rule {name!r}; choose one of: {', '.join(sorted(RULES))}")
    return factory()
