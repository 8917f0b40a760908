"""Conflicting stateful tools end in the state of the serial run, while independent ones overlap."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from benchmarks import function_state
from tenuto.wire import EffectClass


def test_random_programs_over_conflicting_tools_end_as_their_serial_runs() -> None:
    found = function_state.mismatches(80, seed=7)
    assert found["mismatches"] == 0
    assert found["calls_that_overlapped"] > found["calls"] // 3 and found["most_at_once"] > 3


def test_the_comparison_sees_an_order_that_was_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = function_state.draw

    def without_effects(rng: Random) -> list[Any]:
        free = {"effect": EffectClass.READ, "effect_key": None}
        return [(call.model_copy(update=free), *rest) for call, *rest in drawn(rng)]

    monkeypatch.setattr(function_state, "draw", without_effects)
    assert function_state.mismatches(40, seed=7)["mismatches"] > 10
