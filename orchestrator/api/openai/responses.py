"""`POST /v1/responses`: a response is a turn of a program, and goes on from an earlier one by what its program kept."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Annotated, cast

from fastapi import APIRouter, Header, Request, Response
from pydantic import TypeAdapter

from orchestrator.api import bodies, examples
from orchestrator.api.openai.calls import asked, llm_call, message, schema_constraint
from orchestrator.api.openai.errors import GenerationFailed
from orchestrator.api.openai.fields import Choice, arguments_text, text_of
from orchestrator.api.openai.output import Output
from orchestrator.api.openai.reading import AnswerReader, read_answer
from orchestrator.api.openai.responses_types import (
    Incomplete,
    InputDetails,
    Item,
    ResponseError,
    ResponseEvent,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
)
from orchestrator.api.openai.streaming import streamed, whole
from orchestrator.api.openai.turns import Piece, Turn, Turns
from orchestrator.api.openapi import accepts, openai_errors, returns
from orchestrator.api.parts import Parts, parts_of, tenant
from orchestrator.api.problems import InvalidRequest
from orchestrator.api.sse import frame
from orchestrator.errors import NotFound
from tenuto.wire import AskedCall, CallView, FieldError, LLMCall, Message

router = APIRouter(prefix="/v1", tags=["openai"])

_REQUEST = TypeAdapter(ResponsesRequest)
_ID = re.compile(r"resp_([0-9a-f]{16,64})_(\d+)\Z")
_INSTRUCTED = "instructed"
"""Stage of a turn whose first message are instructions: they hold for this turn, not for those that go on from it."""

_Prompt = list[dict[str, object]]


@router.post(
    "/responses",
    summary="Respond, as OpenAI's clients do",
    openapi_extra=accepts(ResponsesRequest, examples.RESPONSES),
    responses={**returns(ResponseObject, also=("text/event-stream",)), **openai_errors(400, 404, 413, 415, 429, 503)},
)
async def respond(
    request: Request,
    traceparent: Annotated[str | None, Header(description="W3C trace context that the program continues")] = None,
) -> Response:
    """One turn of a program, as for chat completions. `previous_response_id` puts that response's prompt and output
    before the input, as far as the server still has its program."""
    parts = parts_of(request)
    body = bodies.parse(_REQUEST, await bodies.read(request, parts.limits.submission_bytes))
    before = [] if body.previous_response_id is None else await _before(parts, body.previous_response_id, request)
    _check_results(body.input, before)
    call = _call(body, before)
    results = {
        item.call_id: text_of(item.output)
        for item in body.input
        if item.type == "function_call_output" and item.call_id is not None
    }
    turn = await parts.turns.begin(asked(request, body, (call,), results, traceparent))
    if body.stream:
        return await streamed(parts, turn, _frames(parts.turns, turn, body))
    return await whole(request, parts, turn, _complete(parts.turns, turn, body))


# -- requests -----------------------------------------------------------------------------------


def _call(body: ResponsesRequest, before: _Prompt) -> LLMCall:
    form = body.text.format
    instructions = [message("system", body.instructions)] if body.instructions else []
    call = llm_call(
        body,
        [*instructions, *before, *_messages(body.input)],
        tools=body.tools,
        constraint=schema_constraint(form.type, form if form.type == "json_schema" else None),
        max_tokens=body.max_output_tokens,
        logprobs=bool(body.include) or body.top_logprobs is not None,
    )
    return call.model_copy(update={"stage": _INSTRUCTED}) if instructions else call


def _check_results(items: Sequence[Item], before: _Prompt) -> None:
    """Raises InvalidRequest for the result of a call that the conversation does not have."""
    known = {call.id for given in before for call in cast("tuple[AskedCall, ...]", given["tool_calls"])}
    known |= {item.call_id or "" for item in items if item.type == "function_call"}
    for index, item in enumerate(items):
        if item.type == "function_call_output" and item.call_id not in known:
            text = f"there is no function call {item.call_id!r} that this could be the output of"
            fix = "send its function_call too, or the previous_response_id of the response that made it"
            error = FieldError(pointer=f"/input/{index}/call_id", message=text, fix=fix)
            raise InvalidRequest(f"{text}: {fix}", errors=(error,))


def _messages(items: Iterable[Item]) -> Iterator[dict[str, object]]:
    """The input as chat messages: calls in a row belong to the assistant's message before them."""
    said: dict[str, object] | None = None
    called: list[AskedCall] = []
    for item in items:
        if item.type == "function_call":
            called.append(AskedCall(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "{}"))
            continue
        if said is not None or called:
            yield {**(said or message("assistant", "")), "tool_calls": tuple(called)}
            said, called = None, []
        if item.type == "function_call_output":
            yield message("tool", text_of(item.output), tool_call_id=item.call_id)
        elif item.role == "assistant":
            said = message("assistant", text_of(item.content))
        else:
            yield message("system" if item.role == "developer" else item.role or "user", text_of(item.content))
    if said is not None or called:
        yield {**(said or message("assistant", "")), "tool_calls": tuple(called)}


