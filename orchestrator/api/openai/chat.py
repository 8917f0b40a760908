"""`POST /v1/chat/completions`: a chat request as a turn of a program, and the turn's answer as a chat completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import TypeAdapter

from dag.plan import EmittedCall
from orchestrator.api import bodies, examples
from orchestrator.api.openai.calls import asked, llm_call, message, schema_constraint
from orchestrator.api.openai.chat_types import (
    AnsweredCall,
    AnswerMessage,
    CachedTokens,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    ChatRequest,
    ChatUsage,
    ChunkChoice,
    Delta,
    FinishWord,
    TopLogprob,
)
from orchestrator.api.openai.errors import GenerationFailed
from orchestrator.api.openai.fields import arguments_text, text_of
from orchestrator.api.openai.reading import AnswerReader, Part, read_answer
from orchestrator.api.openai.streaming import streamed, whole
from orchestrator.api.openai.turns import Ended, Piece, Turn, Turns
from orchestrator.api.openapi import accepts, openai_errors, returns
from orchestrator.api.parts import parts_of
from tenuto.wire import AskedCall, CallView, LLMCall, TokenLogprob

router = APIRouter(prefix="/v1", tags=["openai"])

_REQUEST = TypeAdapter(ChatRequest)
_DONE = b"data: [DONE]\n\n"


@router.post(
    "/chat/completions",
    summary="Chat, as OpenAI's clients do",
    openapi_extra=accepts(ChatRequest, examples.CHATS),
    responses={**returns(ChatCompletion, also=("text/event-stream",)), **openai_errors(400, 404, 413, 415, 429, 503)},
)
async def chat(
    request: Request,
    traceparent: Annotated[str | None, Header(description="W3C trace context that the program continues")] = None,
) -> Response:
    """One turn of a program. Its program is named by `X-Program-Id` (or `tenuto.program`, or `metadata.program`), else
    found by the tool calls whose results it brings, else it is a program of its own."""
    parts = parts_of(request)
    body = bodies.parse(_REQUEST, await bodies.read(request, parts.limits.submission_bytes))
    turn = await parts.turns.begin(asked(request, body, _calls(body), _results(body), traceparent))
    if body.stream:
        return await streamed(parts, turn, _frames(parts.turns, turn, body))
    return await whole(request, parts, turn, _complete(parts.turns, turn, body))


# -- requests -----------------------------------------------------------------------------------


def _calls(body: ChatRequest) -> tuple[LLMCall, ...]:
    """An LLM call for each choice."""
    form = body.response_format
    call = llm_call(
        body,
        [
            message(
                "system" if given.role == "developer" else given.role,
                text_of(given.content) or (given.refusal or ""),
                calls=(
                    AskedCall(id=call.id, name=call.function.name, arguments=call.function.arguments)
                    for call in given.tool_calls
                ),
                tool_call_id=given.tool_call_id,
            )
            for given in body.messages
        ],
        tools=[tool.function for tool in body.tools],
        constraint=schema_constraint(form.type, form.json_schema),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=body.logprobs,
        stop=body.stop,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias={int(token): bias for token, bias in body.logit_bias.items()},
    )
    return tuple(call.model_copy(update={"sampling": _drawn(call, body.seed, choice)}) for choice in range(body.n))


def _drawn(call: LLMCall, seed: int | None, choice: int) -> object:
    """The call's sampling for one choice: choices of one seed differ."""
    return call.sampling if seed is None else call.sampling.model_copy(update={"seed": (seed + choice) % 2**63})


def _results(body: ChatRequest) -> dict[str, str]:
    return {given.tool_call_id: text_of(given.content) for given in body.messages if given.tool_call_id is not None}


def _reader(body: ChatRequest) -> AnswerReader:
    return AnswerReader(_offered(body), one=not body.parallel_tool_calls)


def _offered(body: ChatRequest) -> list[str]:
    if body.tool_choice is not None and body.tool_choice.mode == "none":
        return []
    return [tool.function.name for tool in body.tools]


# -- whole answers ------------------------------------------------------------------------------


async def _complete(turns: Turns, turn: Turn, body: ChatRequest) -> ChatCompletion:
    try:
        ended = await turns.collect(turn)
    except GenerationFailed:
        await turns.finish(turn, ())
        raise
    read = [read_answer(choice.text, _offered(body), one=not body.parallel_tool_calls) for choice in ended]
    await turns.finish(turn, read[0][1])
    choices = (_choice(turn, one, words, calls) for one, (words, calls) in zip(ended, read, strict=True))
    return ChatCompletion(
        id=f"chatcmpl-{turn.name}",
        created=int(turn.began_at),
        model=body.model,
        choices=tuple(choices),
        usage=_usage(one.view for one in ended),
    )


def _choice(turn: Turn, ended: Ended, words: str, calls: list[EmittedCall]) -> ChatChoice:
    called = tuple(_called(turn, ended.choice, index, call) for index, call in enumerate(calls)) or None
    return ChatChoice(
        index=ended.choice,
        message=AnswerMessage(content=words if words or called is None else None, tool_calls=called),
        logprobs=_logprobs(ended.view.logprobs),
        finish_reason=_finish(ended.view, bool(calls)),
    )


