"""The events of a program: what `GET /v1/programs/{id}/events` streams.

`seq` starts at 1 and grows per program, by one except at a restart of the server, which leaves a gap; it is the SSE
id, so `Last-Event-ID` resumes exactly.
"""

from enum import StrEnum

from pydantic import Field, JsonValue

from tenuto.wire.base import WireModel
from tenuto.wire.programs import CacheHit, ErrorValue, LargeValue, TokenLogprob


class EventKind(StrEnum):
    PROGRAM_ACCEPTED = "program.accepted"
    PROGRAM_EXTENDED = "program.extended"
    PROGRAM_SEALED = "program.sealed"
    CALL_READY = "call.ready"
    CALL_STARTED = "call.started"
    CALL_TOKENS = "call.tokens"
    CALL_RETRYING = "call.retrying"
    CALL_ENDED = "call.ended"
    CALL_FAILED = "call.failed"
    CALL_SKIPPED = "call.skipped"
    CALL_CANCELLED = "call.cancelled"
    VARIABLE_WRITTEN = "variable.written"
    PROGRAM_SUCCEEDED = "program.succeeded"
    PROGRAM_FAILED = "program.failed"
    PROGRAM_CANCELLED = "program.cancelled"


TERMINAL_EVENTS = frozenset({EventKind.PROGRAM_SUCCEEDED, EventKind.PROGRAM_FAILED, EventKind.PROGRAM_CANCELLED})


class Event(WireModel):
    """One thing that happened. Which fields are set depends on the kind:

    `call.*` set `call`; `call.tokens` sets `text` (the new piece) and `attempt`; `variable.written`
    sets `variable`, `call` (absent for inputs) and `value`, or `large` in its place; failures set `error`;
    `call.started` and `call.ended` set `cache` when the semantic cache answered. A retry starts the text of its
    variable anew: readers drop pieces of earlier attempts.
    """

    seq: int
    at_s: float = Field(description="seconds since the program was accepted")
    kind: EventKind
    call: str | None = None
    variable: str | None = None
    attempt: int = 0
    text: str | None = None
    value: JsonValue = None
    error: ErrorValue | None = None
    cache: CacheHit | None = None
    large: LargeValue | None = None
    logprobs: tuple[TokenLogprob, ...] | None = Field(default=None, description="of the tokens of `text`, if asked for")
