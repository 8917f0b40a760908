"""`@agent`: a task and tools, worked on step by step by a model that may make many calls at once (ReAct with parallel
calls, arXiv 2210.03629).

Each step's text is read on the server while the model writes it: a call starts at its closing brace. Steps only add to
the prompt, so that each continues the KV cache of the one before. Owns the prompts and the loop.
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
    text,
    typed_part,
)
from tenuto.typed import Typed, caller_locals
from tenuto.wire import Message, PlanOptions, TextType, VariablePart

_RULES = """You may call tools. Each line here is one of them, as JSON:
{tools}

To call one, write <tool_call>{{"name": "the tool", "arguments": {{...}}}}</tool_call>. Calls of one message run at
once: write all that need no result of each other together. The results come in the next message. When you need no
more calls, answer without one."""

_LAST = "Make no more calls: answer now, with what you have."
_ANSWER = "Give the final answer."


def agent(
    *,
    tools: Iterable[AnyTool],
    steps: int = 8,
    name: str | None = None,
    prompt: str | None = None,
    system: str | None = None,
    result_chars: int = 20_000,
    **options: Unpack[LLMOptions],
) -> Decorator:
    """Turn a typed function into a workflow in which a model does its task (the docstring, or `prompt`) with `tools`.

    The answer is the text of the step that makes no calls; for another annotation than `str`, one more call writes it
    in that type. After `steps` steps it must answer. LLM stages are `<name>.step` and `<name>.answer`.
    """
    return decorator(
        "agent",
        _Agent,
        tools,
        caller_locals(1),
        cast("Mapping[str, Any]", options),
        name=name,
        prompt=prompt,
        system=system,
        bounds={"steps": steps, "result_chars": result_chars},
    )


class _Agent:
    """One decorated function. `run` is what its workflow does."""

    def __init__(self, task: Task, tools: Tools, steps: int, result_chars: int) -> None:
        self._task = task
        self._tools = tools
        self._steps = steps
        self._result_chars = result_chars
        self._result = task.signature.result
        self._type = self._result.value_type("validation")

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        program = require_program(self._task.name, "run it with .run(...) or .arun(...)")
        self._tools.offer(program)
        rules = _RULES.format(tools=self._tools.schemas())
        system = merged(*([self._task.system, "\n\n"] if self._task.system else []), rules)
        messages = [
            Message(role="system", parts=system),
            Message(role="user", parts=self._task.parts(program, args, kwargs)),
        ]
        made = 0
        for step in range(1, self._steps + 1):
            if step == self._steps:
                messages.append(text(_LAST))
                return self._answer(messages)
            options = PlanOptions(format="tool_calls", tools=self._tools.names)
            _, variable = self._task.call("step", messages, OUTCOME, options)
            outcome = await outcome_of(program, variable)
            faults = faults_text(outcome.faults)
            if not outcome.calls and not faults:
                if isinstance(self._type, TextType):
                    return typed_part(program, variable, Typed(str, self._task.name), "text")
                messages += [_said(variable), text(_ANSWER)]
                return self._answer(messages)
            results = await results_of(program, outcome.calls)
            messages += [_said(variable), Message(role="user", parts=self._observed(results, made, faults))]
            made += len(results)
        raise AssertionError("the last step always answers")

    def _answer(self, messages: list[Message]) -> Any:
        """The answer in its declared type, by a call that can make no others."""
        program, variable = self._task.call("answer", messages, self._type)
        return typed_part(program, variable, self._result)

    def _observed(self, results: list[Result], made: int, faults: str) -> tuple[Part, ...]:
        parts: list[Part | str] = []
        for index, result in enumerate(results, start=made + 1):
            parts += [f"Result {index}, of {result.call.tool}: ", *shown(result, self._result_chars), "\n"]
        if faults:
            parts.append(f"Not done:\n{faults}\n")
        return merged(*parts)


def _said(variable: str) -> Message:
    """The model's own message."""
    return Message(role="assistant", parts=(VariablePart(variable=variable, path=("text",)),))
