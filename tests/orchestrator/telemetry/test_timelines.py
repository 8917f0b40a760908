"""Drawings of a timeline show every call, every cause and the critical path, and survive any name."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.telemetry.timelines import chrome, flowchart, gantt, svg
from orchestrator.telemetry.timelines.causes import LOOKS, seconds, tick_name, ticks
from orchestrator.telemetry.timelines.notes import notes
from tenuto.wire import CacheHit, PathStep, ProgramStatus, Recompute, Timeline, TimelineCall, TimelineSpan

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
    assert lines[1].split() == ["0", "s", "2", "s", "4", "s", "6", "s", "8", "s"]
    rows = {line.split()[0]: line for line in lines[2:6]}
    plan = rows["plan"]
    assert plan.index("░") < plan.index("▓") < plan.index("▒") < plan.index("█")
    assert rows["never"].split()[1] == "skipped" and "search (look)" in rows["search"]
    assert any(line.startswith("critical path: plan → search") for line in lines)
    told = {line.split()[1]: line for line in lines if line and line[0] in "░▓▒█▚?"}
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


@pytest.mark.parametrize("began_s", [2.0, 6.0, 7.0])
def test_the_chrome_trace_is_one_that_viewers_can_read(began_s: float) -> None:
    """By the Trace Event Format: each event has the fields of its phase, and an arrow lies within slices of its ends,
    also where a call began while its producer still wrote."""
    began = call("early", ("tool", began_s, 9.0), after=("plan",), kind="function")
    found = json.loads(json.dumps(chrome(TIMELINE.model_copy(update={"calls": (TIMELINE.calls[0], began)}))))
    assert found["displayTimeUnit"] in ("ms", "ns")
    events = found["traceEvents"]
    slices: dict[int, list[tuple[float, float]]] = {}
    for event in events:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int) and isinstance(event["name"], str)
        assert event["ph"] in "MXsf"
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name") and isinstance(event["args"]["name"], str)
            continue
        assert event["ts"] >= 0 and isinstance(event["cat"], str)
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    (start,), (end,) = ([e for e in events if e["ph"] == kind] for kind in "sf")
    assert start["ts"] <= end["ts"] and end["bp"] == "e" and start["tid"] != end["tid"]
    for event in (start, end):
        assert any(first <= event["ts"] <= last for first, last in slices[event["tid"]])


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


HIT = CacheHit(
    hit=1, tier="semantic", category="fact", similarity=0.931, age_s=5.0, saved_s=2.5, saved_tokens=9, entry=1
)


def test_it_is_said_behind_whom_a_call_queued_what_was_read_again_and_what_was_known() -> None:
    again = Recompute(tokens=96, why="expired", left_by="plan")
    calls = (
        call("plan", ("queue", 0.0, 0.5), ("decode", 0.5, 2.0), behind=("prog_7", "prog_9")),
        call("next", ("queue", 2.0, 3.0), ("recompute", 3.0, 5.0), ("decode", 5.0, 6.0), recompute=again),
        call("known", ("cache", 2.0, 2.1), cache=HIT),
    )
    timeline = TIMELINE.model_copy(update={"calls": calls, "critical_path": ("plan", "next")})
    expected = [
        "next read 96 tokens again that plan had left: their lease had ended before",
        "plan queued 0.50 s behind prog_7, prog_9",
        "known came from the cache (semantic, fact, similarity 0.93): 2.50 s saved",
    ]
    assert notes(timeline) == expected and notes(timeline, most=1) == expected[:1]
    longer = timeline.model_copy(update={"seconds": 60.0})
    assert notes(longer) == [expected[0], expected[2]], "a short wait of a long program"
    text = drawn(timeline)
    assert all(line in text for line in expected)
    picture = svg(timeline)
    assert all(line in picture for line in expected) and "cache: not on the critical path" in picture
    told = [e["args"]["notes"] for e in chrome(timeline)["traceEvents"] if e["ph"] == "X" and e["args"]]
    assert [line for lines in told for line in lines] == [expected[1], expected[0], expected[2]]


@pytest.mark.parametrize(
    ("total_s", "names"),
    [
        (14.13, ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s", "12 s", "14 s"]),
        (0.07, ["0 ms", "10 ms", "20 ms", "30 ms", "40 ms", "50 ms", "60 ms", "70 ms"]),
        (3600.0, ["0 s", "500 s", "1000 s", "1500 s", "2000 s", "2500 s", "3000 s", "3500 s"]),
        (0.0, ["0 ms"]),
    ],
)
def test_the_axis_has_round_times(total_s: float, names: list[str]) -> None:
    assert [tick_name(at_s, total_s) for at_s in ticks(total_s, 9)] == names
