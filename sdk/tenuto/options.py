"""Options of calls and workflows: one definition for the decorators and for `.options(...)`.

Owns their names, types and checks. An unknown or ill-typed option is an error where it is written, never later.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tenuto.errors import InvalidArgument
from tenuto.wire import CacheControl, EffectClass, Objective, Retry, Sampling
from tenuto.wire.calls import Seconds, Tag
from tenuto.wire.values import Name

T = TypeVar("T")

Effects = Literal["read", "write", "exclusive"]
ObjectiveKind = Literal["latency", "throughput"]
CacheMode = Literal["off", "exact", "semantic"]


class CallOptions(TypedDict, total=False):
    """Options of every call. Times in seconds.

    `retries`: attempts after the first, or a `Retry` with its waits. `group`: siblings whose joint end matters.
    `after`: Vars of calls that must end first although no value of theirs is used. `expected_s`: a hint only.
    """

    timeout: float
    retries: int | Retry
    objective: ObjectiveKind | Objective
    group: str
    after: Iterable[Any]
    expected_s: float


class LLMOptions(CallOptions, total=False):
    """Options of an LLM call. `category`: kind of question, for the semantic cache's policy. `question`: the parameter
    that is the question: another wording of it may have the same answer, everything else must be equal. `cache`: how
    far the cache may go, or a `CacheControl`. `adapter`: the engine's LoRA adapter to answer with."""

    model: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: str | Iterable[str]
    category: str
    question: str
    cache: CacheMode | CacheControl
    adapter: str


class ToolOptions(CallOptions, total=False):
    """Options of a function call. `effects`: what it does to the world. `effect_key`: what a `write` changes, as text
    or as a function of the call's arguments. `idempotent`: a second run does no harm. `bumps`: what it makes stale in
    the semantic cache, besides the `effect_key` of a write."""

    effects: Effects | EffectClass
    effect_key: str | Callable[..., str]
    idempotent: bool
    bumps: str | Iterable[str]


class ToolDeclaration(ToolOptions, total=False):
    """What `@tool` takes beside the options of each call. Times in seconds.

    `concurrency`: calls at once in one process; `max_running`: wherever it runs. `queue_timeout`: from ready to
    started, `total_timeout`: all attempts. For `read` tools: `share` (default True): equal calls under way share a run;
    `cache`: how long a result may be given again; `speculate`: it may be run ahead when it is foreseen.
    `partial`: text parameters that it can begin on a part of.
    """

    concurrency: int
    max_running: int
    queue_timeout: float
    total_timeout: float
    share: bool
    cache: float
    partial: tuple[str, ...]
    speculate: bool


_CALL = ("timeout", "retries", "objective", "group", "after", "expected_s")
SAMPLING = (
    *("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
LLM_OPTIONS = (*_CALL, *SAMPLING, "model", "category", "question", "cache", "adapter")
CONSTRAINTS = ("regex", "grammar")
TOOL_OPTIONS = (*_CALL, "effects", "effect_key", "idempotent", "bumps")

_FORMS: dict[str, TypeAdapter[Any]] = {
    "timeout": TypeAdapter(Seconds),
    "expected_s": TypeAdapter(Seconds),
    "group": TypeAdapter(Name),
    "category": TypeAdapter(Name),
    "model": TypeAdapter(str),
    "adapter": TypeAdapter(str),
    "idempotent": TypeAdapter(bool, config=ConfigDict(strict=True)),
    "bumps": TypeAdapter(tuple[Tag, ...]),
    "cache": TypeAdapter(CacheControl),
    "effects": TypeAdapter(EffectClass),
}


def checked(options: Mapping[str, Any], known: Iterable[str], where: str, also: Iterable[str] = ()) -> dict[str, Any]:
    """Options in the wire's forms; those given as None are left out. Raises `InvalidArgument` naming the option.

    `also`: what may be written there too, and was taken out of `options` already."""
    known = tuple(known)
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            there = sorted({*known, *also})
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are: {', '.join(there)}"
            raise InvalidArgument(f"{where}: unknown option {name!r}; {hint}")
        if value is not None:
            found[name] = _form(name, value, where)
    _form_sampling(found, where)
    return found


def _form(name: str, value: Any, where: str) -> Any:
    if name == "retries":
        return retry_of(value, where)
    if name == "objective":
        return value if isinstance(value, Objective) else objective_of(value, None, where)
    if name == "stop":
        return (value,) if isinstance(value, str) else tuple(value)
    if name == "after":
        return tuple(value)
    if name == "bumps" and isinstance(value, str):
        return (value,)
    if name == "cache" and isinstance(value, str):
        value = {"mode": value}
    if name == "effect_key" and not isinstance(value, str) and not callable(value):
        raise InvalidArgument(f"{where}: effect_key is text or a function of the arguments, not {value!r}")
    if name not in _FORMS:
        return value
    try:
        return _FORMS[name].validate_python(value)
    except ValidationError as error:
        raise InvalidArgument(f"{where}: option {name}={value!r}: {error.errors()[0]['msg']}") from error


def _form_sampling(options: Mapping[str, Any], where: str) -> None:
    given = {name: options[name] for name in SAMPLING if name in options}
    try:
        Sampling(**given)
    except ValidationError as error:
        fault = error.errors()[0]
        name = fault["loc"][0]
        raise InvalidArgument(f"{where}: option {name}={given.get(str(name))!r}: {fault['msg']}") from error


def retry_of(value: int | Retry, where: str) -> Retry:
    """`retries=n` is n attempts after the first."""
    if isinstance(value, Retry):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 20:
        raise InvalidArgument(f"{where}: option retries={value!r}: give a whole number from 0 to 19, or a Retry")
    return Retry(attempts=value + 1)


def objective_of(kind: str | Objective | None, deadline_s: float | None, where: str) -> Objective:
    """`"latency"` (the default), `"throughput"`, or a deadline in seconds after the program was accepted."""
    if isinstance(kind, Objective):
        if deadline_s is not None:
            raise InvalidArgument(f"{where}: give either an Objective or a deadline")
        return kind
    if deadline_s is not None and kind is not None:
        raise InvalidArgument(f"{where}: a deadline is an objective of its own: leave objective={kind!r} out")
    try:
        if deadline_s is not None:
            return Objective(kind="deadline", deadline_s=deadline_s)
        return Objective.model_validate({"kind": kind or "latency"})
    except ValidationError as error:
        fault = error.errors()[0]
        shown = f"deadline={deadline_s!r}" if deadline_s is not None else f"objective={kind!r}"
        raise InvalidArgument(f"{where}: {shown}: {fault['msg']}") from error
