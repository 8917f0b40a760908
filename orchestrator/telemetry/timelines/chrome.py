"""A timeline in the Trace Event Format that Perfetto and Chrome's tracing page open."""

from __future__ import annotations

from typing import Any

from orchestrator.telemetry.timelines.notes import of_call
from tenuto.wire import Timeline

_US = 1e6


def chrome(timeline: Timeline) -> dict[str, Any]:
    """A JSON object: a track a call, its causes as slices, arrows from producers to consumers. Times in µs."""
    events: list[dict[str, Any]] = [
        {
            "ph": "M",
            "pid": 1,
            "tid": 0,
            "name": "process_name",
            "args": {"name": f"{timeline.workflow} {timeline.program}"},
        }
    ]
    track = {call.id: number for number, call in enumerate(timeline.calls, 1)}
    ends = {call.id: call.spans[-1].end_s for call in timeline.calls if call.spans}
    critical = frozenset(timeline.critical_path)
    flow = 0
    for call in timeline.calls:
        tid = track[call.id]
        events.append({"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": call.id}})
        if not call.spans:
            continue
        start_s, end_s = call.spans[0].start_s, call.spans[-1].end_s
        about = {
            "state": call.state,
            "stage": call.stage,
            "prompt_tokens": call.prompt_tokens,
            "cached_tokens": call.cached_tokens,
            "output_tokens": call.output_tokens,
            "critical": call.id in critical,
            "notes": of_call(call),
        }
        events.append(_slice(tid, call.id, call.kind, start_s, end_s, about))
        events += [_slice(tid, span.cause, "cause", span.start_s, span.end_s, {}) for span in call.spans]
        for producer in call.after:
            if producer in ends:
                flow += 1
                name = {"pid": 1, "name": "variable", "cat": "variable", "id": flow}
                events.append({"ph": "s", "tid": track[producer], "ts": min(ends[producer], start_s) * _US, **name})
                events.append({"ph": "f", "bp": "e", "tid": tid, "ts": start_s * _US, **name})
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"trace_id": timeline.trace_id}}


def _slice(tid: int, name: str, category: str, start_s: float, end_s: float, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "pid": 1,
        "tid": tid,
        "name": name,
        "cat": category,
        "ts": start_s * _US,
        "dur": (end_s - start_s) * _US,
        "args": args,
    }
