"""The order in which calls with effects take their turns: as declared, unless one needs another that came later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dag.graph import ProgramGraph
from tenuto.wire import Call, EffectClass, FunctionCall, ToolSpec


def effect_of(call: FunctionCall, tools: Mapping[str, ToolSpec]) -> EffectClass:
    """What the call itself says, else what its tool says, else the safest: exclusive."""
    if "effect" in call.model_fields_set or call.tool not in tools:
        return call.effect
    return tools[call.tool].effect


def effect_order(
    calls: Sequence[Call], tools: Mapping[str, ToolSpec], graph: ProgramGraph
) -> list[tuple[str, EffectClass, str | None]]:
    """The new calls with effects as (id, effect, key), each behind those of them that it needs.

    `calls` are in the graph already. A depth-first walk in declared order that visits what a call needs before the
    call itself: a topological order, and the declared one wherever that is one. O(calls + edges).
    """
    effects: dict[str, tuple[EffectClass, str | None]] = {}
    for call in calls:
        if isinstance(call, FunctionCall) and (effect := effect_of(call, tools)) is not EffectClass.READ:
            effects[call.id] = (effect, call.effect_key)
    if not effects:
        return []
    new = {call.id for call in calls}
    ordered: list[tuple[str, EffectClass, str | None]] = []
    seen: set[str] = set()
    for call in calls:
        stack = [(call.id, False)] if call.id in effects else []
        while stack:
            name, expanded = stack.pop()
            if expanded:
                if name in effects:
                    ordered.append((name, *effects[name]))
            elif name not in seen:
                seen.add(name)
                stack.append((name, True))
                stack.extend((p, False) for p in reversed(graph.predecessors(name)) if p in new and p not in seen)
    return ordered
