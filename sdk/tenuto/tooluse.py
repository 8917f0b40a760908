"""What planners and agents share: tools shown to a model, its calls awaited, results shown back.

Owns the texts about tools and results. Never decides what a model does next.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from tenuto.context import Program, require_program
from tenuto.errors import CallFailed, DefinitionError, InvalidArgument
from tenuto.functions import Tool, call_options, checked_name
from tenuto.options import LLM_OPTIONS, SAMPLING, checked
from tenuto.prompt import Part, Prompt
from tenuto.signature import Signature
from tenuto.typed import Typed
from tenuto.var import Var
from tenuto.wire import (
    JsonType,
    LLMCall,
    Message,
    PlanFault,
    PlannedCallView,
    PlanOptions,
    PlanOutcome,
    Reference,
    Sampling,
    TextPart,
    ToolSpec,
    ValueType,
    VariablePart,
)
from tenuto.workflow import Workflow, workflow

P = ParamSpec("P")
R = TypeVar("R")

AnyTool: TypeAlias = "Tool[..., Any, Any] | ToolSpec"
"""A tool of this process, or one of the server's by its spec (as `GET /v1/tools` lists it)."""

OUTCOME: JsonType = JsonType(json_schema={"type": "object"})


class Result(NamedTuple):
    """How a call of a model ended: `value` if `error` is None."""

    number: int
    call: PlannedCallView
    value: Any
    error: str | None


class Tools:
    """The tools that a model may call. Raises `DefinitionError` for none, or two of one name."""

    def __init__(self, tools: Iterable[AnyTool], name: str) -> None:
        self._tools: dict[str, AnyTool] = {}
        for tool in tools:
            if not isinstance(tool, Tool | ToolSpec):
                raise DefinitionError(f"{name}: {tool!r} is no tool: decorate the function with @tool")
            if tool.name in self._tools:
                raise DefinitionError(f"{name}: two tools are named {tool.name!r}")
            self._tools[tool.name] = tool
        if not self._tools:
            raise DefinitionError(f"{name}: give at least one tool, as tools=[...]")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tools)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(tool.spec if isinstance(tool, Tool) else tool for tool in self._tools.values())

    def offer(self, program: Program) -> None:
        """Let the client's worker run them for this program."""
        for tool in self._tools.values():
            if isinstance(tool, Tool):
                program.builder.use(tool)

    def signatures(self) -> str:
        """One line a tool, as Python would write it, and its description."""
        lines = []
        for spec in self.specs:
            required = set(spec.parameters.get("required", ()))
            parameters = [
                f"{name}: {_kind(schema)}" + ("" if name in required else " = ...")
                for name, schema in spec.parameters.get("properties", {}).items()
            ]
            told = inspect.cleandoc(spec.description).partition("\n\n")[0].replace("\n", " ")
            lines.append(
                f"{spec.name}({', '.join(parameters)}) -> {_kind(spec.returns)}" + (f": {told}" if told else "")
            )
        return "\n".join(lines)

    def schemas(self) -> str:
        """One JSON object a tool: name, description, parameters."""
        return "\n".join(
            json.dumps(
                {"name": spec.name, "description": spec.description, "parameters": spec.parameters}, ensure_ascii=False
            )
            for spec in self.specs
        )


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a word or two."""
    if "enum" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list[{_kind(schema.get('items', {}))}]"
    if kind == "object":
        keys = ", ".join(f"{name}: {_kind(part)}" for name, part in schema.get("properties", {}).items())
        return f"{{{keys}}}" if keys else "object"
    return str(kind) if isinstance(kind, str) else "any"


class Task:
    """The decorated function of a planner or agent: its prompt, its result, the options of its LLM calls."""

    def __init__(
        self, function: Callable[..., Any], name: str, locals_: Mapping[str, Any], given: Mapping[str, Any]
    ) -> None:
        self.name = name
        self.signature = Signature(function, name, locals_)
        if not self.signature.declares_result:
            raise DefinitionError(f"{name}: annotate the return type: it says what the answer is, such as `-> str`")
        template = given.get("prompt") or inspect.getdoc(function)
        if not template:
            raise DefinitionError(f"{name}: give the task as docstring or as prompt=...")
        self.prompt = Prompt(template, None, tuple(self.signature.parameters), name)
        self.system: str | None = given.get("system")
        self.options = {key: value for key, value in given.items() if key not in ("prompt", "system")}

    def parts(self, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Part, ...]:
        """The task as it stands in the prompts of one run."""
        arguments = self.signature.bind(args, kwargs, defaults=True)
        (message,) = self.prompt.messages(program.builder, self.signature.parameters, arguments)
        return message.parts

    def call(
        self, stage: str, messages: Sequence[Message], type: ValueType, plan: PlanOptions | None = None
    ) -> tuple[Program, str]:
        """Declare one LLM call; returns the name of its variable."""
        program = require_program(self.name, f"run it with `{self.name}.run(...)` or `await {self.name}.arun(...)`")
        full = f"{self.name}.{stage}"
        call = LLMCall(
            id=program.builder.call_id(full),
            type=type,
            messages=tuple(messages),
            model=program.model_name(full, self.options.get("model")),
            sampling=Sampling(**{key: self.options[key] for key in SAMPLING if key in self.options}),
            plan=plan,
            **call_options(full, self.options, program),
        )
        program.builder.add(call)
        return program, call.id


async def outcome_of(program: Program, variable: str) -> PlanOutcome:
    """What became of a model's text. Raises `CallFailed`."""
    (value,) = await program.values([variable])
    return PlanOutcome.model_validate(value)


