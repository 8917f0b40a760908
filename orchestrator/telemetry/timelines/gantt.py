"""A timeline as lines of text: a bar a call, then where the time on the critical path went."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.telemetry.timelines.causes import LOOKS, UNEXPLAINED, in_order, seconds, tick_name, ticks, took_s
from orchestrator.telemetry.timelines.notes import notes
from tenuto.wire import Timeline, TimelineCall

_LABEL = 28
_TICK = 10
"""Cells that the name of a time may take."""
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
    table.add_row("", Text(_axis(timeline.seconds, bar), style="dim"), "")
    for call in shown:
        style = "bold" if call.id in critical else ""
        end = seconds(took_s(call)) if call.state in _ENDED else call.state
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
    critical = frozenset(timeline.critical_path)
    ranked = sorted(timeline.calls, key=lambda call: (call.id not in critical, -took_s(call)))
    chosen = {call.id for call in ranked[:rows]}
    return [call for call in in_order(timeline) if call.id in chosen]


def _axis(total_s: float, width: int) -> str:
    """Round times above the cells where they are."""
    cells = [" "] * width
    for at_s in ticks(total_s, max(2, width // _TICK)):
        name = tick_name(at_s, total_s)
        cell = int(at_s / total_s * width) if total_s > 0 else 0
        if cell + len(name) <= width:
            cells[cell : cell + len(name)] = name
    return "".join(cells)


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
    told = [Text(f"· {note}", style="dim") for note in notes(timeline)]
    return Group(Text(), path, table, *told)
