"""`@planner`: a task and tools, planned by a model as one parallel program, joined, and planned anew where needed.

The plan's text is read on the server while the model writes it, and its calls start as it grows; this module owns the
prompts and the rounds. After LLMCompiler (arXiv 2312.04511): planner, executor, joiner, replanning with results kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack, cast

from tenuto.context import require_program
from tenuto.options import LLMOptions
from tenuto.prompt import Part
from tenuto.tooluse import (
    OUTCOME,
    AnyTool,
    Decorator,
    Result,
    Task,
    Tools,
    decorator,
    faults_text,
    merged,
    outcome_of,
    results_of,
    shown,
    typed_part,
)
from tenuto.typed import Typed, caller_locals
from tenuto.wire import JsonType, Message, PlanOptions, PlanOutcome

_RULES = """Plan the task as calls of tools, and write nothing but the plan. The tools:
{tools}

Rules:
- One call a line: a number, a point, and the call, such as 1. tool("text", [1, 2], name="value").
- Arguments are texts in double quotes, numbers, true, false, null, lists and objects, or results of earlier calls.
- $1 is the result of call 1, $1.price[0] a part of it, and "text with ${{1.name}} in it" puts it into a text.
- Calls that need no result of each other run at once: make as many as help, and refer only to calls before.
- Numbers go up; give each call its own, beginning with {first}.
- A line that begins with "Thought:" is for yourself. End with join() when every call that is needed is there."""

_JOIN = """You are given a task, the calls that were made for it, and their results.
If the results suffice, give the answer. If they do not, leave the answer out and say in replan what is missing."""

_LAST = "Give the answer, as good as these results allow."


def planner(
    *,
    tools: Iterable[AnyTool],
    rounds: int = 3,
    name: str | None = None,
    prompt: str | None = None,
    system: str | None = None,
    result_chars: int = 20_000,
    **options: Unpack[LLMOptions],
) -> Decorator:
    """Turn a typed function into a workflow that answers its task (the docstring, or `prompt`) with `tools`.

    A model plans; calls run while it writes, each when its inputs are there; a joiner gives the annotated answer, or
    asks for another round, in which earlier results stay and can be referred to. `rounds` bounds them; in the last one
    the joiner must answer. What could not be read or run is told to the model with its place. `result_chars`: how much
    of a result stands in a prompt. LLM stages are `<name>.plan` and `<name>.join`; options go to both.
    """
    return decorator(
        "planner",
        _Planner,
        tools,
        caller_locals(1),
        cast("Mapping[str, Any]", options),
        name=name,
        prompt=prompt,
        system=system,
        bounds={"rounds": rounds, "result_chars": result_chars},
    )


class _Planner:
    """One decorated function. `run` is what its workflow does."""

    def __init__(self, task: Task, tools: Tools, rounds: int, result_chars: int) -> None:
        self._task = task
        self._tools = tools
        self._rounds = rounds
        self._result_chars = result_chars
        self._final = _decision(task.signature.result, last=True)
        self._open = _decision(task.signature.result, last=False)

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        program = require_program(self._task.name, "run it with .run(...) or .arun(...)")
        self._tools.offer(program)
        task = self._task.parts(program, args, kwargs)
        known: list[Result] = []
        missing = ""
        for number in range(1, self._rounds + 1):
            outcome, results = await self._plan(task, known, missing)
            known += results
            last = number == self._rounds
            faults = faults_text(outcome.faults)
            if not last and not outcome.calls and faults:
                missing = f"The last plan could not be used:\n{faults}"
                continue
            variable, typed = self._join(task, known, faults, last=last)
            (decision,) = await program.values([variable])
            if last or decision.get("answer") is not None or not decision.get("replan"):
                return typed_part(program, variable, typed, "answer")
            missing = f"What was missing: {decision['replan']}" + (f"\nNot done:\n{faults}" if faults else "")
        raise AssertionError("the last round always answers")

    async def _plan(
        self, task: tuple[Part, ...], known: list[Result], missing: str
    ) -> tuple[PlanOutcome, list[Result]]:
        """One round: the plan, and the results that its join asks for."""
        first = max((result.number for result in known), default=0) + 1
        rules = _RULES.format(tools=self._tools.signatures(), first=first)
        system = merged(*([self._task.system, "\n\n"] if self._task.system else []), rules)
        user = merged(*task, *self._results(known), f"\n\n{missing}" if missing else "")
        messages = (Message(role="system", parts=system), Message(role="user", parts=user))
        earlier = {result.number: result.call.variable for result in known if result.error is None}
        options = PlanOptions(tools=self._tools.names, earlier=earlier)
        program, variable = self._task.call("plan", messages, OUTCOME, options)
        outcome = await outcome_of(program, variable)
        wanted = outcome.calls
        if outcome.join is not None:
            needed = set(outcome.join)
            wanted = tuple(call for call in wanted if call.number in needed)
        return outcome, await results_of(program, wanted)

    def _join(self, task: tuple[Part, ...], known: list[Result], faults: str, *, last: bool) -> tuple[str, Typed]:
        """Declare the joiner; returns its variable and the type of its answer."""
        system = merged(*([self._task.system, "\n\n"] if self._task.system else []), _JOIN)
        told = f"\n\nNot done:\n{faults}" if faults else ""
        user = merged(*task, *self._results(known), told, f"\n\n{_LAST}" if last else "")
        messages = (Message(role="system", parts=system), Message(role="user", parts=user))
        _, variable = self._task.call("join", messages, self._final if last else self._open)
        return variable, self._task.signature.result

    def _results(self, known: list[Result]) -> list[Part | str]:
        if not known:
            return []
        parts: list[Part | str] = ["\n\nResults:"]
        for result in known:
            thought = f" ({result.call.thought})" if result.call.thought else ""
            parts += [f"\n${result.number} = {result.call.tool}{thought}: ", *shown(result, self._result_chars)]
        return parts


def _decision(answer: Typed, *, last: bool) -> JsonType:
    """What a joiner writes: the answer, or what is missing."""
    schema = dict(answer.schema("validation"))
    definitions = schema.pop("$defs", {})
    value = schema if last else {"anyOf": [schema, {"type": "null"}]}
    properties: dict[str, Any] = {"thought": {"type": "string"}, "answer": value}
    if not last:
        properties["replan"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    decision: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": ["thought", "answer"] if last else ["thought", "answer", "replan"],
        "additionalProperties": False,
    }
    if definitions:
        decision["$defs"] = definitions
    return JsonType(json_schema=decision)
