"""What an LLM call will need of an engine, as far as anyone can tell before it runs. Asks; keeps nothing."""

from __future__ import annotations

from engine.protocol import ChatMessage, CountsTokens, Engine
from orchestrator.retention import Chain
from orchestrator.runtime.placing import Visitor
from orchestrator.runtime.program import Program
from orchestrator.runtime.services import Services
from tenuto.wire import LLMCall

_MOST = 0.75
"""Quantile of output lengths that is counted as a call's need of memory."""


def needs_of(
    services: Services,
    program: Program,
    call: LLMCall,
    messages: tuple[ChatMessage, ...],
    chain: Chain | None,
    engine: Engine,
) -> Visitor:
    """What the gate and placing must know. `engine`: any that serves the model."""
    if isinstance(engine, CountsTokens):
        prompt = engine.count_tokens(messages)
    else:
        prompt = services.retention.prompt_tokens(engine, messages, chain)
    shared = services.footprints.shared(program.id, program.workflow, call)
    # Most calls should end within what was counted: memory that is short stops everybody.
    output = services.statistics.output_tokens(program.workflow, call, _MOST)
    seconds = services.statistics.seconds(program.workflow, call)
    return Visitor(program.id, program.workflow, seconds, prompt, shared, max(0, prompt - shared) + output, chain)
