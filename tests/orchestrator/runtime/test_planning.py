"""Programs that grow while a planner's text is generated: what starts when, what is told, what a rerun keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.protocol import EngineLost, FinishReason, GenerateRequest, TokenChunk, Usage
from tenuto.wire import EffectClass, EventKind, JsonType, PlanOptions, ProgramStatus, ToolSpec
from tests.orchestrator.runtime.support import ScriptedEngine, ScriptedWorker, Server, llm, program, states

TOOLS = ("search", "math", "note")
USAGE = Usage(1, 0, 1, 0.0, 0.0, 0.0)
TEXT = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
MATH = {"type": "object", "properties": {"task": {"type": "string"}, "given": {"type": "array"}}}


def specs(**changed: Any) -> tuple[ToolSpec, ...]:
    read = EffectClass.READ
    return (
        ToolSpec(name="search", parameters=TEXT, returns={"type": "object"}, effect=read, **changed),
        ToolSpec(name="math", parameters=MATH, returns={"type": "number"}, effect=read),
        ToolSpec(name="note", parameters=TEXT, returns={}, effect=EffectClass.WRITE, effect_key="{query}"),
    )


class Planner(ScriptedEngine):
    """Writes texts piece by piece, each after its pause; an exception as a piece is raised there."""

    def __init__(self, *texts: Sequence[tuple[float, str | Exception]]) -> None:
        super().__init__()
        self._texts = list(texts)
        self.prompts: list[str] = []

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenChunk]:
        self.prompts.append(request.messages[-1].content)
        for pause_s, piece in self._texts.pop(0):
            await asyncio.sleep(pause_s)
            if isinstance(piece, Exception):
                raise piece
            yield TokenChunk(text=piece, token_ids=())
        yield TokenChunk(text="", token_ids=(), finish=FinishReason.STOP, usage=USAGE)


def plan(**options: Any) -> Any:
    given = {"tools": TOOLS, **options}
    return program(llm("plan", type=JsonType(), plan=PlanOptions(**given)), outputs=("plan",))


class Tools:
    """Tools that take a second each, and the times at which they started."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.started: dict[str, float] = {}

    async def search(self, query: str) -> dict[str, Any]:
        self.started[query] = self._clock()
        await asyncio.sleep(1.0)
        return {"found": query, "price": 5}

    async def math(self, given: list[Any], task: str = "") -> float:
        self.started[task] = self._clock()
        await asyncio.sleep(1.0)
        return float(sum(given))

    async def note(self, query: str) -> None:
        self.started[query] = self._clock()


def work(server: Server, tools: Tools) -> ScriptedWorker:
    return ScriptedWorker(server.workers, specs=specs(), search=tools.search, math=tools.math, note=tools.note)


async def planned(engine: Planner, tools: Tools, **options: Any) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Run one plan: the planner's outcome, the variables of the calls, and the states of all calls."""
    server = await Server(engine).start()
    work(server, tools)
    id = await server.submit(plan(**options))
    await server.follow(id)
    view = server.view(id)
    program = server.program(id)
    assert view.status is ProgramStatus.SUCCEEDED
    await server.close()
    return view.outputs["plan"].value, dict(program.values), states(view)


@pytest.fixture
def tools() -> Tools:
    return Tools(lambda: asyncio.get_running_loop().time())


async def test_a_call_starts_at_its_parenthesis_while_the_planner_goes_on_or_is_silent(tools: Tools) -> None:
    engine = Planner(
        [
            (0.0, '1. search("a"'),
            (1.0, ") 2."),
            (1.0, ' search("b")\n'),
            (10.0, '3. math("sum", [$1.price, $2.price])\njoin()'),
        ]
    )
    outcome, values, _ = await planned(engine, tools)
    assert tools.started == {"a": 1.0, "b": 2.0, "sum": 12.0}
    assert values["plan-3"] == 10.0
    assert [call["number"] for call in outcome["calls"]] == [1, 2, 3]
    assert outcome["joined"] and outcome["join"] is None and outcome["faults"] == []
    assert 0.1 < outcome["first_close"] < outcome["last_close"] < 1.0


async def test_a_dependent_call_starts_when_its_inputs_end_though_the_planner_is_silent(tools: Tools) -> None:
    text = '1. search("a")\n2. math("sum", [$1.price])\n'
    outcome, values, _ = await planned(Planner([(0.0, text), (100.0, "join($2)")]), tools)
    assert tools.started == {"a": 0.0, "sum": 1.0}
    assert outcome["join"] == [2] and values["plan-2"] == 5.0


async def test_the_plan_does_not_depend_on_the_pieces(tools: Tools) -> None:
    text = 'Thought: two\n1. search("a, (b)")\n2. math(task="x", given=[$1["price"], 2])\n3. join()'
    whole, values, _ = await planned(Planner([(0.0, text)]), tools)
    single, again, _ = await planned(Planner([(0.0, char) for char in text]), tools)
    assert (single, again) == (whole, values)
    assert whole["calls"][0]["thought"] == "two"


async def test_nothing_starts_early_if_that_is_not_wanted(tools: Tools) -> None:
    engine = Planner([(0.0, '1. search("a")\n'), (5.0, "join()")])
    await planned(engine, tools, early=False)
    assert tools.started == {"a": 5.0}


