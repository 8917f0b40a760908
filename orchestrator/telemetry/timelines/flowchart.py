"""A timeline's graph as a Mermaid flowchart: what ran, how long it took, which way the end waited for."""

from __future__ import annotations

from orchestrator.telemetry.timelines.causes import seconds
from tenuto.wire import Timeline


def flowchart(timeline: Timeline) -> str:
    """Mermaid source. The critical path is drawn thick, calls that did not end well are dashed."""
    node = {call.id: f"n{index}" for index, call in enumerate(timeline.calls)}
    critical = frozenset(timeline.critical_path)
    lines = ["flowchart TD"]
    for call in timeline.calls:
        took = seconds(call.spans[-1].end_s - call.spans[0].start_s) if call.spans else call.state
        opening, closing = ("[[", "]]") if call.kind == "function" else ("[", "]")
        lines.append(f'    {node[call.id]}{opening}"{_escape(call.id)}<br/>{took}"{closing}')
    for call in timeline.calls:
        for producer in call.after:
            arrow = "==>" if call.id in critical and producer in critical else "-->"
            lines.append(f"    {node[producer]} {arrow} {node[call.id]}")
    bad = [node[call.id] for call in timeline.calls if call.state in ("failed", "skipped", "cancelled")]
    if bad:
        lines += ["    classDef bad stroke-dasharray:4", f"    class {','.join(bad)} bad"]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Mermaid takes HTML entities in quoted labels."""
    return text.replace("&", "&amp;").replace('"', "#quot;").replace("<", "&lt;").replace(">", "&gt;")
