"""What both routes ask of the runtime: LLM calls from the fields that they share. Pure.

A field that an engine cannot honour is not judged here: the call fails with a name for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import ValidationError
from starlette.requests import Request

from orchestrator.api.openai import identity
from orchestrator.api.openai.fields import Choice, Function, Sampled, Schema
from orchestrator.api.openai.turns import Asked
from orchestrator.api.parts import principal, tenant
from orchestrator.api.problems import InvalidRequest
from tenuto.wire import (
    Constraint,
    FieldError,
    JsonConstraint,
    LLMCall,
    Message,
    NamedTool,
    Objective,
    Sampling,
    TextPart,
)
from tenuto.wire.calls import AskedCall

_OBJECTIVES = {"flex": Objective(kind="throughput"), "priority": Objective(kind="latency")}
_MOST_TOKENS = 1_000_000
"""As many as the model's context leaves: engines end an output there."""


def message(
    role: str, text: str, *, calls: Iterable[AskedCall] = (), tool_call_id: str | None = None
) -> dict[str, object]:
    """A message of a prompt, before validation."""
    parts = (TextPart(text=text),) if text else ()
    return {"role": role, "parts": parts, "tool_calls": tuple(calls), "tool_call_id": tool_call_id}


def llm_call(
    request: Sampled,
    messages: Iterable[Mapping[str, object]],
    *,
    tools: Iterable[Function],
    constraint: Constraint | None,
    max_tokens: int | None,
    logprobs: bool,
    **sampling: object,
) -> LLMCall:
    """The call of one choice. Raises InvalidRequest for what the fields' own types could not tell."""
    drawn = {
        "max_tokens": max_tokens or _MOST_TOKENS,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "logprobs": (request.top_logprobs or 0) if logprobs else None,
        **sampling,
    }
    must = request.tool_choice is not None and request.tool_choice.mode in ("required", "function")
    try:
        return LLMCall(
            id="turn",
            stage="turn",
            model=request.model,
            messages=tuple(Message.model_validate(given) for given in messages),
            sampling=Sampling.model_validate(drawn),
            constraint=None if must else constraint,
            objective=_OBJECTIVES.get(request.service_tier),
            category=request.tenuto.category,
            adapter=request.tenuto.adapter,
            tools=tuple(tool.tool() for tool in tools),
            tool_choice=_choice(request.tool_choice),
        )
    except ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        text = first["msg"].removeprefix("Value error, ")
        pointer = "/" + "/".join(map(str, first["loc"])) if first["loc"] else ""
        error = FieldError(pointer=pointer, message=text, fix="correct the value as the message says")
        raise InvalidRequest(text, errors=(error,)) from None


def asked(
    request: Request, body: Sampled, calls: tuple[LLMCall, ...], results: Mapping[str, str], traceparent: str | None
) -> Asked:
    """The request as turns see it."""
    user = body.safety_identifier or body.user
    named = {name: value for name, value in body.metadata.items() if name != "program"}
    return Asked(
        calls=calls,
        name=identity.program_name(request.headers, body.tenuto, body.metadata),
        final=identity.is_final(request.headers, body.tenuto),
        workflow=body.tenuto.workflow or "chat",
        results=results,
        hints=identity.tool_hints(request.headers),
        metadata={**named, **({"user": user} if user and len(named) < 16 else {})},
        tenant=tenant(request),
        principal=principal(request),
        traceparent=traceparent,
    )


def schema_constraint(kind: str, schema: Schema | None) -> Constraint | None:
    """The constraint of an answer's format."""
    if kind == "json_object":
        return JsonConstraint(json_schema={"type": "object"})
    return None if schema is None else JsonConstraint(json_schema=schema.schema_)


def _choice(choice: Choice | None) -> str | NamedTool:
    if choice is None:
        return "auto"
    return NamedTool(name=choice.name) if choice.name is not None else choice.mode