async def results_of(program: Program, calls: Iterable[PlannedCallView]) -> list[Result]:
    """How each call ended, in the order given; a failed one loses none of the others."""
    found: list[Result] = []
    for call in calls:
        try:
            (value,) = await program.values([call.variable])
            found.append(Result(call.number, call, value, None))
        except CallFailed as error:
            if error.type in ("cancelled", "abandoned"):
                raise
            found.append(Result(call.number, call, None, f"{error.type}: {error.message}"))
    return found


def shown(result: Result, most_chars: int) -> list[Part]:
    """A result in a prompt: the variable itself, or its beginning if it is long."""
    if result.error is not None:
        return [TextPart(text=f"failed: {result.error}")]
    text = result.value if isinstance(result.value, str) else json.dumps(result.value, ensure_ascii=False)
    if len(text) <= most_chars:
        return [VariablePart(variable=result.call.variable)]
    told = f"{text[:most_chars]}… ({len(text)} characters, cut; pass ${result.number} on to use all of it)"
    return [TextPart(text=told)]


def faults_text(faults: Iterable[PlanFault]) -> str:
    """What was not done, for the model to mend; remarks are left out."""
    lines = [
        f"line {fault.line}, column {fault.column}"
        + (f", call {fault.number}" if fault.number is not None else "")
        + f": {fault.message}. {fault.fix}"
        for fault in faults
        if fault.severity == "error"
    ]
    return "\n".join(lines)


def text(content: str, role: str = "user") -> Message:
    """A message without holes."""
    return Message.model_validate({"role": role, "parts": [TextPart(text=content)]})


def merged(*parts: Part | str) -> tuple[Part, ...]:
    """Parts with neighbouring texts joined."""
    found: list[Part] = []
    for part in parts:
        part = TextPart(text=part) if isinstance(part, str) else part
        if found and isinstance(part, TextPart) and isinstance(last := found[-1], TextPart):
            found[-1] = TextPart(text=last.text + part.text)
        elif not isinstance(part, TextPart) or part.text:
            found.append(part)
    return tuple(found)


def whole_number(value: Any, name: str, option: str) -> int:
    """Raises `InvalidArgument` unless the option is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgument(f"{name}: {option}={value!r}: give a whole number from 1 on")
    return value


def typed_part(program: Program, variable: str, typed: Typed, *path: str | int) -> Any:
    """A Var of a part of a variable."""
    return Var(program, Reference(variable=variable, path=path), typed)


def as_workflow(
    task: Task, function: Callable[..., Any], work: Callable[[tuple[Any, ...], dict[str, Any]], Awaitable[Any]]
) -> Workflow[..., Any]:
    """An agent's loop: a workflow with the name, signature and documentation of `function`, that does `work` on its
    arguments."""

    async def run(*args: Any, **kwargs: Any) -> Any:
        return await work(args, kwargs)

    run.__name__, run.__qualname__, run.__module__ = task.name, function.__qualname__, function.__module__
    run.__doc__ = function.__doc__
    run.__signature__ = task.signature.signature  # type: ignore[attr-defined]
    run.__annotations__ = {"return": task.signature.result.annotation}
    made = workflow(name=task.name)(run)
    made.agent = True
    return made


class Decorator(Protocol):
    """What `@planner(...)` and `@agent(...)` are: they keep the function's parameters and give its declared result."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Workflow[P, R]: ...


class Loop(Protocol):
    """What a decorated function's workflow does; made once, run for each program."""

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


def decorator(
    kind: str,
    make: Callable[..., Loop],
    tools: Iterable[AnyTool],
    locals_: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    name: str | None,
    prompt: str | None,
    system: str | None,
    bounds: Mapping[str, Any],
) -> Decorator:
    """The decorator `@kind`: `make(task, tools, **bounds)` gives the loop of a function, `bounds` are whole numbers.

    `locals_`: names that annotations may mean. Decorating raises `DefinitionError`, `InvalidArgument`.
    """

    def decorate(function: Callable[..., Any]) -> Workflow[..., Any]:
        if not inspect.isfunction(function):
            raise DefinitionError(f"@{kind} decorates a function, not {function!r}")
        called = checked_name(name, function, kind)
        given = checked(options, LLM_OPTIONS, f"@{kind} {called}", ("tools", "name", "prompt", "system", *bounds))
        task = Task(function, called, locals_, {**given, "prompt": prompt, "system": system})
        checked_bounds = {option: whole_number(value, called, option) for option, value in bounds.items()}
        return as_workflow(task, function, make(task, Tools(tools, f"@{kind} {called}"), **checked_bounds).run)

    return cast("Decorator", decorate)
