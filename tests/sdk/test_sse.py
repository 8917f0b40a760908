from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenuto.sse import ServerSentEvent, SSEParser

EVENTS = st.lists(
    st.builds(
        ServerSentEvent,
        event=st.sampled_from(["message", "call.ended", "variable.written"]),
        data=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")).map(json.dumps),
        id=st.none() | st.integers(0, 10**6).map(str),
    ),
    max_size=8,
)


def written(events: list[ServerSentEvent], end: str, heartbeats: bool) -> bytes:
    lines: list[str] = []
    for event in events:
        lines += [": heartbeat", ""] if heartbeats else []
        lines += [] if event.id is None else [f"id: {event.id}"]
        lines += [f"event: {event.event}", f"data: {event.data}", ""]
    return "".join(line + end for line in lines).encode()


@given(EVENTS, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.lists(st.integers(0, 400), max_size=20))
def test_events_do_not_depend_on_where_the_bytes_are_cut(
    events: list[ServerSentEvent], end: str, heartbeats: bool, cuts: list[int]
) -> None:
    stream = written(events, end, heartbeats) + b"\n"  # what follows a lone "\r" decides what it was
    parser, found = SSEParser(), []
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for start, stop in itertools.pairwise(places):
        found += parser.feed(stream[start:stop])
    assert found == events


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_cut_at_any_place_changes_nothing(end: str) -> None:
    events = [ServerSentEvent("call.ended", '{"a": "é"}', "7"), ServerSentEvent("message", "2", None)]
    stream = written(events, end, heartbeats=True) + b"\n"
    for cut in range(len(stream)):
        parser = SSEParser()
        assert parser.feed(stream[:cut]) + parser.feed(stream[cut:]) == events, cut


def test_the_odd_cases_of_the_format() -> None:
    parser = SSEParser()
    assert parser.feed(b"data\n\n") == [ServerSentEvent("message", "", None)]
    assert parser.feed(b"data: a\ndata:b\ndata:  c\n\n") == [ServerSentEvent("message", "a\nb\n c", None)]
    assert parser.feed(b"event: x\nid: 1\n\n") == []
    assert parser.feed(b"retry: 3\nunknown: 4\ndata: x\n\n") == [ServerSentEvent("message", "x", None)]
    assert parser.feed(b"id: a\0b\ndata: x\n\n") == [ServerSentEvent("message", "x", None)]
    separators = "a\u2028b\u0085c\x0bd"  # line ends for str.splitlines, not for this format
    assert parser.feed(f"data: {separators}\n\n".encode()) == [ServerSentEvent("message", separators, None)]
