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


def private_tokens(
    services: Services,
    program: Program,
    call: LLMCall,
    engine: Engine,
    messages: tuple[ChatMessage, ...],
    chain: Chain | None,
) -> int:
    """Tokens of KV that the call will need for itself."""
    return _private(services, program, call, _prompt_tokens(services, engine, messages, chain))


def visitor_of(
    services: Services,
    program: Program,
    call: LLMCall,
    engine: Engine,
    messages: tuple[ChatMessage, ...],
    chain: Chain | None,
) -> Visitor:
    """What placing must know. `engine`: any that serves the model."""
    prompt = _prompt_tokens(services, engine, messages, chain)
    return Visitor(
        program.id,
        program.workflow,
        services.statistics.seconds(program.workflow, call),
        prompt,
        services.footprints.shared(program.id, program.workflow, call),
        _private(services, program, call, prompt),
        chain,
    )


def _private(services: Services, program: Program, call: LLMCall, prompt_tokens: int) -> int:
    shared = services.footprints.shared(program.id, program.workflow, call)
    # Most calls should end within what was counted: memory that is short stops everybody.
    output = services.statistics.output_tokens(program.workflow, call, _MOST)
    return max(0, prompt_tokens - shared) + output


def _prompt_tokens(services: Services, engine: Engine, messages: tuple[ChatMessage, ...], chain: Chain | None) -> int:
    if isinstance(engine, CountsTokens):
        return engine.count_tokens(messages)
    return services.retention.prompt_tokens(engine, messages, chain)
