"""`@workflow`: a Python function that declares a program, and the ways to run it.

Owns the public surface of a workflow. Never talks HTTP: a run is an `Execution` of a client.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from functools import cached_property, partial, update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, get_args, get_origin, overload

from tenuto.client import AsyncClient
from tenuto.context import current_client, require_program
from tenuto.errors import DefinitionError, InvalidArgument, NoClient, RunningLoop
from tenuto.execution import Execution, Job
from tenuto.functions import checked_name
from tenuto.mermaid import mermaid
from tenuto.options import ObjectiveKind, objective_of
from tenuto.plan import in_own_loop, plan
from tenuto.publishing import definition_of
from tenuto.run import AsyncRun, Run, Stream
from tenuto.sync_client import Client
from tenuto.telemetry import WorkflowSpan
from tenuto.typed import MISSING, Typed, caller_locals, type_hints
from tenuto.var import Var, holds_vars, resolve
from tenuto.wire import Graph, Objective, WorkflowDefinition

P = ParamSpec("P")
R = TypeVar("R")


class WorkflowOptions(TypedDict, total=False):
    """What the program's end is judged by (`objective`, or `deadline` in seconds after acceptance), `metadata` kept
    with it (at most 16 texts), and the `client` to run with instead of the current one."""

    objective: ObjectiveKind | Objective
    deadline: float
    metadata: Mapping[str, str]
    client: Client | AsyncClient


class Workflow(Generic[P, R]):
    """A program as a function. `run`, `arun`, `submit`, `asubmit` and `stream` run it; `graph` shows it.

    Calling it inside another workflow makes it a part of that one's program: `await part(...)` gives its value.
    """

    def __init__(
        self,
        name: str,
        function: Callable[P, Any],
        parameters: Mapping[str, Typed],
        result: Typed,
        objective: Objective,
        metadata: Mapping[str, str],
        client: Client | AsyncClient | None,
    ) -> None:
        update_wrapper(self, function, updated=())
        self.name = name
        self._function = function
        self._parameters = parameters
        self._result = result
        self._objective = objective
        self._metadata = metadata
        self._client = client
        self.agent = False
        """Whether it is an agent's loop; traces and metrics tell these apart."""

    @property
    def function(self) -> Callable[P, Any]:
        """The decorated function."""
        return self._function

    def __repr__(self) -> str:
        return f"<@workflow {self.name}{inspect.signature(self._function)}>"

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        program = require_program(self.name, f"run it with `{self.name}.run(...)` or `await {self.name}.arun(...)`")
        function = self._bound(args, kwargs)
        with WorkflowSpan(self.name, agent=self.agent) as span:
            value = function()
            if asyncio.iscoroutine(value):
                value = await value
            result = await resolve(value)
            if isinstance(program, Execution) and program.summary is not None:
                span.belongs(program.summary)
        return cast("R", self._result.load(result))

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run to the end with the current `Client` and return the workflow's value."""
        client = self._sync_client("run", "arun")
        job = self._job(args, kwargs)

        async def main() -> R:
            return cast("R", await Execution(client.async_client, job).run())

        return client.call(main)

    async def arun(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run to the end with the current `AsyncClient`. Cancelling the task cancels the program on the server."""
        execution = Execution(self._async_client("arun", "run"), self._job(args, kwargs))
        return cast("R", await execution.run())

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Start in the background of the current `Client`; returns when the server has accepted the program."""
        client = self._sync_client("submit", "asubmit")
        job = self._job(args, kwargs)

        async def main() -> AsyncRun[R]:
            return await AsyncRun.start(client.async_client, job)

        return Run(client, client.call(main))

    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> AsyncRun[R]:
        """Start in the background of the current `AsyncClient`; returns when the server has accepted the program."""
        return await AsyncRun.start(self._async_client("asubmit", "submit"), self._job(args, kwargs))

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Stream[R]:
        """Run with the current `AsyncClient`, and read the calls' texts while they are generated."""
        return Stream(partial(self._async_client, "stream", "submit"), self._job(args, kwargs))

    def graph(self, *args: P.args, **kwargs: P.kwargs) -> Graph:
        """The graph, without a client and without a model call: all of it if the workflow awaits no Var, else what
        is known until it first does. Code before that runs."""
        job = self._job(args, kwargs)
        return in_own_loop(lambda: plan(job.function))

    def definition(self, *, toolset: str | None = None) -> WorkflowDefinition:
        """The workflow as a server can keep it and start it by name (`Client.publish`): each argument is an input.

        `toolset`: whose workers will run its tools. Raises `InvalidArgument` if it awaits a Var, or returns none."""
        return definition_of(self._function, self.name, self._objective, toolset)

    def mermaid(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """`graph` as a Mermaid flowchart."""
        return mermaid(self.graph(*args, **kwargs))

    def options(self, **options: Unpack[WorkflowOptions]) -> Workflow[P, R]:
        """A copy with these options changed. Raises `InvalidArgument` for an unknown or ill-typed one."""
        given = _checked(options, f"{self.name}.options")
        changed = type(self)(
            self.name,
            self._function,
            self._parameters,
            self._result,
            given.get("objective", self._objective),
            given.get("metadata", self._metadata),
            given.get("client", self._client),
        )
        changed.agent = self.agent
        return changed

    def _job(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        function = self._bound(args, kwargs)
        return Job(self.name, function, self._result, self._objective, self._metadata, self.agent)

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """The function with its arguments, each checked by its type; what holds Vars is checked where it is used."""
        try:
            bound = inspect.signature(self._function).bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArgument(f"{self.name}: {error}") from None
        for name, typed in self._known_types.items():
            if name in bound.arguments and not holds_vars(bound.arguments[name]):
                bound.arguments[name] = typed.accept(bound.arguments[name])
        return partial(cast("Callable[..., Any]", self._function), *bound.args, **bound.kwargs)

    @cached_property
    def _known_types(self) -> dict[str, Typed]:
        """Types of the parameters that have a JSON form; others take whatever they are given."""
        return {name: typed for name, typed in self._parameters.items() if typed.has_json_form}

    def _sync_client(self, method: str, twin: str) -> Client:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RunningLoop(
                f"an event loop runs in this thread, and {self.name}.{method}() would block it: use "
                f"`await {self.name}.{twin}(...)` with an AsyncClient or `async with tenuto.local()`"
            )
        client = self._client or current_client.get()
        if isinstance(client, Client):
            return client
        if client is None:
            raise NoClient(
                f"{self.name}.{method}() needs a server: use `with tenuto.local():` or `with tenuto.Client(url):`"
            )
        raise NoClient(f"the current client is an AsyncClient: use `await {self.name}.{twin}(...)`")

    def _async_client(self, method: str, twin: str) -> AsyncClient:
        client = self._client or current_client.get()
        if isinstance(client, AsyncClient):
            return client
        if client is None:
            raise NoClient(
                f"{self.name}.{method}() needs a server: use `async with tenuto.local():` or "
                "`async with tenuto.AsyncClient(url):`"
            )
        if client.loop is asyncio.get_running_loop():
            return client.async_client  # inside a workflow or a tool that this very client runs
        raise NoClient(
            f"the current client is a blocking one: use {self.name}.{twin}(...), or `async with` instead of `with`"
        )


class _WorkflowDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Workflow[P, R]: ...


@overload
def workflow(function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(function: Callable[P, R], /) -> Workflow[P, R]: ...
@overload
def workflow(*, name: str | None = None, **options: Unpack[WorkflowOptions]) -> _WorkflowDecorator: ...
def workflow(function: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Turn a function that calls `@llm` and `@tool` functions into a program. An async one may `await` their Vars.

    It runs in the caller's process (with a blocking client, in the client's thread); only its calls run elsewhere.
    """
    if function is None:
        return lambda function: _workflow(function, given, caller_locals(1))
    return _workflow(function, given, caller_locals(1))


def _workflow(function: Callable[..., Any], given: dict[str, Any], locals_: Mapping[str, Any]) -> Workflow[..., Any]:
    if not inspect.isfunction(function):
        raise DefinitionError(f"@workflow decorates a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(f"@workflow {function.__name__}: a workflow returns one value; `.stream` gives the texts")
    given = dict(given)
    name = checked_name(given.pop("name", None), function, "workflow")
    options = _checked(given, f"@workflow {name}")
    hints = type_hints(function, locals_)
    parameters = {
        parameter.name: Typed(hints.get(parameter.name, MISSING), f"{name}({parameter.name})")
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    annotation = hints.get("return", MISSING)
    if get_origin(annotation) is Var:
        (annotation,) = get_args(annotation)
    result = Typed(annotation, f"the result of {name}", any_class=True)
    objective = options.get("objective", Objective())
    metadata, client = options.get("metadata", {}), options.get("client")
    return Workflow(name, function, parameters, result, objective, metadata, client)


def _checked(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = tuple(WorkflowOptions.__annotations__)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InvalidArgument(f"{where}: unknown option {unknown[0]!r}; the options are: {', '.join(sorted(known))}")
    found: dict[str, Any] = {}
    kind, deadline_s = options.get("objective"), options.get("deadline")
    if kind is not None or deadline_s is not None:
        found["objective"] = objective_of(kind, deadline_s, where)
    metadata = options.get("metadata")
    if metadata is not None:
        if len(metadata) > 16 or not all(isinstance(text, str) for item in metadata.items() for text in item):
            raise InvalidArgument(f"{where}: metadata is at most 16 texts by text, not {metadata!r}")
        found["metadata"] = dict(metadata)
    client = options.get("client")
    if client is not None:
        if not isinstance(client, Client | AsyncClient):
            raise InvalidArgument(f"{where}: client is a tenuto.Client or AsyncClient, not {client!r}")
        found["client"] = client
    return found
