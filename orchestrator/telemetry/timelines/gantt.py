"""A timeline as lines of text: a bar a call, then where the time on the critical path went."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.telemetry.timelines.causes import LOOKS, UNEXPLAINED, seconds
from tenuto.wire import Timeline, TimelineCall

_LABEL = 28
_ENDED = frozenset({"ended", "running", "ready", "waiting"})


def gantt(timeline: Timeline, width: int = 100, rows: int = 200) -> RenderableType:
    """For rich. `width` in cells; of more than `rows` calls those of the critical path and the longest are shown."""
    bar = max(20, width - _LABEL - 12)
    shown = _choose(timeline, rows)
    critical = frozenset(timeline.critical_path)
    table = Table.grid(padding=(0, 1))
    table.add_column(width=_LABEL, no_wrap=True, overflow="ellipsis")
    table.add_column(width=bar, no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for call in shown:
        style = "bold" if call.id in critical else ""
        took = call.spans[-1].end_s - call.spans[0].start_s if call.spans else 0.0
        end = seconds(took) if call.state in _ENDED else call.state
        table.add_row(Text(_label(call), style=style), _bar(call, timeline.seconds, bar), Text(end, style=style))
    parts: list[RenderableType] = [_title(timeline), table]
    if len(shown) < len(timeline.calls):
        parts.append(Text(f"{len(timeline.calls) - len(shown)} more calls are not shown", style="dim"))
    parts.append(_summary(timeline))
    return Group(*parts)


def _title(timeline: Timeline) -> Text:
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(timeline.workflow, style="bold")
    title.append(f"  {timeline.program}  {timeline.status.value}  {seconds(timeline.seconds)}  ")
    title.append(f"trace {timeline.trace_id}", style="dim")
    return title


def _choose(timeline: Timeline, rows: int) -> list[TimelineCall]:
    """The calls to show, in the order in which they began."""
    calls = list(timeline.calls)
    if len(calls) > rows:
        critical = frozenset(timeline.critical_path)
        calls.sort(key=lambda c: (c.id not in critical, -sum(s.end_s - s.start_s for s in c.spans)))
        calls = calls[:rows]
    return sorted(calls, key=lambda call: call.spans[0].start_s if call.spans else timeline.seconds)


def _label(call: TimelineCall) -> str:
    return call.id if call.stage in (None, call.id) else f"{call.id} ({call.stage})"


def _bar(call: TimelineCall, total_s: float, width: int) -> Text:
    """One cell is `total_s / width` seconds, and shows the cause that has most of it."""
    cells = [" "] * width
    styles = [""] * width
    scale = width / total_s if total_s > 0 else 0.0
    most = [0.0] * width
    for span in call.spans:
        look = LOOKS[span.cause]
        first, last = span.start_s * scale, span.end_s * scale
        for cell in range(min(width - 1, int(first)), min(width, int(last) + 1)):
            share = min(last, cell + 1) - max(first, cell)
            if share > most[cell]:
                most[cell], cells[cell], styles[cell] = share, look.glyph, look.style
    text = Text()
    for glyph, style in zip(cells, styles, strict=True):
        text.append(glyph, style=style)
    return text


def _summary(timeline: Timeline) -> RenderableType:
    """The causes of the seconds on the critical path, and how much nothing accounts for."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column(style="dim")
    total_s = timeline.seconds or 1.0
    for cause, value in timeline.causes.items():
        look = LOOKS[cause]
        table.add_row(
            Text(f"{look.glyph} {cause}", style=look.style),
            seconds(value),
            f"{100 * value / total_s:.1f} %",
            look.meaning,
        )
    left_s = timeline.seconds - sum(timeline.causes.values())
    if left_s > 0.001 * timeline.seconds:
        table.add_row(
            Text(f"{UNEXPLAINED.glyph} other", style=UNEXPLAINED.style),
            seconds(left_s),
            f"{100 * left_s / total_s:.1f} %",
            UNEXPLAINED.meaning,
        )
    path = Text("critical path: ", style="dim")
    path.append(" → ".join(timeline.critical_path) or "none", style="bold")
    return Group(Text(), path, table)
