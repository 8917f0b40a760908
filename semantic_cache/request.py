"""What the cache is asked and told: requests, answers, and the two keys of a call.

Owns which parts of a call must match exactly (the partition) and what may never be answered or kept. Pure: no
I/O, no clock.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pydantic import JsonValue

from semantic_cache.errors import InvalidRequest
from tenuto.wire import JsonType, LLMCall, Sampling, TextPart, VariablePart

MAX_QUESTION_CHARS = 20_000
MAX_TAGS = 64
_NAME_CHARS = 200

Mode: TypeAlias = Literal["off", "exact", "semantic"]


@dataclass(frozen=True, slots=True)
class QuestionHole:
    """Where the question stands in a message. All that surrounds it must match exactly."""


Piece: TypeAlias = str | QuestionHole
PromptMessage: TypeAlias = tuple[str, tuple[Piece, ...]]
"""Role, and the message's text cut at the places of the question."""


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """One LLM call as the cache sees it.

    `tenant`, `model` (the exact weights that would answer), `adapter`, `template`, `messages` without the
    question, `variables` that no message shows, `tools`, `output` (schema or constraint) and `sampling` make the
    partition. `principal` is the authenticated caller; without one nothing is written and only what is shared is
    read. `tags` names what the answer depends on (a table, a document, a tool) with a version, or "" where the
    version is not known and `bump` tells of changes. `question` None: no variable is marked, exact tier only.
    """

    tenant: str
    model: str
    messages: tuple[PromptMessage, ...]
    question: str | None = None
    principal: str | None = None
    adapter: str | None = None
    template: str | None = None
    variables: Mapping[str, JsonValue] = field(default_factory=dict)
    tools: tuple[JsonValue, ...] = ()
    output: JsonValue = None
    sampling: Sampling = field(default_factory=Sampling)
    category: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    mode: Mode = "semantic"
    keep: bool = True
    max_age_s: float | None = None
    examples: int = 0
    effects: bool = False
    pending_tools: bool = False

    def __post_init__(self) -> None:
        for name in ("tenant", "model"):
            _require(bool(getattr(self, name)), name, "must not be empty")
        for name in ("tenant", "model", "principal", "adapter", "template", "category"):
            value = getattr(self, name)
            _require(value is None or len(value) <= _NAME_CHARS, name, f"is longer than {_NAME_CHARS} characters")
        _require(len(self.tags) <= MAX_TAGS, "tags", f"are more than {MAX_TAGS}")
        _require(all(0 < len(tag) <= _NAME_CHARS for tag in self.tags), "tags", "hold an empty or overlong name")
        _require(self.max_age_s is None or self.max_age_s >= 0, "max_age_s", "is negative")
        _require(0 <= self.examples <= 8, "examples", "must lie in 0..8")
        holes = any(isinstance(piece, QuestionHole) for _, pieces in self.messages for piece in pieces)
        _require(holes == (self.question is not None), "question", "and the holes of the messages do not go together")


def _require(holds: bool, field_name: str, message: str) -> None:
    if not holds:
        raise InvalidRequest(f"{field_name} {message}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine gave, and what it cost: `seconds` of the whole call, tokens in and out.

    Only an answer whose `finish` is "stop" and which calls no function can be kept.
    """

    value: JsonValue
    finish: Literal["stop", "length", "error", "cancelled"] = "stop"
    function_calls: bool = False
    seconds: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def __post_init__(self) -> None:
        _require(self.seconds >= 0 and self.prompt_tokens >= 0 and self.output_tokens >= 0, "cost", "is negative")


@dataclass(frozen=True, slots=True)
class Keys:
    """`partition` (16 bytes): all that must match exactly. `exact` (16 bytes): the same and the question.
    `texts`: what the partition is made of."""

    partition: bytes
    exact: bytes
    texts: Mapping[str, bytes]

    @property
    def parts(self) -> dict[str, str]:
        """Short digests of the partition's parts, to explain why two calls do not share one."""
        return {name: hashlib.sha256(text).hexdigest()[:12] for name, text in self.texts.items()}


def normalised(question: str) -> str:
    """The question as the exact tier compares it: canonical Unicode (NFC), one kind of line end, no outer space.

    Nothing that a reader could tell apart is made equal: case, inner spaces and ² for 2 stay as they are.
    """
    return unicodedata.normalize("NFC", question.replace("\r\n", "\n").replace("\r", "\n")).strip()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: object) -> bytes:
    """The one JSON text of a value. Raises InvalidRequest for what JSON cannot say (NaN, unknown types)."""
    try:
        return _ENCODER.encode(value).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"a part of the call is not a JSON value: {error}") from None


