"""How an LLM call gets to an engine: placed, let in at its gate, placed anew if it is called away.

The one way in, for calls of programs and for those that are made beside them. Decides nothing itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from engine.protocol import Engine, PriorityKey
from orchestrator.runtime.gate import Gate
from orchestrator.runtime.placing import Visitor
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from tenuto.wire import LLMCall


@asynccontextmanager
async def admitted(
    services: Services,
    program: Program,
    call: LLMCall,
    name: str,
    key: PriorityKey,
    needs: Callable[[Engine], Visitor],
    *,
    waits: Callable[[Engine], None] = lambda engine: None,
    left: Callable[[Gate], int] = lambda gate: 0,
) -> AsyncIterator[tuple[Engine, Gate | None]]:
    """A place on an engine while the context is open; without a gate where workers host the model.

    `name`: under which it is known there. `needs` is asked where memory or engines are to be chosen with care, of any
    engine of the model. `waits` hears where the call waits, `left` says how many tokens of KV it has left there.
    """
    while True:
        engine, gate = services.place(call.model, tenant=program.tenant, toolset=program.toolset)
        if gate is None:
            yield engine, None
            return
        several = services.placing.several(call.model)
        visitor = needs(engine) if several or gate.hold.capacity else None
        if several and visitor is not None:
            engine = services.placing.choose(call.model, visitor)
            gate = services.priorities.gate(engine)
            services.placing.sent(engine, visitor)
        waits(engine)
        tokens = visitor.private_tokens if visitor is not None else 0
        try:
            called_away = await gate.enter(name, key, tokens)
            if called_away is None:
                try:
                    await services.engines.serving(engine)  # what it can do is known once it has started
                    yield engine, gate
                finally:
                    gate.leave(name, tokens, left(gate))
                return
            key = called_away
        finally:
            if several and visitor is not None:
                services.placing.left(engine, visitor)
