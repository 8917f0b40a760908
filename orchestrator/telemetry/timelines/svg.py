"""A timeline as an SVG picture for reports: no script, no fonts or files from elsewhere."""

from __future__ import annotations

from html import escape

from orchestrator.telemetry.timelines.causes import (
    LOOKS,
    UNEXPLAINED,
    Look,
    in_order,
    seconds,
    tick_name,
    ticks,
    took_s,
)
from orchestrator.telemetry.timelines.notes import of_call
from tenuto.wire import Timeline, TimelineCall

_LABEL = 190
_ROW = 20
_TOP = 46
_TICKS = 9


def svg(timeline: Timeline, width: int = 960) -> str:
    """SVG source, `width` pixels wide, a row a call. The critical path's labels are bold."""
    total_s = timeline.seconds or 1.0
    scale = (width - _LABEL - 90) / total_s
    foot = _TOP + _ROW * len(timeline.calls)
    legend = _legend(timeline, total_s, foot + 24)
    height = foot + 14 + 16 * len(legend)
    critical = frozenset(timeline.critical_path)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="ui-sans-serif, system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="18" font-weight="bold">{escape(timeline.workflow)}</text>',
        f'<text x="{_LABEL}" y="18" fill="#666">{escape(timeline.program)}, {timeline.status.value}, '
        f"{seconds(timeline.seconds)}</text>",
        *_axis(total_s, scale, foot),
    ]
    for row, call in enumerate(in_order(timeline)):
        parts += _row(call, _TOP + _ROW * row, scale, bold=call.id in critical)
    return "\n".join([*parts, *legend, "</svg>"]) + "\n"


def _row(call: TimelineCall, y: int, scale: float, *, bold: bool) -> list[str]:
    """A call's name, its causes, and how long it took; what more is known of it shows where the pointer rests."""
    weight = ' font-weight="bold"' if bold else ""
    told = seconds(took_s(call)) if call.spans else call.state
    end_s = call.spans[-1].end_s if call.spans else 0.0
    about = escape("\n".join([f"{call.id}: {call.state}, {told}", *of_call(call)]))
    return [
        f"<g><title>{about}</title>",
        f'<text x="8" y="{y + 14}"{weight}>{escape(_short(call.id))}</text>',
        *(
            _box(_LABEL + span.start_s * scale, y + 3, (span.end_s - span.start_s) * scale, LOOKS[span.cause])
            for span in call.spans
        ),
        f'<text x="{_LABEL + end_s * scale + 6:.1f}" y="{y + 14}" fill="#666">{told}</text>',
        "</g>",
    ]


def _axis(total_s: float, scale: float, foot: int) -> list[str]:
    parts = []
    for at_s in ticks(total_s, _TICKS):
        x, name = _LABEL + at_s * scale, tick_name(at_s, total_s)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 4}" x2="{x:.1f}" y2="{foot}" stroke="#e8e8e8"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP - 8}" fill="#999" font-size="10" text-anchor="middle">{name}</text>')
    return parts


def _box(x: float, y: float, width: float, look: Look) -> str:
    return f'<rect x="{x:.2f}" y="{y}" width="{max(width, 0.6):.2f}" height="{_ROW - 6}" fill="{look.colour}"/>'


def _legend(timeline: Timeline, total_s: float, y: int) -> list[str]:
    """Seconds by cause along the critical path, a line each; then causes that only other calls have."""
    left_s = timeline.seconds - sum(timeline.causes.values())
    rows = [(LOOKS[cause], _share(cause, value, total_s)) for cause, value in timeline.causes.items()]
    if left_s > 0.001 * total_s:
        rows.append((UNEXPLAINED, _share("other", left_s, total_s)))
    aside = {span.cause for call in timeline.calls for span in call.spans}.difference(timeline.causes)
    rows += [(look, f"{cause}: not on the critical path") for cause, look in LOOKS.items() if cause in aside]
    lines = []
    for row, (look, told) in enumerate(rows):
        at = y + 16 * row
        head = f'<text x="8" y="{at}" fill="#666">critical path</text>' if row == 0 else ""
        box = f'<rect x="{_LABEL}" y="{at - 10}" width="12" height="12" fill="{look.colour}" stroke="#ccc"/>'
        lines.append(f'{head}{box}<text x="{_LABEL + 18}" y="{at}">{told}</text>')
    return lines


def _share(cause: str, value: float, total_s: float) -> str:
    return f"{cause}: {seconds(value)}, {100 * value / total_s:.1f} %"


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