async def _before(parts: Parts, previous: str, request: Request) -> _Prompt:
    """The prompt of an earlier response, without its instructions, and what it answered. Raises NotFound."""
    runtime, owner = parts.runtime, tenant(request)
    match = _ID.match(previous)
    try:
        if match is None:
            raise NotFound("it is no id of a response that was stored")
        program = f"prog_{match[1]}"
        await runtime.recall(program, tenant=owner)
        call, values, _, _ = runtime.llm_call(program, f"turn{match[2]}", tenant=owner)
        if call.variable not in values:
            raise NotFound("it has not ended well")
    except NotFound as fault:
        error = FieldError(pointer="/previous_response_id", message=fault.detail, fix="send the whole conversation")
        raise NotFound(f"previous response {previous!r}: {fault.detail}", errors=(error,)) from None
    words, calls = read_answer(str(values[call.variable]), _offered(call))
    asked_for = [
        AskedCall(id=f"call_{match[1]}_{match[2]}_{index}", name=one.tool, arguments=arguments_text(one.arguments))
        for index, one in enumerate(calls)
    ]
    messages = call.messages[1:] if call.stage == _INSTRUCTED else call.messages
    return [*map(_fields, messages), message("assistant", words, calls=asked_for)]


def _fields(given: Message) -> dict[str, object]:
    return {name: getattr(given, name) for name in type(given).model_fields}


def _offered(call: LLMCall) -> list[str]:
    return [] if call.tool_choice == "none" else [tool.name for tool in call.tools]


def _reader(turn: Turn, body: ResponsesRequest) -> AnswerReader:
    return AnswerReader(_offered(turn.asked.calls[0]), one=not body.parallel_tool_calls)


# -- answers ------------------------------------------------------------------------------------


async def _complete(turns: Turns, turn: Turn, body: ResponsesRequest) -> ResponseObject:
    try:
        (ended,) = await turns.collect(turn)
    except GenerationFailed:
        await turns.finish(turn, ())
        raise
    output, reader = Output(turn), _reader(turn, body)
    parts = [*reader.feed(ended.text), *reader.close()]
    for _ in (*output.take(parts, ended.view.logprobs), *_close(output, ended.view)):
        pass  # nobody follows it
    await turns.finish(turn, output.calls)
    return _ended(turn, body, output, ended.view)


async def _frames(turns: Turns, turn: Turn, body: ResponsesRequest) -> AsyncGenerator[bytes, None]:
    """The response's events. Closing it before the end stops the generation. Raises RuntimeFault, and GenerationFailed
    as long as nothing was generated."""
    output, reader = Output(turn), _reader(turn, body)
    begun = over = False
    try:
        async for item in turns.follow(turn):
            if not begun:
                begun = True
                for type in ("response.created", "response.in_progress"):
                    yield _frame(output.told(type, _response(turn, body, output)))
            if isinstance(item, Piece):
                for event in output.take(reader.feed(item.text), item.logprobs):
                    yield _frame(event)
                continue
            for event in (*output.take(reader.close()), *_close(output, item.view)):
                yield _frame(event)
            await turns.finish(turn, output.calls)  # before the client can answer its calls
            over = True
            response = _ended(turn, body, output, item.view)
            yield _frame(output.told(f"response.{response.status}", response))
    except GenerationFailed as fault:
        over = True
        await turns.finish(turn, ())
        if not begun:
            raise
        error = ResponseError(code="server_error", message=fault.error.message)
        yield _frame(output.told("response.failed", _response(turn, body, output, status="failed", error=error)))
    finally:
        if not over:
            await turns.leave(turn)


def _close(output: Output, view: CallView) -> Iterator[ResponseEvent]:
    return output.close("incomplete" if view.finish == "length" else "completed")


def _frame(event: ResponseEvent) -> bytes:
    return frame(event.model_dump_json(exclude_none=True).encode(), event=event.type)


def _ended(turn: Turn, body: ResponsesRequest, output: Output, view: CallView) -> ResponseObject:
    usage = view.usage
    used = (usage.prompt_tokens, usage.cached_tokens, usage.output_tokens) if usage is not None else (0, 0, 0)
    cut = view.finish == "length"
    return _response(
        turn,
        body,
        output,
        status="incomplete" if cut else "completed",
        incomplete_details=Incomplete() if cut else None,
        usage=ResponseUsage(
            input_tokens=used[0],
            input_tokens_details=InputDetails(cached_tokens=used[1]),
            output_tokens=used[2],
            total_tokens=used[0] + used[2],
        ),
    )


def _response(
    turn: Turn, body: ResponsesRequest, output: Output, status: str = "in_progress", **fields: object
) -> ResponseObject:
    form = body.text.format
    return ResponseObject.model_validate(
        {
            "id": f"resp_{turn.name}" + ("" if body.store else "_unstored"),
            "created_at": turn.began_at,
            "status": status,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata,
            "model": body.model,
            "output": tuple(output.items),
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": body.previous_response_id,
            "store": body.store,
            "temperature": body.temperature,
            "text": {"format": form.model_dump(by_alias=True) if form.type == "json_schema" else {"type": form.type}},
            "tool_choice": _choice(body.tool_choice),
            "tools": tuple(tool.model_dump() for tool in body.tools),
            "top_p": body.top_p,
            **fields,
        }
    )


def _choice(choice: Choice | None) -> str | dict[str, str]:
    if choice is None:
        return "auto"
    return choice.mode if choice.name is None else {"type": "function", "name": choice.name}
