"""An LLM call as the semantic cache sees it. Pure.

Owns which fields of a call cannot change its answer. Every other field, also one that this module has never heard of,
is part of what must match exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from orchestrator.caching.caller import Caller
from semantic_cache import CacheRequest, request_for_call
from tenuto.wire import LLMCall

_NEUTRAL = frozenset(
    [
        *("id", "output", "after", "stage", "group", "timeout_s", "retry", "objective", "expected_s", "kind"),
        *("model", "messages", "sampling", "category", "question", "cache"),
    ]
)
"""Fields that the answer does not depend on, and those that have a place of their own in `CacheRequest`."""

_FUNCTION_CALLING = ("tools", "plan")


def cache_request(
    call: LLMCall, values: Mapping[str, JsonValue], caller: Caller, *, model: str, exact: bool, drives_effects: bool
) -> CacheRequest:
    """The request of a call whose variables have their values.

    `exact`: the server has the exact tier alone. `drives_effects`: a function call that changes the world reads the
    answer. Raises `semantic_cache.InvalidRequest`.
    """
    control = call.cache
    mode = "exact" if exact and control.mode == "semantic" else control.mode
    if call.sampling.temperature > 0 and call.sampling.seed is None and not _asked_for(call):
        mode = "off"  # siblings without a seed are meant to differ
    if call.sampling.logprobs is not None:
        mode = "off"  # they are not kept
    about = [m for m in call.messages if m.tool_calls or m.tool_call_id]
    asked = [m.model_dump(mode="json", exclude={"role", "parts"}) for m in about]
    return request_for_call(
        call,
        values,
        tenant=caller.tenant,
        model=model,
        principal=caller.name,
        question=call.question,
        workflow=caller.workflow,
        tools=(call.model_dump(mode="json", exclude=set(_NEUTRAL)), *asked),
        tags=control.tags,
        mode=mode,
        keep=control.keep,
        max_age_s=control.max_age_s,
        examples=control.examples,
        effects=drives_effects,
        pending_tools=any(getattr(call, name, None) for name in _FUNCTION_CALLING),
    )


def _asked_for(call: LLMCall) -> bool:
    return call.category is not None or call.question is not None or "cache" in call.model_fields_set
