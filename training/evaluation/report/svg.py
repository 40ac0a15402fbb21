"""Charts as SVG text, for reports that must open without a network: lines and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 38
"""Margins in pixels: room for ticks and labels."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction: its label, its end points, where it is marked; `log` for equal ratios."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 at `low` and 1 at `high`; clipped to them."""
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            at = (math.log(max(value, self.low)) - low) / (high - low)
        else:
            at = (value - self.low) / (self.high - self.low)
        return min(max(at, 0.0), 1.0)


UNIT = (0.0, 0.25, 0.5, 0.75, 1.0)


def unit(label: str) -> Axis:
    """From 0 to 1."""
    return Axis(label, 0.0, 1.0, UNIT)


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: x and y of its points, a CSS class (`own`, `other`, `guide`), a name."""

    x: Sequence[float]
    y: Sequence[float]
    style: str = "own"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """The area between two curves over the same x."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A named value with its interval, or why it has none; `other` is drawn beside it, hollow."""

    name: str
    value: float | None
    low: float = 0.0
    high: float = 0.0
    said: str = ""
    other: float | None = None


def lines(
    series: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    size: tuple[int, int] = (460, 320),
    band: Band | None = None,
    described: str,
) -> str:
    """A chart of curves; `described` is read out instead of it."""
    width, height = size
    parts = [_frame(x, y, width, height)]

    def point(a: float, b: float) -> str:
        return f"{_across(x, a, width):.1f},{_down(y, b, height):.1f}"

    if band is not None:
        there = [point(a, b) for a, b in zip(band.x, band.high, strict=True)]
        back = [point(a, b) for a, b in zip(band.x, band.low, strict=True)][::-1]
        parts.append(f'<polygon class="band" points="{" ".join(there + back)}"/>')
    for line in series:
        path = " ".join(point(a, b) for a, b in zip(line.x, line.y, strict=True))
        parts.append(f'<polyline class="{line.style}" points="{path}"/>')
    named = [line for line in series if line.name]
    for k, line in enumerate(named):
        right, row = width - RIGHT - 8, height - BOTTOM - 10 - 16 * (len(named) - 1 - k)
        parts.append(
            f'<text class="key {line.style}" x="{right}" y="{row}" text-anchor="end">'
            f"{escape(line.name)}</text>"
        )
    return _svg(width, height, described, parts)


def intervals(
    bars: Sequence[Bar],
    x: Axis,
    *,
    described: str,
    zero: float | None = None,
) -> str:
    """One row for each value: a dot on its interval, the numbers beside it."""
    names = round(20 + 6.8 * max((len(bar.name) for bar in bars), default=0))
    inner, numbers, row = 360, 160, 22
    width, height = names + inner + numbers, row * len(bars) + BOTTOM

    def across(value: float) -> float:
        return names + x.place(value) * inner

    parts = []
    for tick in x.ticks:
        at, foot = across(tick), height - BOTTOM + 4
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{foot}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{foot + 13}" text-anchor="middle">{_number(tick, x)}</text>'
        )
    if zero is not None:
        at = across(zero)
        parts.append(
            f'<line class="zero" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height - BOTTOM}"/>'
        )
    parts.append(
        f'<text x="{names + inner / 2:.0f}" y="{height - 4}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    for k, bar in enumerate(bars):
        y = row * k + row / 2
        parts.append(
            f'<text x="{names - 10}" y="{y + 4:.0f}" text-anchor="end">{escape(bar.name)}</text>'
        )
        right = f'x="{width - numbers + 10}" y="{y + 4:.0f}"'
        if bar.value is None:
            parts.append(f'<text class="none" {right}>{escape(bar.said)}</text>')
            continue
        low, high = across(bar.low), across(bar.high)
        parts.append(f'<line class="span" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        if bar.other is not None:
            parts.append(f'<circle class="hollow" cx="{across(bar.other):.1f}" cy="{y}" r="4"/>')
        parts.append(f'<circle class="dot" cx="{across(bar.value):.1f}" cy="{y}" r="4"/>')
        numbers_said = f"{bar.value:z.3f} [{bar.low:z.3f}, {bar.high:z.3f}]"
        parts.append(f'<text class="number" {right}>{numbers_said}</text>')
    return _svg(width, height, described, parts)


def _frame(x: Axis, y: Axis, width: int, height: int) -> str:
    parts = []
    foot, right = height - BOTTOM, width - RIGHT
    for tick in y.ticks:
        at = _down(y, tick, height)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(tick, y)}</text>'
        )
    for tick in x.ticks:
        at = _across(x, tick, width)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{foot}"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{foot + 14}" text-anchor="middle">{_number(tick, x)}</text>'
        )
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{height - 6}" text-anchor="middle">{escape(x.label)}</text>'
    )
    halfway = (TOP + foot) / 2
    parts.append(
        f'<text transform="translate(11 {halfway:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.label)}</text>"
    )
    return "".join(parts)


def _across(axis: Axis, value: float, width: int) -> float:
    return LEFT + axis.place(value) * (width - LEFT - RIGHT)


def _down(axis: Axis, value: float, height: int) -> float:
    return height - BOTTOM - axis.place(value) * (height - TOP - BOTTOM)


def _number(value: float, axis: Axis) -> str:
    """Halves, quarters and eighths as fractions where the axis is one of equal ratios."""
    return f"1/{1 / value:g}" if axis.log and value < 1 else f"{value:g}"


def _svg(width: int, height: int, described: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(described, quote=True)}">{"".join(parts)}</svg>'
    )
