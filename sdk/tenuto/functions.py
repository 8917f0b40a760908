"""`@llm` and `@tool`: Python functions that, called in a workflow, declare a call and return its `Var` at once.

Owns what a call looks like on the wire. Never runs a tool (the worker does) and never sends anything.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import cached_property, update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast, overload
from weakref import WeakSet

from pydantic import ValidationError

from tenuto.context import Program, require_program
from tenuto.errors import DefinitionError, InvalidArgument
from tenuto.options import (
    CONSTRAINTS,
    LLM_OPTIONS,
    SAMPLING,
    TOOL_OPTIONS,
    LLMOptions,
    ToolDeclaration,
    ToolOptions,
    checked,
)
from tenuto.pieces import Pieces
from tenuto.prompt import Prompt
from tenuto.signature import Signature
from tenuto.typed import Typed, caller_locals
from tenuto.var import Handle, Var, check_owner, expression, handles, holds_vars, variable_of
from tenuto.wire import (
    CacheControl,
    Constraint,
    EffectClass,
    FunctionCall,
    GrammarConstraint,
    LLMCall,
    Reference,
    RegexConstraint,
    Retry,
    Sampling,
    TextType,
    ToolSpec,
)

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,199}\Z")
_HOLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ANY = Typed(Any, "argument")


def checked_name(name: str | None, function: Callable[..., Any], decorator: str) -> str:
    """The name of a decorated function on the server. Raises `DefinitionError`."""
    found = name if name is not None else function.__name__
    if not _NAME.match(found):
        raise DefinitionError(
            f"@{decorator}: {found!r} is no name for the server (a letter or _, then letters, digits, _ . -): "
            f"give one with @{decorator}(name=...)"
        )
    return found


class LLM(Generic[P, R]):
    """A prompt as a function: `llm_function(args) -> Var[R]` inside a workflow. The body never runs."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        signature: Signature,
        prompt: Prompt,
        constraint: Constraint | None,
        options: dict[str, Any],
    ) -> None:
        update_wrapper(self, function, updated=())
        self.name = name
        self._function = function
        self._signature = signature
        self._prompt = prompt
        self._constraint = constraint
        self._options = options
        self._type = signature.result.value_type("validation")
        self._sampling = Sampling(**{key: options[key] for key in SAMPLING if key in options})
        question = options.get("question")
        if question is not None and question not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise DefinitionError(f"{name}: question={question!r} is not among the function's parameters ({known})")

    def __repr__(self) -> str:
        return f"<@llm {self.name}{self._signature.signature}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Var[R]:
        program = require_program(self.name, "call it in a @workflow function, and run that")
        arguments = self._signature.bind(args, kwargs, defaults=True)
        model = program.model_name(self.name, self._options.get("model"))
        check_owner(program, list(arguments.values()), self.name)
        messages = self._prompt.messages(program.builder, self._signature.parameters, arguments)
        call = LLMCall(
            id=program.builder.call_id(self.name),
            type=self._type,
            messages=messages,
            model=model,
            sampling=self._sampling,
            constraint=self._constraint,
            category=self._options.get("category"),
            question=self._question(program, arguments),
            cache=self._options.get("cache", CacheControl()),
            adapter=self._options.get("adapter"),
            **call_options(self.name, self._options, program),
        )
        program.builder.add(call)
        return Var(program, Reference(variable=call.id), self._signature.result)

    def _question(self, program: Program, arguments: Mapping[str, Any]) -> str | None:
        """The variable that holds the argument which was marked as the question."""
        name = self._options.get("question")
        if name is None:
            return None
        value, typed = arguments[name], self._signature.parameters[name]
        if isinstance(value, Handle) and isinstance(value._node, Reference) and not value._node.path:
            return value._node.variable
        if not holds_vars(value) and isinstance(plain := typed.dump(value), str):
            return program.builder.input(name, plain)
        raise InvalidArgument(f"{typed.where}: the question must be one whole text; `await` what is made of parts")

    def options(
        self, *, regex: str | None = None, grammar: str | None = None, **options: Unpack[LLMOptions]
    ) -> LLM[P, R]:
        """A copy with these options changed; `regex` or `grammar` takes the place of the constraint that it has, so
        that it can depend on values. Raises `InvalidArgument` for an unknown or ill-typed option."""
        merged = self._options | checked(options, LLM_OPTIONS, f"{self.name}.options", CONSTRAINTS)
        constraint = _constraint(regex, grammar, self._signature, f"{self.name}.options") or self._constraint
        return type(self)(self.name, self._function, self._signature, self._prompt, constraint, merged)


