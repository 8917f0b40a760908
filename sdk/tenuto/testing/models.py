"""Models that need no engine: scripted, echoing, noisy, recorded. They answer prompts inside the client's worker.

Own their answers. Never pretend to be more than they are: a prompt they have no answer for is an error that says so.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from pydantic_core import to_jsonable_python

from tenuto.client import AsyncClient
from tenuto.context import current_client
from tenuto.doubles import Override, current_override
from tenuto.errors import CallFailed, NoClient
from tenuto.testing.schema import minimal_value
from tenuto.wire import (
    Graph,
    JsonType,
    LLMCall,
    Message,
    ModelTask,
    ProgramSubmission,
    TextPart,
    TextType,
    VariableStatus,
)

Answer = Any
"""Text as a model would write it, or a value (pydantic model, dict, list, number, enum, None) to be written as JSON.
An exception instance is raised: the call fails."""


class ModelDouble(Protocol):
    """What stands in for a model: from a rendered prompt to an answer, sync or async."""

    def __call__(self, task: ModelTask, /) -> Answer | Awaitable[Answer]: ...


D = TypeVar("D", bound=ModelDouble)


@contextmanager
def override(model: D) -> Iterator[D]:
    """Programs started inside send every LLM call to `model`, whatever model they ask for."""

    async def answer(task: ModelTask) -> str:
        return as_text(await answered(model, task), task)

    label = re.sub(r"[^A-Za-z0-9_.-]", "-", getattr(model, "__name__", type(model).__name__)).lower()
    token = current_override.set(Override(answer, label))
    try:
        yield model
    finally:
        current_override.reset(token)


async def answered(model: ModelDouble, task: ModelTask) -> Answer:
    """A double's answer. Raises the exception that it gave as one."""
    answer = model(task)
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


