"""The records of the journal and their JSON form. Pure: no file is touched here.

`at_s` is on the program's own time axis (0 = accepted), `seq` the sequence number of the first event that the
recorded transition made: replaying the same transition makes the same events with the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson
from pydantic import JsonValue
from pydantic_core import from_json

from engine.protocol import TokenLogprob
from tenuto.wire import (
    CacheHit,
    ErrorValue,
    GraphExtension,
    ProgramStatus,
    ProgramSubmission,
    Recompute,
    TimelineSpan,
    WorkflowDefinition,
)

Cause: TypeAlias = Literal["client", "queue", "prefill", "recompute", "decode", "tool", "pause", "cache"]
Early: TypeAlias = Literal["foreseen", "partial", "shared", "kept"]
"""How a tool may have worked for a call before it was made: run ahead, begun on a part of its arguments, under way for
an equal call, or done for one."""
Span: TypeAlias = tuple[Cause, float, float]
"""Seconds with one cause: (cause, start, end) on the program's axis."""


@dataclass(frozen=True, slots=True)
class Cached:
    """How the semantic cache answered a call: the fields of the wire's `CacheHit`."""

    hit: int
    tier: Literal["exact", "semantic", "flight"]
    category: str
    similarity: float
    age_s: float
    saved_s: float
    saved_tokens: int
    entry: int | None = None

    def view(self) -> CacheHit:
        """As the protocol shows it."""
        return CacheHit.model_construct(**{name: getattr(self, name) for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What an engine had to read again of a call's prompt: the fields of the wire's `Recompute`."""

    tokens: int
    why: Literal["unleased", "expired", "pressure", "preempted"]
    left_by: str | None = None

    def view(self) -> Recompute:
        """As the protocol shows it."""
        return Recompute.model_construct(**{name: getattr(self, name) for name in self.__slots__})


class RunFacts(NamedTuple):
    """What is kept of how a call ran."""

    attempts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    spans: tuple[Span, ...] = ()
    cache: Cached | None = None
    behind: tuple[str, ...] = ()
    finish: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    recompute: Recomputed | None = None
    early: tuple[Early, float] | None = None

    def timeline(self) -> tuple[TimelineSpan, ...]:
        """The spans as the protocol shows them."""
        return tuple(TimelineSpan(cause=cause, start_s=start_s, end_s=end_s) for cause, start_s, end_s in self.spans)

    def stored(self) -> dict[str, Any]:
        """What is not as `RunFacts()` has it, by name."""
        kept: dict[str, Any] = {"attempts": self.attempts, "spans": self.spans}
        if self[1:4] != (0, 0, 0) or self[5:] != _NOTHING_MORE:
            kept |= self._asdict()
        return kept


_NOTHING_MORE = RunFacts()[5:]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A program was accepted. `submission` is its JSON. `span` is the traceparent of the program's own span,
    `traceparent` the client's. `key` is a digest of tenant and idempotency key, `body_hash` one of the body.
    `principal`: who of the tenant submitted it."""

    program: str
    tenant: str
    accepted_at: float
    submission: bytes
    span: str
    traceparent: str | None = None
    key: str | None = None
    body_hash: str | None = None
    principal: str | None = None

    def parse(self) -> ProgramSubmission:
        return ProgramSubmission.model_validate_json(self.submission)


@dataclass(frozen=True, slots=True)
class Extended:
    program: str
    extension: bytes
    seq: int
    at_s: float

    def parse(self) -> GraphExtension:
        return GraphExtension.model_validate_json(self.extension)


class Written(NamedTuple):
    """A call ended and its variable was written; `value` is its JSON."""

    program: str
    call: str
    value: bytes
    seq: int
    at_s: float
    facts: RunFacts

    def parse(self) -> JsonValue:
        value: JsonValue = from_json(self.value)
        return value


@dataclass(frozen=True, slots=True)
class Failed:
    """A call failed for good. Which calls were skipped for it follows from the graph."""

    program: str
    call: str
    error: ErrorValue
    seq: int
    at_s: float
    facts: RunFacts


class Intent(NamedTuple):
    """A call with an effect is about to be handed to a worker. Its end is its `Written` or `Failed`."""

    program: str
    call: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A new server went on with the program: its events go on from `seq`."""

    program: str
    seq: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """The program ended. Of a cancelled one, everything that had not ended was cancelled: `cut` says how far those
    calls had come that had begun."""

    program: str
    status: ProgramStatus
    seq: int
    at_s: float
    error: ErrorValue | None = None
    cut: tuple[tuple[str, RunFacts], ...] = ()


class WorkflowKept(NamedTuple):
    """A workflow was registered, or (without a definition) removed. It belongs to no program."""

    tenant: str
    name: str
    registered_at: float
    definition: bytes

    def parse(self) -> WorkflowDefinition | None:
        return WorkflowDefinition.model_validate_json(self.definition) if self.definition else None


Record: TypeAlias = Accepted | Extended | Written | Failed | Intent | Resumed | Ended
"""What belongs to a program."""


class Row(NamedTuple):
    """A record as stored. `name` is a call, or the key of an `accepted` record: neither can hold a NUL, which SQLite's
    JSON would cut. `facts` is JSON; `payload` is the client's own JSON (submission, extension, value), kept byte for
    byte."""

    program: str
    kind: str
    name: str | None
    facts: bytes
    payload: bytes


def encode(record: Record | WorkflowKept) -> Row:
    """The stored form of a record."""
    match record:
        case Written(program, call, value, seq, at_s, facts):
            return Row(program, "written", call, orjson.dumps((seq, at_s, facts.stored())), value)
        case Failed(program, call, error, seq, at_s, facts):
            return Row(program, "failed", call, orjson.dumps((seq, at_s, facts.stored(), error.model_dump())), b"")
        case Intent(program, call):
            return Row(program, "intent", call, b"[]", b"")
        case Extended(program, extension, seq, at_s):
            return Row(program, "extended", None, orjson.dumps((seq, at_s)), extension)
        case Resumed(program, seq, at_s):
            return Row(program, "resumed", None, orjson.dumps((seq, at_s)), b"")
        case Ended(program, status, seq, at_s, error, cut):
            told = error.model_dump() if error is not None else None
            ends = [(call, facts.stored()) for call, facts in cut]
            return Row(program, "ended", None, orjson.dumps((seq, at_s, status, told, ends)), b"")
        case WorkflowKept(tenant, name, registered_at, definition):
            return Row("", "workflow", None, orjson.dumps((tenant, name, registered_at)), definition)
        case Accepted():
            kept = {name: getattr(record, name) for name in _ACCEPTED_FACTS}
            return Row(record.program, "accepted", record.key, orjson.dumps(kept), record.submission)


_ACCEPTED_FACTS = ("tenant", "accepted_at", "span", "traceparent", "body_hash", "principal")


def decode(row: Row) -> Record:
    """The record of a stored row. Raises ValueError if the row was not written by `encode`."""
    try:
        return _decode(row)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"a record of kind {row.kind!r} of program {row.program!r} cannot be read: {error}") from error


def _decode(row: Row) -> Record:
    facts: Any = orjson.loads(row.facts)
    match row:
        case Row(program, "written", str(call), _, value):
            seq, at_s, run = facts
            return Written(program, call, value, seq, at_s, _run_facts(run))
        case Row(program, "failed", str(call)):
            seq, at_s, run, error = facts
            return Failed(program, call, ErrorValue.model_validate(error), seq, at_s, _run_facts(run))
        case Row(program, "intent", str(call)):
            return Intent(program, call)
        case Row(program, "extended", _, _, extension):
            return Extended(program, extension, *facts)
        case Row(program, "resumed"):
            return Resumed(program, *facts)
        case Row(program, "ended"):
            seq, at_s, status, told, cut = facts
            why = ErrorValue.model_validate(told) if told is not None else None
            runs = tuple((name, _run_facts(run)) for name, run in cut)
            return Ended(program, ProgramStatus(status), seq, at_s, why, runs)
        case Row(program, "accepted", key, _, submission):
            return Accepted(program, submission=submission, key=key, **facts)
    raise ValueError("this version does not know it")


def decode_workflow(row: Row) -> WorkflowKept:
    """The workflow of a stored row. Raises ValueError if the row is none."""
    tenant, name, registered_at = orjson.loads(row.facts)
    return WorkflowKept(tenant, name, registered_at, row.payload)


def _run_facts(stored: dict[str, Any]) -> RunFacts:
    spans = tuple((cause, start_s, end_s) for cause, start_s, end_s in stored.pop("spans"))
    cache = stored.pop("cache", None)  # absent in journals of earlier versions
    behind = tuple(stored.pop("behind", ()))
    logprobs = tuple(_logprob(token) for token in stored.pop("logprobs", ()))
    again = stored.pop("recompute", None)
    early = stored.pop("early", None)
    return RunFacts(
        **stored,
        spans=spans,
        cache=None if cache is None else Cached(**cache),
        behind=behind,
        logprobs=logprobs,
        recompute=None if again is None else Recomputed(**again),
        early=None if early is None else (early[0], early[1]),
    )


def _logprob(stored: dict[str, Any]) -> TokenLogprob:
    return TokenLogprob(**{**stored, "top": tuple(_logprob(token) for token in stored["top"])})