def _called(turn: Turn, choice: int, index: int, call: EmittedCall) -> AnsweredCall:
    function = CalledFunction(name=call.tool, arguments=arguments_text(call.arguments))
    return AnsweredCall(id=turn.tool_call_id(choice, index), function=function)


def _finish(view: CallView, called: bool) -> FinishWord:
    if called:
        return "tool_calls"
    return "length" if view.finish == "length" else "stop"


def _usage(views: Iterable[CallView]) -> ChatUsage:
    """Tokens of all choices; their common prompt counts once. An answer from the cache cost none."""
    used = [view.usage for view in views if view.usage is not None]
    prompt = max((usage.prompt_tokens for usage in used), default=0)
    output = sum(usage.output_tokens for usage in used)
    return ChatUsage(
        prompt_tokens=prompt,
        completion_tokens=output,
        total_tokens=prompt + output,
        prompt_tokens_details=CachedTokens(cached_tokens=used[0].cached_tokens if used else 0),
    )


def _logprobs(tokens: Iterable[TokenLogprob]) -> ChatLogprobs | None:
    content = tuple(
        ChatLogprob(
            token=token.text,
            logprob=token.logprob,
            bytes=_bytes(token.text),
            top_logprobs=tuple(
                TopLogprob(token=top.text, logprob=top.logprob, bytes=_bytes(top.text)) for top in token.top
            ),
        )
        for token in tokens
    )
    return ChatLogprobs(content=content) if content else None


def _bytes(text: str) -> tuple[int, ...] | None:
    """A token's bytes, if it is a whole number of characters."""
    return None if "\ufffd" in text else tuple(text.encode())


# -- streamed answers ---------------------------------------------------------------------------


async def _frames(turns: Turns, turn: Turn, body: ChatRequest) -> AsyncGenerator[bytes, None]:
    """The answer's events. Closing it before the end stops the generation. Raises GenerationFailed, RuntimeFault."""
    choices = [_Choice(turn, choice, _reader(body)) for choice in range(len(turn.calls))]
    views: list[CallView] = []
    over = False
    try:
        async for item in turns.follow(turn):
            choice = choices[item.choice]
            if isinstance(item, Piece):
                chunks = choice.take(item)
            else:
                chunks = choice.rest()
                views.append(item.view)
                if len(views) == len(choices):
                    await turns.finish(turn, choices[0].calls)  # before the client can answer its calls
                    over = True
                chunks.append(choice.end(item.view))
            for chunk in chunks:
                yield _frame(turn, body, (chunk,))
        if body.stream_options is not None and body.stream_options.include_usage:
            yield _frame(turn, body, (), _usage(views))
        yield _DONE
    except GenerationFailed:
        over = True
        await turns.finish(turn, ())
        raise
    finally:
        if not over:
            await turns.leave(turn)


class _Choice:
    """One choice while it is streamed."""

    def __init__(self, turn: Turn, index: int, reader: AnswerReader) -> None:
        self._turn = turn
        self._index = index
        self._reader = reader
        self._begun = False
        self._logprobs: list[TokenLogprob] = []
        self.calls: list[EmittedCall] = []

    def take(self, piece: Piece) -> list[ChunkChoice]:
        self._logprobs += piece.logprobs
        return self._chunks(self._reader.feed(piece.text))

    def rest(self) -> list[ChunkChoice]:
        return self._chunks(self._reader.close())

    def end(self, view: CallView) -> ChunkChoice:
        return ChunkChoice(
            index=self._index, delta=self._delta(), logprobs=self._told(), finish_reason=_finish(view, bool(self.calls))
        )

    def _chunks(self, parts: list[Part]) -> list[ChunkChoice]:
        chunks = []
        for part in parts:
            if isinstance(part, str):
                delta = self._delta(content=part)
            else:
                called = _called(self._turn, self._index, len(self.calls), part)
                delta = self._delta(calls=(called.model_copy(update={"index": len(self.calls)}),))
                self.calls.append(part)
            chunks.append(ChunkChoice(index=self._index, delta=delta, logprobs=self._told()))
        return chunks

    def _delta(self, content: str | None = None, calls: tuple[AnsweredCall, ...] | None = None) -> Delta:
        role, self._begun = (None if self._begun else "assistant"), True
        return Delta(role="assistant" if role else None, content=content, tool_calls=calls)

    def _told(self) -> ChatLogprobs | None:
        """The log probabilities that were not sent yet."""
        tokens, self._logprobs = self._logprobs, []
        return _logprobs(tokens)


def _frame(turn: Turn, body: ChatRequest, choices: tuple[ChunkChoice, ...], usage: ChatUsage | None = None) -> bytes:
    chunk = ChatChunk(
        id=f"chatcmpl-{turn.name}", created=int(turn.began_at), model=body.model, choices=choices, usage=usage
    )
    return b"data: %s\n\n" % chunk.model_dump_json(exclude_none=True).encode()
