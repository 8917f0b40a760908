"""Drawings of a timeline show every call, every cause and the critical path, and survive any name."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.telemetry.timelines import chrome, flowchart, gantt, svg
from orchestrator.telemetry.timelines.causes import LOOKS, seconds
from tenuto.wire import PathStep, ProgramStatus, Timeline, TimelineCall, TimelineSpan

ODD = 'call "1" <&>'


def call(id: str, *spans: tuple[str, float, float], after: tuple[str, ...] = (), **options: object) -> TimelineCall:
    shown = tuple(TimelineSpan(cause=cause, start_s=start_s, end_s=end_s) for cause, start_s, end_s in spans)
    fields = {"id": id, "kind": "llm", "stage": None, "after": after, "state": "ended", "spans": shown} | options
    return TimelineCall.model_validate(fields)


TIMELINE = Timeline(
    program="prog_1",
    workflow="answer",
    status=ProgramStatus.FAILED,
    trace_id="ab" * 16,
    seconds=10.0,
    calls=(
        call("plan", ("queue", 0.0, 1.0), ("recompute", 1.0, 2.0), ("prefill", 2.0, 3.0), ("decode", 3.0, 6.0)),
        call("search", ("tool", 6.0, 9.0), after=("plan",), kind="function", stage="look"),
        call(ODD, ("tool", 6.0, 7.0), after=("plan",), kind="function"),
        call("never", after=("search",), state="skipped"),
    ),
    critical_path=("plan", "search"),
    path=(PathStep(call=None, cause=None, start_s=9.0, end_s=10.0),),
    causes={"decode": 3.0, "tool": 3.0, "queue": 1.0, "recompute": 1.0, "prefill": 1.0},
)


def drawn(timeline: Timeline, rows: int = 100) -> str:
    console = Console(width=100, record=True, file=StringIO())
    console.print(gantt(timeline, 100, rows))
    return console.export_text()


def test_the_gantt_has_a_bar_a_call_and_the_causes_of_the_path() -> None:
    lines = drawn(TIMELINE).splitlines()
    assert "answer" in lines[0] and "failed" in lines[0] and "10.00 s" in lines[0]
    rows = {line.split()[0]: line for line in lines[1:5]}
    plan = rows["plan"]
    assert plan.index("░") < plan.index("▓") < plan.index("▒") < plan.index("█")
    assert rows["never"].split()[1] == "skipped" and "search (look)" in rows["search"]
    assert any(line.startswith("critical path: plan → search") for line in lines)
    told = {line.split()[1]: line for line in lines if line and line[0] in "░▓▒█?"}
    assert "30.0 %" in told["decode"] and "10.0 %" in told["other"]


def test_of_too_many_calls_the_critical_path_stays() -> None:
    text = drawn(TIMELINE, rows=2)
    assert "plan" in text and "search (look)" in text and "2 more calls are not shown" in text and "never" not in text


def test_the_chrome_trace_has_tracks_slices_and_arrows() -> None:
    found = chrome(TIMELINE)
    events = found["traceEvents"]
    named = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert set(named) == {"plan", "search", ODD, "never"}
    slices = [e for e in events if e["ph"] == "X" and e["tid"] == named["plan"]]
    assert [(e["name"], e["ts"], e["dur"]) for e in slices] == [
        ("plan", 0.0, 6e6),
        ("queue", 0.0, 1e6),
        ("recompute", 1e6, 1e6),
        ("prefill", 2e6, 1e6),
        ("decode", 3e6, 3e6),
    ]
    starts, ends = ([e for e in events if e["ph"] == kind] for kind in "sf")
    assert [e["id"] for e in starts] == [e["id"] for e in ends] == [1, 2]
    assert all(e["ts"] == 6e6 for e in starts + ends)


def test_the_flowchart_is_mermaid_with_every_edge() -> None:
    text = flowchart(TIMELINE)
    assert text.startswith("flowchart TD\n")
    assert "n0 ==> n1" in text and "n0 --> n2" in text and "n1 --> n3" in text and "class n3 bad" in text
    assert '"call #quot;1#quot; &lt;&amp;&gt;<br/>1.00 s"' in text


def test_the_picture_is_well_formed_and_has_a_box_a_span() -> None:
    root = ElementTree.fromstring(svg(TIMELINE))
    colours = [e.get("fill") for e in root.iter("{http://www.w3.org/2000/svg}rect")]
    for cause, look in LOOKS.items():
        spans = sum(span.cause == cause for c in TIMELINE.calls for span in c.spans)
        assert colours.count(look.colour) == spans + (cause in TIMELINE.causes)
    assert any(e.text == ODD for e in root.iter("{http://www.w3.org/2000/svg}text"))


@pytest.mark.parametrize("rows", [1, 100])
def test_a_program_without_calls_can_be_drawn(rows: int) -> None:
    empty = TIMELINE.model_copy(update={"calls": (), "critical_path": (), "causes": {}, "seconds": 0.0})
    assert "critical path: none" in drawn(empty, rows)
    assert flowchart(empty) == "flowchart TD\n"
    ElementTree.fromstring(svg(empty))
    assert len(chrome(empty)["traceEvents"]) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.0012, "1.2 ms"), (0.5, "0.50 s"), (99.0, "99.00 s"), (4321.0, "4321 s")]
)
def test_durations_read_well(value: float, text: str) -> None:
    assert seconds(value) == text