def as_text(answer: Answer, task: ModelTask) -> str:
    """What the model would have generated. Where JSON is asked for, text that is no JSON stands for a JSON string."""
    if type(answer) is str:
        if task.json_schema is None or _is_json(answer):
            return answer
        return json.dumps(answer, ensure_ascii=False)
    return json.dumps(to_jsonable_python(answer, by_alias=True), ensure_ascii=False, separators=(",", ":"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


class ScriptedModel:
    """Answers by stage, the name of the `@llm` function: an answer for every call, a list to be used up in order of
    arrival, or a function of the task. `default` answers other stages. `calls` keeps every task that was asked.
    """

    def __init__(
        self, answers: Mapping[str, Answer] | Callable[[ModelTask], Any] | Sequence[Answer], *, default: Answer = None
    ) -> None:
        self._answers = answers
        self._default = default
        self._used: defaultdict[str, int] = defaultdict(int)
        self.calls: list[ModelTask] = []

    def __call__(self, task: ModelTask) -> Answer | Awaitable[Answer]:
        self.calls.append(task)
        stage = task.stage or task.call
        if isinstance(self._answers, Mapping):
            script = self._answers.get(stage, self._default)
            if script is None and stage not in self._answers:
                known = ", ".join(sorted(self._answers)) or "nothing"
                raise LookupError(f"ScriptedModel has no answer for stage {stage!r}; it has: {known}")
        else:
            script, stage = self._answers, "*"
        if callable(script):
            return script(task)
        if isinstance(script, list):
            return self._next(stage, script)
        return script

    def _next(self, stage: str, script: list[Answer]) -> Answer:
        place = self._used[stage]
        self._used[stage] += 1
        if place >= len(script):
            raise LookupError(f"ScriptedModel has {len(script)} answers for stage {stage!r}, and was asked once more")
        return script[place]

    def prompts(self, stage: str) -> list[str]:
        """The last message of each prompt of a stage, in order of arrival."""
        return [task.messages[-1].content for task in self.calls if task.stage == stage]


class EchoModel:
    """The smallest value that the call's schema admits; for text, the last message itself."""

    def __call__(self, task: ModelTask) -> Answer:
        if task.constraint is not None:
            raise LookupError(f"EchoModel cannot make a sentence of a {task.constraint.kind}: script an answer instead")
        if task.json_schema is None:
            return task.messages[-1].content
        return json.dumps(minimal_value(task.json_schema), ensure_ascii=False)


class NoisyModel:
    """Answers as `oracle` with probability 1 - p, else as `wrong` (by default the smallest value of the schema).

    The draw depends on (seed, call, prompt, attempt) alone: never on order or time, so that a run can be repeated, and
    a retry may go better.
    """

    def __init__(self, oracle: ModelDouble, p: float, *, seed: int = 0, wrong: ModelDouble | None = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability, not {p!r}")
        self._oracle = oracle
        self._p = p
        self._seed = seed
        self._wrong = wrong if wrong is not None else EchoModel()

    async def __call__(self, task: ModelTask) -> Answer:
        draw = Random(f"{self._seed}:{task.attempt}:{task.call}:{prompt_key(task)}").random()
        return await answered(self._wrong if draw < self._p else self._oracle, task)


class _Recorded(NamedTuple):
    call: str
    answer: str


class RecordedModel:
    """Answers from a file, or writes one.

    `record` asks `source` (by default the server's real engine) and appends each answer to `path`. `replay` gives the
    answers of equal prompts: first those of the same call, then others in the order they were recorded, and in the end
    the last one again. Equal: same stage, messages, sampling (but the seed), schema and constraint. The file has one
    JSON object per line.
    """

    def __init__(
        self, path: str | Path, mode: Literal["record", "replay"] = "replay", *, source: ModelDouble | None = None
    ) -> None:
        if mode not in ("record", "replay"):
            raise ValueError(f"mode is 'record' or 'replay', not {mode!r}")
        if mode == "replay" and source is not None:
            raise ValueError("replay asks nobody: leave source out")
        self._path = Path(path)
        self._source: ModelDouble = source if source is not None else EngineModel()
        self._mode = mode
        self._unused: defaultdict[str, list[_Recorded]] = defaultdict(list)
        self._last: dict[str, _Recorded] = {}
        if mode == "record":
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("", encoding="utf-8")
        else:
            self._load()

    def _load(self) -> None:
        for number, line in enumerate(self._path.read_text(encoding="utf-8").split("\n"), start=1):
            if line:
                try:
                    entry = json.loads(line)
                    self._unused[entry["key"]].append(_Recorded(entry["call"], entry["answer"]))
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"{self._path}, line {number}: no recorded answer; record the file anew") from None

    async def __call__(self, task: ModelTask) -> Answer:
        if self._mode == "replay":
            return self._replayed(task)
        answer = as_text(await answered(self._source, task), task)
        prompt = task.messages[-1].content
        entry = {"key": prompt_key(task), "stage": task.stage, "call": task.call, "prompt": prompt, "answer": answer}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        return answer

    def _replayed(self, task: ModelTask) -> str:
        key = prompt_key(task)
        unused = self._unused[key]
        if unused:
            found = next((entry for entry in unused if entry.call == task.call), unused[0])
            unused.remove(found)
            self._last[key] = found
        if key not in self._last:
            shown = task.messages[-1].content[:200]
            raise LookupError(f"{self._path} has no answer for stage {task.stage!r}, prompt {shown!r}: record it")
        return self._last[key].answer


class EngineModel:
    """The server's real engine as a double: each prompt is a program of one call, to `model` or the default one."""

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    async def __call__(self, task: ModelTask) -> str:
        facade = current_client.get()
        if facade is None:
            raise NoClient("EngineModel answers inside a client's worker only")
        client = facade if isinstance(facade, AsyncClient) else facade.async_client
        call = LLMCall(
            id="answer",
            stage=task.stage,
            type=TextType() if task.json_schema is None else JsonType(json_schema=task.json_schema),
            messages=tuple(Message(role=m.role, parts=(TextPart(text=m.content),)) for m in task.messages),
            model=self._model,
            sampling=task.sampling,
            constraint=task.constraint,
        )
        graph = Graph(calls=(call,), outputs=("answer",))
        program = await client.submit(ProgramSubmission(workflow="recording", graph=graph))
        while True:
            view = await client.variable(program.id, "answer", wait_s=60.0)
            if view.status is VariableStatus.FAILED:
                raise CallFailed.of(view.error, "answer", program.id)
            if view.status is VariableStatus.WRITTEN:
                value = view.value
                return str(value) if task.json_schema is None else json.dumps(value, ensure_ascii=False)


_UNKNOWN_ONCE = frozenset({"logit_bias", "logprobs"})
"""Options that earlier recordings lack: absent from a prompt's key where they are not used."""


def prompt_key(task: ModelTask) -> str:
    """A digest of what an answer depends on, without the seed: where none is asked for the server draws one."""
    fields = {"stage", "messages", "sampling", "constraint", "json_schema"}
    content = task.model_dump(mode="json", include=fields)
    content["sampling"] = {k: v for k, v in content["sampling"].items() if k not in _UNKNOWN_ONCE or v}
    del content["sampling"]["seed"]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
