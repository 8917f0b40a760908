"""A timeline as an SVG picture for reports: no script, no fonts or files from elsewhere."""

from __future__ import annotations

from html import escape

from orchestrator.telemetry.timelines.causes import LOOKS, UNEXPLAINED, Look, seconds
from tenuto.wire import Timeline

_LABEL = 190
_ROW = 20
_TOP = 46
_TICKS = 6


def svg(timeline: Timeline, width: int = 960) -> str:
    """SVG source, `width` pixels wide, a row a call. The critical path's labels are bold."""
    total_s = timeline.seconds or 1.0
    scale = (width - _LABEL - 90) / total_s
    foot = _TOP + _ROW * len(timeline.calls)
    height = foot + 30 + 16 * (len(timeline.causes) + 1)
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
    for row, call in enumerate(timeline.calls):
        y = _TOP + _ROW * row
        weight = ' font-weight="bold"' if call.id in critical else ""
        parts.append(f'<text x="8" y="{y + 14}"{weight}>{escape(_short(call.id))}</text>')
        for span in call.spans:
            parts.append(
                _box(_LABEL + span.start_s * scale, y + 3, (span.end_s - span.start_s) * scale, LOOKS[span.cause])
            )
        end_s = call.spans[-1].end_s if call.spans else 0.0
        told = seconds(end_s - call.spans[0].start_s) if call.spans else call.state
        parts.append(f'<text x="{_LABEL + end_s * scale + 6:.1f}" y="{y + 14}" fill="#666">{told}</text>')
    parts += _legend(timeline, total_s, foot + 24)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axis(total_s: float, scale: float, foot: int) -> list[str]:
    parts = []
    for tick in range(_TICKS + 1):
        at_s = total_s * tick / _TICKS
        x = _LABEL + at_s * scale
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 4}" x2="{x:.1f}" y2="{foot}" stroke="#e8e8e8"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP - 8}" fill="#999" font-size="10">{seconds(at_s)}</text>')
    return parts


def _box(x: float, y: float, width: float, look: Look) -> str:
    return f'<rect x="{x:.2f}" y="{y}" width="{max(width, 0.6):.2f}" height="{_ROW - 6}" fill="{look.colour}"/>'


def _legend(timeline: Timeline, total_s: float, y: int) -> list[str]:
    """Seconds by cause along the critical path."""
    left_s = timeline.seconds - sum(timeline.causes.values())
    rows = [(cause, value, LOOKS[cause]) for cause, value in timeline.causes.items()]
    if left_s > 0.001 * total_s:
        rows.append(("other", left_s, UNEXPLAINED))
    parts = [f'<text x="8" y="{y}" fill="#666">critical path</text>']
    for row, (cause, value, look) in enumerate(rows):
        at = y + 16 * row
        parts.append(f'<rect x="{_LABEL}" y="{at - 10}" width="12" height="12" fill="{look.colour}" stroke="#ccc"/>')
        told = f"{cause}: {seconds(value)}, {100 * value / total_s:.1f} %"
        parts.append(f'<text x="{_LABEL + 18}" y="{at}">{told}</text>')
    return parts


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
