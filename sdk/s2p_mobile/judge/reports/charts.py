"""Line charts as inline SVG: no scripts, no fonts, no links."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from s2p_mobile.judge.reports.entries import printable

Point = tuple[float, float]

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 44
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
"""Okabe and Ito's palette for all kinds of colour vision, with two more."""
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_MOST_POINTS = 1000
_LOGARITHMIC_FROM = 20
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


@dataclass(frozen=True)
class Series:
    """A named line. ``steps``: the value holds until the next point."""

    name: str
    points: tuple[Point, ...]
    steps: bool = False


def style(index: int) -> tuple[str, str]:
    """Colour and dash pattern of the n-th series."""
    return _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]


def thin(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """At most about ``most`` points: of each stretch its lowest and its highest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(range(len(part)), key=lambda i: part[i][1]), max(range(len(part)), key=lambda i: part[i][1])}
        kept.extend(part[i] for i in sorted(ends))
    return kept


def distribution(name: str, samples: Sequence[float]) -> Series:
    """The share of samples, in per cent, that are at most x: a step at each sample."""
    ordered = sorted(samples)
    points = [(value, 100 * (index + 1) / len(ordered)) for index, value in enumerate(ordered)]
    return Series(name, ((ordered[0], 0.0), *points) if ordered else (), steps=True)


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    logarithmic: bool
    start: float
    end: float

    def place(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            marks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / 5
            size = 10 ** math.floor(math.log10(rough))
            step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            marks = [step * k for k in range(first, last + 1)]
        return [mark for mark in marks if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]


def _axis(values: Sequence[float], start: float, end: float, *, from_zero: bool, may_be_logarithmic: bool) -> _Axis:
    low, high = min(values), max(values)
    if may_be_logarithmic and low > 0 and high / low >= _LOGARITHMIC_FROM:
        return _Axis(low, high, True, start, end)
    low = min(low, 0.0) if from_zero else low
    if high == low:
        margin = abs(high) * 0.05 or 1.0
        low, high = (low, high + margin) if from_zero else (low - margin, high + margin)
    return _Axis(low, high, False, start, end)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


def line_chart(
    series: Sequence[Series], x_title: str, y_title: str, *, over_time: bool = True, y_from_zero: bool = True
) -> str:
    """An ``<svg>`` element; empty when no series has a point. Colours follow the order of ``series``.

    Args:
        over_time: x starts at 0; otherwise at the smallest x, and is logarithmic where the values span much.
        y_from_zero: y starts at 0 unless values are below.
    """
    points = [point for one in series for point in one.points]
    if not points:
        return ""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    x_axis = _axis([x for x, _ in points], _LEFT, right, from_zero=over_time, may_be_logarithmic=not over_time)
    y_axis = _axis([y for _, y in points], bottom, _TOP, from_zero=y_from_zero, may_be_logarithmic=False)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{y_title} by {x_title}")}" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for mark in x_axis.ticks():
        x = x_axis.place(mark)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_number(mark)}</text>')
    for mark in y_axis.ticks():
        y = y_axis.place(mark)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(mark)}</text>')
    for index, one in enumerate(series):
        parts.append(_line(one, index, x_axis, y_axis))
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y_title)}</text>')
    return "".join((*parts, "</svg>"))


def _line(series: Series, index: int, x_axis: _Axis, y_axis: _Axis) -> str:
    if not series.points:
        return ""
    colour, dash = style(index)
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in thin(series.points)]
    if series.steps:
        places = [corner for k, (x, y) in enumerate(places) for corner in ((x, places[max(k - 1, 0)][1]), (x, y))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    pattern = f' stroke-dasharray="{dash}"' if dash else ""
    shape = f'<polyline class="line" points="{path}" stroke="{colour}"{pattern}/>'
    if len(series.points) <= 2:
        # One reading is no line.
        shape += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places)
    return f"<g><title>{escape(printable(series.name))}</title>{shape}</g>"
