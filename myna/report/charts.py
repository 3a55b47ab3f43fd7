"""Curves and histograms as SVG that stands in the page: its colours are the page's, its texts are escaped.

A chart is drawn for the width of a phone, so that its letters stay readable there, and grows with the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 20, 38
MAX_POINTS = 300  # of a line; more are averaged in groups
MAX_DOTS = 40  # points of a line that are marked
MAX_TICKS = 5
NUM_BINS = 20
LOG_FROM_RATIO = 30.0  # values that span more are drawn on a logarithmic scale

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a chart."""

    name: str
    points: Points  # rising in x


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and what explains it."""

    title: str
    svg: Markup
    names: tuple[str, ...]  # of its lines or kinds of bars, in the order of their colours


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places in the drawing."""

    low: float
    high: float
    start: float  # place of `low`
    stop: float
    is_log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if not self.is_log:
            return round_steps(self.low, self.high)
        exponents = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
        skip = math.ceil(len(exponents) / MAX_TICKS)
        return [10.0**exponent for exponent in exponents[::skip]]


def line_chart(title: str, lines: Sequence[Line], x_label: str, unit: str) -> Chart | None:
    """Curves over a common axis; None where there is nothing to draw.

    Args:
        title: what is shown.
        lines: those without points are left out.
        x_label: what the horizontal axis counts.
        unit: of the vertical axis.
    """
    lines = [Line(line.name, thinned(line.points)) for line in lines if line.points]
    if not lines:
        return None
    x_values, y_values = zip(*(point for line in lines for point in line.points), strict=True)
    first, last = min(x_values), max(x_values)
    x_axis = _Axis(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    y_axis = _value_axis(y_values)
    drawn = Markup().join(_curve(number, line, x_axis, y_axis) for number, line in enumerate(lines))
    unit = ", ".join(part for part in (unit, "logarithmic" if y_axis.is_log else "") if part)
    svg = _frame(title, _in_words(lines, x_label), x_axis, y_axis, x_label, unit, drawn)
    return Chart(title, svg, tuple(line.name for line in lines))


def histogram(title: str, groups: Mapping[str, Sequence[float]], x_label: str) -> Chart | None:
    """How often values are, in equal bins and as shares of their group; None where there are no values."""
    values = {name: np.asarray(group, float) for name, group in groups.items() if len(group)}
    if not values:
        return None
    low = min(float(group.min()) for group in values.values())
    high = max(float(group.max()) for group in values.values())
    edges = np.linspace(low, max(high, low + 0.1), NUM_BINS + 1)
    shares = {name: 100 * np.histogram(group, edges)[0] / len(group) for name, group in values.items()}
    x_axis = _Axis(float(edges[0]), float(edges[-1]), LEFT, WIDTH - RIGHT)
    y_axis = _Axis(0.0, max(float(group.max()) for group in shares.values()), HEIGHT - BOTTOM, TOP)
    width = (WIDTH - RIGHT - LEFT) / NUM_BINS / len(shares)
    bar = Markup('<rect class="fill{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    bars = Markup().join(
        bar.format(number, x_axis.place(edge) + number * width, top, width, HEIGHT - BOTTOM - top)
        for number, group in enumerate(shares.values())
        for edge, top in zip(edges[:-1], (y_axis.place(share) for share in group), strict=True)
    )
    said = "; ".join(
        f"{name}: {len(group):,} values from {group.min():.2f} to {group.max():.2f}, half below {np.median(group):.2f}"
        for name, group in values.items()
    )
    return Chart(title, _frame(title, said, x_axis, y_axis, x_label, "% of them", bars), tuple(shares))


def thinned(points: Points) -> Points:
    """At most `MAX_POINTS`, each the mean of as many neighbours."""
    if len(points) <= MAX_POINTS:
        return points
    groups = np.array_split(np.asarray(points), MAX_POINTS)  # each (n, 2)
    return [(float(x), float(y)) for x, y in (group.mean(axis=0) for group in groups)]


def round_steps(low: float, high: float) -> list[float]:
    """Round values between two, at most `MAX_TICKS` + 1."""
    power = 10.0 ** math.floor(math.log10((high - low) / MAX_TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= MAX_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _value_axis(values: Sequence[float]) -> _Axis:
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > LOG_FROM_RATIO
    if not is_log:
        low = min(0.0, low)
    return _Axis(low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP, is_log)


def _curve(number: int, line: Line, x_axis: _Axis, y_axis: _Axis) -> Markup:
    places = [(x_axis.place(x), y_axis.place(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = Markup('<polyline class="line{}" points="{}"/>').format(number, path)
    if len(places) > MAX_DOTS:
        return drawn
    dot = Markup('<circle class="fill{}" cx="{:.1f}" cy="{:.1f}" r="2.5"/>')
    return drawn + Markup().join(dot.format(number, x, y) for x, y in places)


def _frame(title: str, said: str, x_axis: _Axis, y_axis: _Axis, x_label: str, unit: str, drawn: Markup) -> Markup:
    """Axes, their ticks and labels around what is drawn, with the same in words for those who do not see it."""
    parts = [Markup('<line class="axis" x1="{}" x2="{}" y1="{y}" y2="{y}"/>').format(
        LEFT, WIDTH - RIGHT, y=HEIGHT - BOTTOM
    )]  # fmt: skip
    for value in y_axis.ticks():
        place = f"{y_axis.place(value):.1f}"
        grid = Markup('<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>')
        label = Markup('<text x="{}" y="{y}" dy="4" text-anchor="end">{}</text>')
        parts += [grid.format(LEFT, WIDTH - RIGHT, y=place), label.format(LEFT - 5, _figure(value), y=place)]
    label = Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>')
    parts += [label.format(x_axis.place(value), HEIGHT - BOTTOM + 14, _figure(value)) for value in x_axis.ticks()]
    parts.append(label.format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label))
    parts.append(Markup('<text x="4" y="10">{}</text>').format(unit))
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}{}</svg>').format(
        f"{title}. {said}", WIDTH, HEIGHT, Markup().join(parts), drawn
    )


def _in_words(lines: Sequence[Line], x_label: str) -> str:
    said = []
    for line in lines:
        (x, y), (last_x, last_y) = line.points[0], line.points[-1]
        lowest = min(value for _, value in line.points)
        ends = f"{_figure(y)} at {x_label} {_figure(x)}, {_figure(last_y)} at {_figure(last_x)}"
        said.append(f"{line.name}: {ends}, lowest {_figure(lowest)}")
    return "; ".join(said)


def _figure(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
