"""Calls that are run ahead: foreseen from earlier programs, used on an exact match only, never seen otherwise."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import Any

from orchestrator.tools import CallFailure, Toolbox, ToolRun
from orchestrator.tools.foresight import Ended, Foreseen, History
from tenuto.wire import EffectClass, Reference, ToolSpec
from tests.orchestrator.tools.test_toolbox import Host, now, toolbox

READ = EffectClass.READ
SEARCH = ToolSpec(name="search", effect=READ)
FETCH = ToolSpec(name="fetch", effect=READ, speculate=True, share=False)
WRITE = ToolSpec(name="write", effect=EffectClass.WRITE)


# -- foresight ----------------------------------------------------------------------------------


def search(query: str) -> Ended:
    return Ended("search", {"query": query}, {"hits": [{"url": f"http://{query}"}]})


def teach(history: History, times: int, tool: str = "fetch") -> None:
    for n in range(times):
        ended = search(f"q{n}")
        history.ended("w", ended)
        url = ended.result["hits"][0]["url"]  # type: ignore[index,call-overload]
        history.made("w", tool, {"url": url, "mode": "text"}, deque([ended]))


def test_a_pattern_is_foreseen_after_three_programs_with_its_arguments_filled_in() -> None:
    history = History()
    teach(history, 2)
    assert history.ended("w", search("x")) == []
    teach(history, 1)
    assert history.ended("w", search("x")) == [Foreseen("fetch", {"url": "http://x", "mode": "text"})]
    assert history.ended("another", search("x")) == []


def test_what_does_not_follow_is_not_foreseen() -> None:
    history = History()
    for n in range(9):
        ended = search(f"q{n}")
        history.ended("w", ended)
        history.made("w", "fetch", {"url": "http://elsewhere"}, deque([ended]))  # no part of what came before
        history.made("w", "fetch", {"urls": [f"http://q{n}"]}, deque([ended]))  # built by code, not copied
    teach(history, 3)  # a quarter of the ends
    assert history.ended("w", search("x")) == []
    teach(history, 20)
    assert history.ended("w", Ended("search", {"query": "x"}, {"hits": []})) == []  # it lacks the part


# -- running ahead --------------------------------------------------------------------------------


def run(box: Toolbox, program: str, tool: str, arguments: dict[str, Any], **options: Any) -> asyncio.Task[Any]:
    async def one() -> Any:
        intend = options.pop("intend", None)
        made = ToolRun(program, f"{tool}", tool, "t", "", arguments, 1, workflow="w")._replace(**options)
        result = await box.run(made, lambda: None, intend)
        if box.speculates:
            box.ended(made, tool, result)
        return result

    return asyncio.create_task(one())


async def one_program(box: Toolbox, program: str, think_s: float = 0.5, *, follow: bool = True) -> float:
    """A search, a thought, and a fetch of what it gave: the seconds that the fetch took."""
    found = await run(box, program, "search", {"x": program})
    await asyncio.sleep(think_s)
    began = now()
    if follow:
        fetched = await run(box, program, "fetch", {"x": found["x"]})
        assert fetched["x"] == program
    box.ahead.program_ended(program)
    return now() - began


async def test_a_foreseen_call_runs_while_its_program_thinks_and_its_benefit_is_counted() -> None:
    host = Host(SEARCH, FETCH)
    box = await toolbox(host)
    for n in range(4):
        assert await one_program(box, f"p{n}") == 1.0
    assert await one_program(box, "quick") == 0.5  # half a second of it had run
    assert await one_program(box, "slow", think_s=3.0) == 0.0
    counts = box.ahead.counts
    assert (counts.begun, counts.used, counts.wasted, counts.saved_s) == (2, 2, 0, 1.5)
    await box.close()


async def test_a_foreseen_call_has_nothing_of_the_call_that_ended_but_its_place() -> None:
    runs: list[ToolRun] = []

    class Told(Host):
        async def run(self, run: ToolRun, spec: ToolSpec) -> Any:
            runs.append(run)
            return await super().run(run, spec)

    host = Told(SEARCH, FETCH)
    box = await toolbox(host)
    for n in range(4):
        await one_program(box, f"p{n}")
    large = {"x": Reference(variable="long")}
    early: list[str] = []
    await run(
        box, "p", "search", {"x": "p"}, large=large, early=lambda how, _: early.append(how), deadline_s=now() + 1.5,
        attempt=2, timeout_s=1.2, traceparent="00-ab-cd-01",
    )  # fmt: skip
    await asyncio.sleep(0)
    assert runs[-1] == ToolRun(
        "p", "search+ahead", "fetch", "t", "", {"x": "p"}, 1, traceparent="00-ab-cd-01", key=(inf,), workflow="w"
    )
    await asyncio.sleep(2.0)  # past the deadline of the call before it
    assert (await run(box, "p", "fetch", {"x": "p"}))["x"] == "p" and box.ahead.counts.used == 1 and not early
    await box.close()


async def test_what_nobody_asked_for_is_cancelled_with_its_program() -> None:
    host = Host(SEARCH, FETCH)
    box = await toolbox(host)
    for n in range(4):
        await one_program(box, f"p{n}")
    await one_program(box, "other", think_s=0.25, follow=False)
    await asyncio.sleep(0)
    assert (box.ahead.counts.used, box.ahead.counts.wasted, host.cancelled) == (0, 1, 1)
    assert box.caps.held == ()


async def test_a_result_from_before_a_write_and_one_that_failed_are_never_used() -> None:
    host = Host(SEARCH, FETCH, WRITE)
    box = await toolbox(host)
    for n in range(4):
        await one_program(box, f"p{n}")

    async def intend() -> None:
        return

    found = await run(box, "w1", "search", {"x": "w1"})
    await asyncio.sleep(2.0)
    await run(box, "w1", "write", {}, intend=intend)
    before = len(host.ran)
    await run(box, "w1", "fetch", {"x": found["x"]})
    assert len(host.ran) == before + 1 and box.ahead.counts.used == 0

    found = await run(box, "w2", "search", {"x": "w2"})
    host.fault = CallFailure("down", "it is down")
    await asyncio.sleep(2.0)
    host.fault = None
    assert (await run(box, "w2", "fetch", {"x": found["x"]}))["x"] == "w2"
    await box.close()


async def test_running_ahead_takes_no_room_from_others_and_is_bounded() -> None:
    host = Host(SEARCH, FETCH)
    box = await toolbox(host, functions=1, speculations=1)
    for n in range(20):
        await one_program(box, f"p{n}")
    before = box.ahead.counts.begun
    await asyncio.gather(*(run(box, f"many{n}", "search", {"x": f"many{n}"}) for n in range(5)))
    assert box.ahead.counts.begun == before + 1  # for the last one alone: until then others waited for the room
    assert host.most == 1
    await box.close()


async def test_tools_that_do_not_ask_for_it_are_never_run_ahead() -> None:
    host = Host(SEARCH, ToolSpec(name="fetch", effect=READ, share=False))
    box = await toolbox(host)
    for n in range(6):
        assert await one_program(box, f"p{n}") == 1.0
    assert box.ahead.counts.begun == 0 and not box.speculates