def keys_of(request: CacheRequest, *, private: bool = False) -> Keys:
    """Partition and exact key of a request; `private` makes the principal a part of both.

    SHA-256 over one canonical JSON document, so no two different calls can be confused by how texts are joined.
    """
    parts: dict[str, object] = {
        "tenant": request.tenant,
        "principal": request.principal if private else None,
        "model": request.model,
        "adapter": request.adapter,
        "template": request.template,
        "messages": [[role, [_piece(p) for p in pieces]] for role, pieces in request.messages],
        "variables": dict(request.variables),
        "tools": list(request.tools),
        "output": request.output,
        "sampling": _sampling_key(request.sampling),
        "versions": {tag: version for tag, version in request.tags.items() if version},
    }
    encoded = {name: canonical(value) for name, value in parts.items()}
    digest = hashlib.sha256()
    for name, text in encoded.items():
        digest.update(b"%s %d\n" % (name.encode(), len(text)))
        digest.update(text)
    partition = digest.digest()[:16]
    exact = hashlib.sha256(partition + b"?" + canonical(_question_key(request))).digest()[:16]
    return Keys(partition, exact, encoded)


def _piece(piece: Piece) -> object:
    return piece if isinstance(piece, str) else {"question": True}


def _question_key(request: CacheRequest) -> str | None:
    return None if request.question is None else normalised(request.question)


def _sampling_key(sampling: Sampling) -> dict[str, object]:
    """Greedy decoding draws nothing, so what steers the draw cannot tell two greedy calls apart."""
    key = sampling.model_dump(mode="json")
    if sampling.temperature == 0:
        for name in ("seed", "top_p", "top_k", "min_p"):
            del key[name]
    return key


def barred(request: CacheRequest, temperature_limit: float) -> str | None:
    """Why this call may neither be answered from the cache nor kept in it; None when it may."""
    if request.mode == "off":
        return "off"
    if request.effects:
        return "effects"
    if request.pending_tools:
        return "pending_tools"
    if request.sampling.temperature > temperature_limit:
        return "temperature"
    return None


def unfit(answer: Answer, max_bytes: int) -> str | None:
    """Why this answer may not be kept or given to anyone else; None when it may."""
    if answer.finish != "stop":
        return f"finish_{answer.finish}"
    if answer.function_calls:
        return "function_calls"
    if len(canonical(answer.value)) > max_bytes:
        return "too_large"
    return None


def request_for_call(
    call: LLMCall,
    values: Mapping[str, JsonValue],
    *,
    tenant: str,
    model: str,
    principal: str | None = None,
    question: str | None = None,
    adapter: str | None = None,
    workflow: str | None = None,
    tools: Iterable[JsonValue] = (),
    tags: Mapping[str, str] | None = None,
    mode: Mode = "semantic",
    keep: bool = True,
    max_age_s: float | None = None,
    examples: int = 0,
    effects: bool = False,
    pending_tools: bool = False,
) -> CacheRequest:
    """The request of a wire `LLMCall` whose variables have their `values`.

    `question` names the variable that is the question; its value must be text. Every other variable that the
    prompt reads becomes a part of the partition, by its value at the place where it stands.
    Raises InvalidRequest: the question is not text, is read in part (a path), or a variable has no value.
    """
    asked = values.get(question) if question is not None else None
    _require(question is None or isinstance(asked, str), "question", f"variable {question!r} is not text")
    output = call.type.json_schema if isinstance(call.type, JsonType) else None
    if call.constraint is not None:
        output = call.constraint.model_dump(mode="json")
    return CacheRequest(
        tenant=tenant,
        model=model,
        messages=tuple((m.role, tuple(_resolve(part, values, question) for part in m.parts)) for m in call.messages),
        question=asked if isinstance(asked, str) else None,
        principal=principal,
        adapter=adapter,
        template=f"{workflow}/{call.stage}" if workflow and call.stage else None,
        tools=tuple(tools),
        output=output,
        sampling=call.sampling,
        category=call.category,
        tags=tags or {},
        mode=mode,
        keep=keep,
        max_age_s=max_age_s,
        examples=examples,
        effects=effects,
        pending_tools=pending_tools,
    )


def _resolve(part: TextPart | VariablePart, values: Mapping[str, JsonValue], question: str | None) -> Piece:
    if isinstance(part, TextPart):
        return part.text
    if part.variable == question:
        _require(not part.path, "question", f"variable {question!r} is read in part; only a whole text can be one")
        return QuestionHole()
    _require(part.variable in values, "values", f"lack the variable {part.variable!r}")
    value = values[part.variable]
    for step in part.path:
        try:
            value = value[step]  # type: ignore[index]  # wrong steps are reported below
        except (KeyError, IndexError, TypeError):
            raise InvalidRequest(f"values: {part.variable!r} has nothing at {list(part.path)!r}") from None
    return value if isinstance(value, str) else canonical(value).decode("utf-8", "surrogatepass")
