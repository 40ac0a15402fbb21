"""Charts of the evaluation report: curves and confidence intervals, as SVG from matplotlib.

The same data give the same bytes: identifiers are hashed with a fixed salt, no date is written.
Text stays text, so no font of this machine is embedded.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_INK, _SOFT, _GRID = "#1d2733", "#5b6875", "#dde3e9"
_OWN, _BASELINE = "#0b63a5", "#c2570c"
_WIDTH: Final = 400
"""Width of a chart in pixels: little wider than a phone, so that its text stays readable there."""
_ROW: Final = 34
"""Height of a row of `intervals`, in pixels."""
_LEFT, _BOTTOM, _MARGIN = 52, 44, 10
"""Space around the curves in pixels: for ticks and labels, and at the other sides."""
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "figure.dpi": 72,  # A point is then a pixel of the SVG.
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "text.color": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear or logarithmic axis: label, limits and ticks."""

    label: str
    low: float = 0.0
    high: float = 1.0
    ticks: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    log: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A curve, its style (a key of `_LINES`), and its name in the legend."""

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
class IntervalRow:
    """A named value with its interval, None where undefined; `baseline` is drawn hollow."""

    name: str
    value: float | None
    low: float = 0.0
    high: float = 0.0
    baseline: float | None = None


_LINES: Final[dict[str, dict[str, Any]]] = {
    "own": {"color": _OWN, "linewidth": 2},
    "dots": {"color": _OWN, "linewidth": 2, "marker": "o", "markersize": 4},
    "baseline": {"color": _BASELINE, "linewidth": 2, "linestyle": (0, (4, 3))},
    "guide": {"color": _SOFT, "linewidth": 1, "linestyle": (0, (3, 3))},
}


def curves(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    band: Band | None = None,
    size: tuple[int, int] = (_WIDTH, 300),
) -> Markup:
    """Draw curves.

    Args:
        title: the chart's text alternative; unique on the page.
        lines: the curves.
        x: the horizontal axis.
        y: the vertical axis.
        band: an area behind the curves.
        size: width and height in pixels.

    Returns:
        An SVG element.
    """
    with mpl.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure = Figure(
            figsize=(size[0] / 72, size[1] / 72),
        )
        axes = figure.add_axes(
            (
                _LEFT / size[0],
                _BOTTOM / size[1],
                1 - (_LEFT + _MARGIN) / size[0],
                1 - (_BOTTOM + _MARGIN) / size[1],
            )
        )
        if band is not None:
            axes.fill_between(band.x, band.low, band.high, color=_OWN, alpha=0.14, linewidth=0)
        for line in lines:
            axes.plot(line.x, line.y, label=line.name or "_", **_LINES[line.style])
        if any(line.name for line in lines):
            axes.legend(loc="lower right", frameon=False)
        _set_axis(axes, "x", x)
        _set_axis(axes, "y", y)
        return _to_svg(figure, title)


def intervals(
    title: str, rows: Sequence[IntervalRow], x: Axis, *, mark_zero: bool = False
) -> Markup:
    """Draw one row for each value: name and numbers, below them a dot on its interval.

    Args:
        title: the chart's text alternative; unique on the page.
        rows: the values.
        x: the horizontal axis.
        mark_zero: draw a line at zero.

    Returns:
        An SVG element.
    """
    height = _ROW * len(rows) + 48
    with mpl.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        axes = figure.add_axes(
            (12 / _WIDTH, 44 / height, 1 - 24 / _WIDTH, _ROW * len(rows) / height)
        )
        for k, row in enumerate(rows):
            _draw_interval(axes, k, row)
        if mark_zero:
            axes.axvline(0, color=_SOFT, linewidth=1, linestyle=(0, (3, 3)))
        _set_axis(axes, "x", x)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        return _to_svg(figure, title)


def _draw_interval(axes: Axes, k: int, row: IntervalRow) -> None:
    across = axes.get_yaxis_transform()  # x from 0 to 1 over the width, y in rows
    numbers = "no example"
    if row.value is not None:
        numbers = f"{row.value:z.3f} [{row.low:z.3f}, {row.high:z.3f}]"
        axes.hlines(k + 0.25, row.low, row.high, color=_OWN, linewidth=2)
        if row.baseline is not None:
            axes.plot(
                row.baseline,
                k + 0.25,
                "o",
                color=_BASELINE,
                markerfacecolor="white",
                clip_on=False,
            )
        axes.plot(row.value, k + 0.25, "o", color=_OWN, clip_on=False)
    axes.text(0, k - 0.05, row.name, transform=across)
    colour = _SOFT if row.value is None else _INK
    axes.text(1, k - 0.05, numbers, transform=across, ha="right", color=colour)


def _set_axis(axes: Axes, which: str, axis: Axis) -> None:
    labels = [f"1/{1 / tick:g}" if axis.log and tick < 1 else f"{tick:g}" for tick in axis.ticks]
    settings = {
        f"{which}scale": "log" if axis.log else "linear",
        f"{which}lim": (axis.low, axis.high),
        f"{which}label": axis.label,
    }
    axes.set(**settings)
    own = axes.xaxis if which == "x" else axes.yaxis
    own.set_ticks(list(axis.ticks), labels=labels)
    own.set_ticks([], minor=True)


def _to_svg(figure: Figure, title: str) -> Markup:
    """Return the figure as an element for a page, without prolog and comments."""
    FigureCanvasSVG(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Groups are never referred to, and their names repeat from chart to chart.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    width, height = (round(inches * 72) for inches in figure.get_size_inches())
    size = f'viewBox="0 0 {width} {height}" width="{width}"'
    head = f'<svg {size} role="img" aria-label="{escape(title)}">'
    return Markup(head + svg[svg.index(">") + 1 :].strip())  # noqa: S704 - made by matplotlib
