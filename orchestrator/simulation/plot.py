"""Pictures of simulations as SVG: completion times as distributions, and a sweep as curves over the load.

Pure: data in, text out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from orchestrator.simulation.report import Report
from orchestrator.simulation.sweep import SweepPoint

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 420, 70, 20, 40, 55
_COLOURS = ("#3366cc", "#dc3912", "#109618", "#ff9900", "#990099", "#0099c6", "#dd4477", "#66aa00")


@dataclass(frozen=True, slots=True)
class Line:
    """A named line through points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def distributions(reports: Sequence[tuple[str, Report]]) -> str:
    """The share of programs that have succeeded by a time, a line a report."""
    lines = []
    for name, report in reports:
        seconds = sorted(report.seconds)
        lines.append(Line(name, [(s, (rank + 1) / len(report.programs)) for rank, s in enumerate(seconds)]))
    return chart("Programs ended by", "completion time in s", "share of programs", lines)


def curves(points: Sequence[SweepPoint]) -> str:
    """Mean completion time over the load, a line a setting."""
    names = list(dict.fromkeys(point.setting for point in points))
    lines = [
        Line(str(name), [(p.load, p.mean_s) for p in points if p.setting == name and p.mean_s < math.inf])
        for name in names
    ]
    return chart("Mean completion time", "load", "seconds", lines, log_y=True)


def chart(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, log_y: bool = False) -> str:
    """Lines over a logarithmic x axis, with a legend."""
    xs = [x for line in lines for x, _ in line.points if x > 0] or [1.0]
    ys = [y for line in lines for _, y in line.points if y > 0 or not log_y] or [1.0]
    x_axis = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, log=True)
    y_axis = _Axis(min(ys) if log_y else 0.0, max(ys), _HEIGHT - _BOTTOM, _TOP, log=log_y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{(_LEFT + _WIDTH) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(16 {_HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]
    for x in x_axis.ticks():
        at = x_axis.place(x)
        parts.append(f'<path d="M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        parts.append(f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    for y in y_axis.ticks():
        at = y_axis.place(y)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [f"{x_axis.place(x):.1f},{y_axis.place(y):.1f}" for x, y in line.points if x > 0]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(places)}"/>')
        y = _TOP + 14 + 16 * number
        parts.append(f'<path d="M{_LEFT + 10} {y - 4}h18" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_LEFT + 34}" y="{y}">{escape(line.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Values to places on the paper."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        if log:
            high = max(high, low * 1.0001)
        elif high <= low:
            high = low + 1.0
        self._low, self._high, self._start, self._end, self._log = low, high, start, end, log

    def place(self, value: float) -> float:
        low, high = self._low, self._high
        if self._log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-300))
        share = (value - low) / (high - low)
        return self._start + min(max(share, 0.0), 1.0) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """About five round values."""
        if not self._log:
            step = 10 ** math.floor(math.log10((self._high - self._low) / 4))
            step *= next(factor for factor in (1, 2, 5, 10) if (self._high - self._low) / (factor * step) <= 6)
            first = math.ceil(self._low / step)
            return [round(k * step, 12) for k in range(first, math.floor(self._high / step) + 1)]
        decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        factors = (1, 2, 5) if len(decades) <= 4 else (1,)
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        return [tick for tick in ticks if self._low <= tick <= self._high]
