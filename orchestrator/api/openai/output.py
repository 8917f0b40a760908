"""The output of a response as it grows: a model's words and calls as items, and the events that tell of them.

One response, streamed or not. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dag.plan import EmittedCall
from orchestrator.api.openai.fields import arguments_text
from orchestrator.api.openai.reading import Part
from orchestrator.api.openai.responses_types import (
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputLogprob,
    OutputMessage,
    OutputText,
    ResponseEvent,
    ResponseObject,
)
from orchestrator.api.openai.turns import Turn
from tenuto.wire import TokenLogprob


class Output:
    """The items so far. Words in a row are one message; whitespace around calls is none."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._seq = -1
        self._open: str | None = None
        self._words = ""
        self._logprobs: list[OutputLogprob] = []
        self.items: list[OutputItem] = []
        self.calls: list[EmittedCall] = []

    def told(self, type: str, response: ResponseObject) -> ResponseEvent:
        """An event about the response as a whole."""
        return self._event(type, response=response)

    def take(self, parts: Sequence[Part], logprobs: Iterable[TokenLogprob] = ()) -> Iterator[ResponseEvent]:
        """What the next parts of the answer add; `logprobs` of their tokens."""
        new = tuple(logprob_view(token) for token in logprobs)
        for part in parts:
            if isinstance(part, str):
                yield from self._take_words(part, new)
                new = ()
            else:
                yield from self.close("completed")
                yield from self._call(part)

    def _take_words(self, text: str, logprobs: tuple[OutputLogprob, ...]) -> Iterator[ResponseEvent]:
        self._words += text
        self._logprobs += logprobs
        if self._open is None:
            if not self._words.strip():
                return
            text = self._words = self._words.lstrip() if self.calls else self._words
            self._open = f"msg_{self._turn.name}_{len(self.items)}"
            message = OutputMessage(id=self._open, status="in_progress", content=())
            yield self._event("response.output_item.added", output_index=len(self.items), item=message)
            yield self._piece("response.content_part.added", part=OutputText(text=""))
        yield self._piece("response.output_text.delta", delta=text, logprobs=logprobs)

    def close(self, status: ItemStatus) -> Iterator[ResponseEvent]:
        """The open message has ended, if there is one."""
        words, self._words = self._words, ""
        logprobs, self._logprobs = tuple(self._logprobs), []
        if self._open is None:
            return
        part = OutputText(text=words, logprobs=logprobs)
        message = OutputMessage(id=self._open, status=status, content=(part,))
        yield self._piece("response.output_text.done", text=words, logprobs=logprobs)
        yield self._piece("response.content_part.done", part=part)
        yield self._event("response.output_item.done", output_index=len(self.items), item=message)
        self.items.append(message)
        self._open = None

    def _call(self, call: EmittedCall) -> Iterator[ResponseEvent]:
        call_id = self._turn.tool_call_id(0, len(self.calls))
        item = OutputCall(
            id=f"fc_{call_id.removeprefix('call_')}",
            call_id=call_id,
            name=call.tool,
            arguments=arguments_text(call.arguments),
            status="completed",
        )
        at, text = len(self.items), item.arguments
        begun = item.model_copy(update={"arguments": "", "status": "in_progress"})
        about = {"output_index": at, "item_id": item.id}
        yield self._event("response.output_item.added", output_index=at, item=begun)
        yield self._event("response.function_call_arguments.delta", delta=text, **about)
        yield self._event("response.function_call_arguments.done", arguments=text, name=call.tool, **about)
        yield self._event("response.output_item.done", output_index=at, item=item)
        self.items.append(item)
        self.calls.append(call)

    def _piece(self, type: str, **fields: object) -> ResponseEvent:
        """An event about the open message's text."""
        return self._event(type, item_id=self._open, output_index=len(self.items), content_index=0, **fields)

    def _event(self, type: str, **fields: object) -> ResponseEvent:
        self._seq += 1
        return ResponseEvent.model_validate({"type": type, "sequence_number": self._seq, **fields})


def logprob_view(token: TokenLogprob) -> OutputLogprob:
    """A log probability as this API shows it."""
    top = tuple(map(logprob_view, token.top))
    return OutputLogprob(token=token.text, logprob=token.logprob, bytes=tuple(token.text.encode()), top_logprobs=top)