class Tool(Generic[P, R, F]):
    """A function that the server starts when its arguments exist: `tool(args) -> Var[R]` inside a workflow.

    `raw` is the bare Python function, to be called and tested as such; `base` is the tool as it was decorated.
    """

    def __init__(
        self, name: str, raw: F, signature: Signature, settings: Mapping[str, Any], options: dict[str, Any]
    ) -> None:
        update_wrapper(self, raw, updated=())
        self.name = name
        self.base = self
        self.raw: F = raw
        self.signature = signature
        self.settings = settings
        self._options = options
        self._type = signature.result.value_type("serialization")
        self._effect = EffectClass(options.get("effects", EffectClass.EXCLUSIVE))
        if "effect_key" in options and self._effect is not EffectClass.WRITE:
            raise InvalidArgument(f"{name}: effect_key says what a write changes: give effects='write' with it")

    def __repr__(self) -> str:
        return f"<@tool {self.name}{self.signature.signature}>"

    @property
    def place(self) -> str:
        """Where the function is defined, for messages."""
        return f"{self.raw.__module__}.{self.raw.__qualname__}"

    @cached_property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.raw)

    @cached_property
    def spec(self) -> ToolSpec:
        """What the worker tells the server about this tool."""
        return ToolSpec(
            name=self.name,
            description=inspect.getdoc(self.raw) or "",
            parameters=self.signature.arguments_schema,
            returns=self.signature.result.schema("serialization"),
            effect=self._effect,
            timeout_s=self._options.get("timeout"),
            retry=self._options.get("retries", Retry()),
            expected_s=self._options.get("expected_s"),
            idempotent=self._options.get("idempotent", False),
            effect_key=key if isinstance(key := self._options.get("effect_key"), str) else None,
            **self.settings,
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Var[R]:
        program = require_program(self.name, f"call it in a @workflow function; the bare function is `{self.name}.raw`")
        arguments = self.signature.bind(args, kwargs, defaults=False)
        check_owner(program, list(arguments.values()), self.name)
        call = FunctionCall(
            id=program.builder.call_id(self.name),
            type=self._type,
            tool=self.name,
            arguments={name: self._expression(name, value) for name, value in arguments.items()},
            effect=self._effect,
            effect_key=self._effect_key(arguments),
            idempotent=self._options.get("idempotent", False),
            bumps=self._options.get("bumps", ()),
            **call_options(self.name, self._options, program),
        )
        program.builder.add(call, cast("Tool[..., Any, Any]", self.base))
        return Var(program, Reference(variable=call.id), self.signature.result)

    def options(self, **options: Unpack[ToolOptions]) -> Tool[P, R, F]:
        """A copy with these options changed. Raises `InvalidArgument` for an unknown or ill-typed one."""
        merged = self._options | checked(options, TOOL_OPTIONS, f"{self.name}.options")
        copy: Tool[P, R, F] = type(self)(self.name, self.raw, self.signature, self.settings, merged)
        copy.base = self.base
        return copy

    def _expression(self, name: str, value: Any) -> Any:
        typed = self.signature.parameters[name]
        if not holds_vars(value):
            return expression(value, typed.dump)
        try:
            return expression(value, _ANY.to_json)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{typed.where}: {error}") from error

    def _effect_key(self, arguments: Mapping[str, Any]) -> str | None:
        key = self._options.get("effect_key")
        if key is None:
            return None
        if isinstance(key, str):
            return self._filled(key, arguments)
        bound = self.signature.signature.bind(**arguments)
        bound.apply_defaults()
        found = key(*bound.args, **bound.kwargs)
        if not isinstance(found, str):
            raise InvalidArgument(
                f"{self.name}: effect_key gave {found!r}, not text; a Var's value is known after `await`"
            )
        return found

    @staticmethod
    def _filled(key: str, arguments: Mapping[str, Any]) -> str | None:
        """`file:{path}` with its arguments; None, which conflicts with everything, while one of them is a Var."""
        known = {name: str(value) for name, value in arguments.items() if isinstance(value, str | int)}
        if any(hole not in known for hole in _HOLE.findall(key)):
            return None
        return _HOLE.sub(lambda hole: known[hole[1]], key)


def call_options(stage: str, options: Mapping[str, Any], program: Program) -> dict[str, Any]:
    """Fields that both kinds of call have, from options in the wire's forms."""
    after = options.get("after", ())
    check_owner(program, after, f"{stage}: option after")
    calls = dict.fromkeys(variable_of(handle) for handle in handles(after))
    return {
        "stage": stage,
        "after": tuple(calls),
        "group": options.get("group"),
        "timeout_s": options.get("timeout"),
        "retry": options.get("retries", Retry()),
        "objective": options.get("objective"),
        "expected_s": options.get("expected_s"),
    }


class _LLMDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> LLM[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> LLM[P, R]: ...


@overload
def llm(function: Callable[P, Coroutine[Any, Any, R]], /) -> LLM[P, R]: ...
@overload
def llm(function: Callable[P, R], /) -> LLM[P, R]: ...
@overload
def llm(
    *,
    prompt: str | None = None,
    system: str | None = None,
    regex: str | None = None,
    grammar: str | None = None,
    name: str | None = None,
    **options: Unpack[LLMOptions],
) -> _LLMDecorator: ...
def llm(function: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Turn a typed function into an LLM call. The docstring (or `prompt=`) is the template of the user message.

    Every parameter fills the placeholder `{{name}}`, in the prompt or in `system`; a placeholder without a parameter,
    or a parameter without a placeholder, is a `DefinitionError` here. The return annotation is enforced while
    decoding: `str` is text (which `regex=` or a Lark `grammar=` may constrain), all else is JSON of its schema.
    """
    if function is None:
        return lambda function: _llm(function, given, caller_locals(1))
    return _llm(function, given, caller_locals(1))


def _llm(function: Callable[..., Any], given: dict[str, Any], locals_: Mapping[str, Any]) -> LLM[..., Any]:
    if not inspect.isfunction(function):
        raise DefinitionError(f"@llm decorates a function, not {function!r}")
    given = dict(given)
    name = checked_name(given.pop("name", None), function, "llm")
    template, system = given.pop("prompt", None), given.pop("system", None)
    regex, grammar = given.pop("regex", None), given.pop("grammar", None)
    _require_no_body(function, name)
    signature = Signature(function, name, locals_)
    if not signature.declares_result:
        raise DefinitionError(f"{name}: annotate the return type: it says what the model shall write, such as `-> str`")
    template = template if template is not None else inspect.getdoc(function)
    if not template:
        raise DefinitionError(f"{name}: give the prompt as docstring or as @llm(prompt=...)")
    prompt = Prompt(template, system, tuple(signature.parameters), name)
    constraint = _constraint(regex, grammar, signature, name)
    options = checked(given, LLM_OPTIONS, f"@llm {name}", ("name", "prompt", "system", *CONSTRAINTS))
    return LLM(name, function, signature, prompt, constraint, options)


def _constraint(regex: str | None, grammar: str | None, signature: Signature, name: str) -> Constraint | None:
    if regex is None and grammar is None:
        return None
    if regex is not None and grammar is not None:
        raise DefinitionError(f"{name}: give either regex or grammar")
    if not isinstance(signature.result.value_type("validation"), TextType):
        raise DefinitionError(f"{name}: regex and grammar constrain text: annotate `-> str`, or leave them out")
    try:
        return RegexConstraint(pattern=regex) if regex is not None else GrammarConstraint(lark=grammar or "")
    except ValidationError as error:
        raise DefinitionError(f"{name}: {error.errors()[0]['msg']}") from error


def _require_no_body(function: Callable[..., Any], name: str) -> None:
    """Refuse a body that does something: it would be silently ignored. `...`, `raise NotImplementedError` may stand."""
    code = function.__code__
    own_locals = code.co_nlocals > len(inspect.signature(function).parameters)
    does_something = set(code.co_names) - {"NotImplementedError"} or own_locals or code.co_freevars
    if does_something or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"{name}: the body of an @llm function never runs: leave only the docstring (or `...`), and put code "
            "into a @tool, or into a plain function that the workflow calls"
        )


class _ToolDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Tool[P, R, Callable[P, Coroutine[Any, Any, R]]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Tool[P, R, Callable[P, R]]: ...


@overload
def tool(function: Callable[P, Coroutine[Any, Any, R]], /) -> Tool[P, R, Callable[P, Coroutine[Any, Any, R]]]: ...
@overload
def tool(function: Callable[P, R], /) -> Tool[P, R, Callable[P, R]]: ...
@overload
def tool(*, name: str | None = None, **options: Unpack[ToolDeclaration]) -> _ToolDecorator: ...
def tool(function: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Turn a typed function, sync or async, into a function call that this process runs for the server.

    `effects`: "read" may run beside anything and be retried; "write" is ordered against what has the same
    `effect_key`; "exclusive" (the default, the safe one) runs alone in its program. What else a tool may declare,
    such as caps and timeouts, is listed by `ToolDeclaration`.
    """
    if function is None:
        return lambda function: _tool(function, given, caller_locals(1))
    return _tool(function, given, caller_locals(1))


_module_tools: WeakSet[Tool[..., Any, Any]] = WeakSet()


def module_tools() -> Iterator[Tool[..., Any, Any]]:
    """Every tool that was defined at the top of a module: what this process offers by itself."""
    return iter(sorted(_module_tools, key=lambda tool: tool.place))


def _tool(function: Callable[..., Any], given: dict[str, Any], locals_: Mapping[str, Any]) -> Tool[..., Any, Any]:
    if not inspect.isfunction(function):
        raise DefinitionError(f"@tool decorates a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(f"@tool {function.__name__}: a tool returns one value; return a list instead of yielding")
    given = dict(given)
    name = checked_name(given.pop("name", None), function, "tool")
    settings = _settings(given, name)
    signature = Signature(function, name, locals_)
    options = checked(given, TOOL_OPTIONS, f"@tool {name}", ("name", *ToolDeclaration.__annotations__))
    made: Tool[..., Any, Any] = Tool(name, function, signature, settings, options)
    unknown = [part for part in settings.get("partial", ()) if part not in signature.parameters]
    if unknown:
        raise DefinitionError(f"{name}: partial names {unknown[0]!r}, which is no parameter")
    for part in settings.get("partial", ()):
        if signature.parameters[part].annotation is not Pieces or not made.is_async:
            raise DefinitionError(f"{name}: partial names {part!r}: make the tool async, and annotate it as Pieces")
    _ = made.spec  # a type without a schema is told now, not at the first program
    if "<locals>" not in function.__qualname__:
        _module_tools.add(made)
    return made


_SETTINGS = {
    "concurrency": "concurrency",
    "max_running": "max_running",
    "queue_timeout": "queue_timeout_s",
    "total_timeout": "total_timeout_s",
    "share": "share",
    "cache": "cache_s",
    "partial": "partial",
    "speculate": "speculate",
}
"""Options of the decorator alone, and the fields of `ToolSpec` that they become."""


def _settings(given: dict[str, Any], name: str) -> dict[str, Any]:
    """Takes the settings of a tool out of its options. Raises `DefinitionError` naming the one that cannot be."""
    found: dict[str, Any] = {}
    for option, field in _SETTINGS.items():
        value = given.pop(option, None)
        if value is None:
            continue
        try:
            if isinstance(value, bool) is not (field in ("share", "speculate")):
                raise ValueError("it is of another kind")
            ToolSpec.model_validate({"name": name, field: value})
        except (ValidationError, ValueError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise DefinitionError(f"{name}: {option}={value!r}: {reason}") from error
        found[field] = tuple(value) if field == "partial" else value
    return found
