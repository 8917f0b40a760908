"""Tools that had worked for a call before it was made: told in the timeline, kept over a restart, counted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from orchestrator.telemetry import Meters
from orchestrator.tools.python import PythonTools
from tenuto import tool
from tenuto.wire import TimelineCall
from tests.orchestrator.runtime.support import TENANT, Server, function, program, var

calls: list[str] = []


@tool(effects="read", share=False)
async def search(query: str) -> dict[str, str]:
    await asyncio.sleep(1.0)
    return {"url": f"http://{query}"}


@tool(effects="read", speculate=True, share=False)
async def fetch(url: str) -> str:
    calls.append(url)
    await asyncio.sleep(2.0)
    return f"<{url}>"


@tool(effects="read", share=False)
async def think() -> int:
    await asyncio.sleep(1.5)
    return 1


@tool(effects="read")
async def slow(x: int) -> int:
    await asyncio.sleep(4.0)
    return x


@tool(effects="read", cache=60.0)
async def lasting(x: int) -> int:
    await asyncio.sleep(4.0)
    return x


def hosts() -> tuple[PythonTools]:
    return (PythonTools(tools=[search, fetch, think, slow, lasting]),)


async def timeline(server: Server, id: str) -> dict[str, TimelineCall]:
    await server.runtime.recall(id, tenant=TENANT)
    return {call.id: call for call in server.runtime.timeline(id, tenant=TENANT).calls}


def sessions(query: str) -> Any:
    """A search, a thought, and only then the page that was found."""
    found = function("found", "search", {"query": query})
    page = function("page", "fetch", {"url": var("found", "url")}, after=("thought",))
    return program(found, function("thought", "think", after=("found",)), page, toolset=None, workflow="browse")


async def test_a_foreseen_call_shows_its_head_start_in_timeline_and_metrics(tmp_path: Path) -> None:
    meters = Meters(lambda: 0.0)
    server = await Server(hosts=hosts(), journal_path=tmp_path / "journal.db", metrics=meters).start()
    first = []
    for n in range(4):
        first.append(await server.submit(sessions(f"q{n}")))
        await server.follow(first[-1])
    calls.clear()
    id = await server.submit(sessions("new"))
    await server.follow(id)
    assert calls == ["http://new"]  # run once, ahead: nobody sees another run
    page = (await timeline(server, id))["page"]
    assert (page.early, page.early_s) == ("foreseen", 1.5)
    assert sum(span.end_s - span.start_s for span in page.spans if span.cause == "tool") == 0.5
    assert (await timeline(server, first[0]))["page"].early is None
    shown = meters.exposition().decode()
    assert 'tenuto_speculation_runs_total{tenuto_speculation_outcome="used"} 1.0' in shown
    assert 'tenuto_speculation_seconds_total{tenuto_speculation_outcome="used"} 1.5' in shown
    assert 'tenuto_tools_early_total{tenuto_tool_early="foreseen"} 1.0' in shown
    await server.crash()
    again = await Server(hosts=hosts(), journal_path=tmp_path / "journal.db").start()
    assert (await timeline(again, id))["page"] == page
    await again.close()


async def test_shared_and_kept_results_are_told_as_such() -> None:
    server = await Server(hosts=hosts()).start()
    pair = program(function("a", "slow", {"x": 1}), function("b", "slow", {"x": 1}), toolset=None)
    later = program(function("c", "lasting", {"x": 1}), function("d", "lasting", {"x": 1}, after=("c",)), toolset=None)
    ids = [await server.submit(one) for one in (pair, later)]
    for id in ids:
        await server.follow(id)
    assert [call.early for call in (await timeline(server, ids[0])).values()] == [None, "shared"]
    assert [call.early for call in (await timeline(server, ids[1])).values()] == [None, "kept"]
    await server.close()