async def test_a_call_that_cannot_be_made_is_told_with_its_place_and_its_siblings_run(tools: Tools) -> None:
    text = "\n".join(
        [
            '1. search("a")',
            '2. serch("b")',
            '3. math("x", given=5)',
            '4. search("c", "d")',
            "5. math($2, [1])",
            "6. search($1)",
            "7. search(oops)",
            '8. note("late"',
            "9. join()",
        ]
    )
    outcome, _, calls = await planned(Planner([(0.0, text)]), tools)
    found = {
        fault["number"]: (fault["code"], fault["line"]) for fault in outcome["faults"] if fault["severity"] == "error"
    }
    assert found == {
        2: ("unknown_tool", 2),
        3: ("type_mismatch", 3),
        4: ("too_many_arguments", 4),
        5: ("unknown_reference", 5),
        6: ("type_mismatch", 6),
        7: ("unquoted_text", 7),
        8: ("unclosed_call", 8),
    }
    assert "'search'" in next(f["fix"] for f in outcome["faults"] if f["number"] == 2)
    assert calls == {"plan": "ended", "plan-1": "ended"}


async def test_a_result_is_data_and_never_read_as_a_reference(tools: Tools) -> None:
    async def search(query: str) -> dict[str, Any]:
        return {"found": "${1} and $1", "price": 1}

    tools.search = search  # type: ignore[method-assign]
    text = '1. search("secret")\n2. search("see ${1.found}")\n3. search("costs $5, $1.50 and $$1")\njoin()'
    server = await Server(Planner([(0.0, text)])).start()
    worker = work(server, tools)
    await server.run(plan())
    assert [arguments["query"] for _, arguments in worker.ran] == [
        "secret",
        "costs $5, $1.50 and $1",
        "see ${1} and $1",
    ]
    await server.close()


async def test_earlier_results_are_referred_to_and_not_computed_again(tools: Tools) -> None:
    first = llm("plan", type=JsonType(), plan=PlanOptions(tools=TOOLS))
    again = llm("replan", type=JsonType(), plan=PlanOptions(tools=TOOLS, earlier={1: "plan-1"}), after=("plan",))
    engine = Planner([(0.0, '1. search("a")\njoin()')], [(0.0, '1. search("b")\n2. math("sum", [$1.price])\njoin()')])
    server = await Server(engine).start()
    worker = work(server, tools)
    id = await server.submit(program(first, again, outputs=("replan",)))
    await server.follow(id)
    outcome = server.view(id).outputs["replan"].value
    assert [fault["code"] for fault in outcome["faults"]] == ["duplicate_id"]
    assert server.program(id).values["replan-2"] == 5.0
    assert [tool for tool, _ in worker.ran] == ["search", "math"]
    await server.close()


async def test_a_second_attempt_keeps_equal_calls_and_does_no_effect_twice(tools: Tools) -> None:
    engine = Planner(
        [(0.0, '1. note("x")\n2. search("a")\n'), (3.0, EngineLost("gone"))],
        [(0.0, '1. note("x")\n2. search("b")\njoin()')],
    )
    server = await Server(engine).start()
    worker = work(server, tools)
    id = await server.submit(plan())
    await server.follow(id)
    ran = [(tool, arguments["query"]) for tool, arguments in worker.ran]
    assert sorted(ran) == [("note", "x"), ("search", "a"), ("search", "b")]
    outcome = server.view(id).outputs["plan"].value
    assert [call["variable"] for call in outcome["calls"]] == ["plan-1", "plan-2-r2"]
    await server.close()


async def test_planned_calls_survive_a_crash(tools: Tools, tmp_path: Path) -> None:
    engine = Planner(
        [(0.0, '1. search("a")\n'), (1000.0, "")], [(0.0, '1. search("a")\n2. math("sum", [$1.price])\njoin()')]
    )
    server = await Server(engine, journal_path=tmp_path / "journal.db").start()
    worker = work(server, tools)
    id = await server.submit(plan())
    await server.until(id, EventKind.CALL_ENDED, "plan-1")
    await server.crash()
    again = await Server(engine, journal_path=tmp_path / "journal.db").start()
    worker = work(again, tools)
    await again.follow(id)
    assert [tool for tool, _ in worker.ran] == ["math"]
    assert again.program(id).values["plan-2"] == 5.0
    await again.close()


async def test_emitted_tool_calls_start_while_the_message_goes_on(tools: Tools) -> None:
    text = [
        (0.0, 'I look it up.\n<tool_call>{"name": "search", "arguments": {"query": "a"}}'),
        (5.0, '</tool_call><tool_call>{"name": "search", "arguments": {"query": 7}}</tool_call>'),
        (0.0, '{"tool_calls": [{"id": "x", "function": {"name": "math", "arguments": "{\\"given\\": [1, 2]}"}}]}'),
    ]
    outcome, values, _ = await planned(Planner(text), tools, format="tool_calls")
    assert tools.started["a"] == 0.0
    assert [(fault["code"], fault["number"]) for fault in outcome["faults"]] == [("type_mismatch", 2)]
    assert [(call["number"], call["tool"]) for call in outcome["calls"]] == [(1, "search"), (3, "math")]
    assert values["plan-3"] == 3.0


async def test_cancelling_the_program_cancels_what_its_planner_started(tools: Tools) -> None:
    server = await Server(Planner([(0.0, '1. search("a")\n'), (1000.0, "join()")])).start()
    worker = work(server, tools)
    id = await server.submit(plan())
    await server.until(id, EventKind.CALL_STARTED, "plan-1")
    await server.runtime.cancel(id, tenant="default")
    await asyncio.sleep(0)
    assert len(worker.cancelled) == 1
    assert states(server.view(id)) == {"plan": "cancelled", "plan-1": "cancelled"}
    await server.close()
