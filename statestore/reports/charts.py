"""Charts as inline SVG: stacked bars, lines, and a grid of hours, in the colours of the page.

Each has a title and a description, for those who cannot see it.
Each chart is drawn for a width in pixels and not scaled afterwards, so text has the same size on a phone.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from statestore.reports.figures import ticks
from statestore.reports.text import escape

HEIGHT = 240
# Of a bar.
_WIDEST = 40.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 22, 24
# The greatest width of a digit in the font of the axes.
_DIGIT = 6.8
# The width of a letter of their labels on average, and the space between two labels.
_LETTER, _APART = 6.2, 16
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Series:
    """Values along the x axis, and their name. None leaves a gap."""

    name: str
    values: Sequence[float | None]
    colour: str


@dataclass(frozen=True, slots=True)
class Axis:
    """The labels along the bottom: a short text for the axis, a longer one for the tooltip.

    Where not all labels have room, one of each so many bars has: of *steps*, from the first bar on, if they are given.
    """

    labels: Sequence[str]
    titles: Sequence[str]
    steps: Sequence[int] = ()


def stacked(
    series: Sequence[Series], axis: Axis, *, width: int, unit: str, tick: Format, full: Format, title: str
) -> str:
    """Bars of several parts, one for each point of the axis."""
    totals = [sum(one.values[i] or 0 for one in series) for i in range(len(axis.labels))]
    frame = _Frame(width, max(totals, default=0), axis, unit, tick)
    step = frame.step
    wide = min(step - min(2.0, step * 0.2), _WIDEST)
    parts = []
    for index, total in enumerate(totals):
        base = 0.0
        lines = [axis.titles[index], f"total {full(total)}"]
        bars = []
        for one in series:
            value = one.values[index] or 0
            if value > 0:
                lines.append(f"{one.name} {full(value)}")
                y, height = frame.y(base + value), frame.y(base) - frame.y(base + value)
                bars.append(
                    f'<rect x="{frame.x(index) - wide / 2:.1f}" y="{y:.1f}" width="{wide:.1f}" '
                    f'height="{max(height, 0.4):.1f}" fill="var(--{one.colour})"/>'
                )
                base += value
        parts.append(_tooltip("".join(bars) + frame.column(index), lines))
    most = max(range(len(totals)), key=totals.__getitem__, default=0)
    description = (
        f"{len(totals)} bars from {axis.titles[0]} on, {full(sum(totals))} in all; "
        f"the highest is {full(totals[most])}, {axis.titles[most]}."
        if totals
        else "Nothing."
    )
    return frame.svg("".join(parts), title, description)


def lines(
    series: Sequence[Series],
    axis: Axis,
    *,
    width: int,
    unit: str,
    tick: Format,
    full: Format,
    title: str,
    highest: float | None = None,
) -> str:
    """One line for each series."""
    values = [value for one in series for value in one.values if value is not None]
    frame = _Frame(width, max(values, default=0) if highest is None else highest, axis, unit, tick)
    parts = []
    for one in series:
        for run in _runs(one.values):
            points = [(frame.x(index), frame.y(value)) for index, value in run]
            if len(points) > 1:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                parts.append(f'<polyline points="{path}" class="line" stroke="var(--{one.colour})"/>')
            if len(points) == 1 or len(axis.labels) <= 31:
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="var(--{one.colour})"/>' for x, y in points]
    for index in range(len(axis.labels)):
        said = [f"{one.name} {full(value)}" for one in series if (value := one.values[index]) is not None]
        if said:
            parts.append(_tooltip(frame.column(index), [axis.titles[index], *said]))
    description = " ".join(
        f"{one.name}: from {full(min(known))} to {full(max(known))}."
        for one in series
        if (known := [value for value in one.values if value is not None])
    )
    return frame.svg("".join(parts), title, description)


def week(counts: dict[tuple[int, int], float], *, width: int, full: Format, title: str) -> str:
    """A cell for each hour of the week; the higher the count, the darker the cell."""
    left, top, bottom = 34, 6, 22
    cell = (width - left - _RIGHT) / 24
    row = 22
    height = top + 7 * row + bottom
    most = max(counts.values(), default=0)
    parts = []
    for weekday, name in enumerate(_DAYS):
        y = top + weekday * row
        parts.append(f'<text x="{left - 6}" y="{y + row / 2 + 4:.1f}" text-anchor="end">{name}</text>')
        for hour in range(24):
            count = counts.get((weekday, hour), 0)
            shade = 0.0 if not count else 0.12 + 0.88 * count / most
            box = (
                f'<rect x="{left + hour * cell + 0.75:.1f}" y="{y + 0.75:.1f}" width="{cell - 1.5:.1f}" '
                f'height="{row - 1.5}" rx="2" class="hour"/>'
            )
            if count:
                box += box.replace('class="hour"', f'fill="var(--c0)" fill-opacity="{shade:.2f}"')
            parts.append(_tooltip(box, [f"{name} {hour:02d}:00 to {(hour + 1) % 24:02d}:00", full(count)]))
    for hour in range(0, 24, 3 if width > 500 else 6):
        parts.append(
            f'<text x="{left + (hour + 0.5) * cell:.1f}" y="{height - 6}" text-anchor="middle">{hour:02d}</text>'
        )
    top_hour = max(counts, key=counts.__getitem__, default=(0, 0))
    description = f"The most in an hour of the week is {full(most)}, {_DAYS[top_hour[0]]} {top_hour[1]:02d}:00."
    return _svg("".join(parts), width, height, title, description)


class _Frame:
    """The axes of a chart, and where a value is on them."""

    def __init__(self, width: int, highest: float, axis: Axis, unit: str, tick: Format) -> None:
        self._width = width
        self._axis = axis
        self._unit = unit
        self._tick = tick
        self._ticks = ticks(highest)
        self._left = max(_LEFT, round(max(len(tick(value)) for value in self._ticks) * _DIGIT) + 10)
        self._plot = width - self._left - _RIGHT
        self.step = self._plot / max(len(axis.labels), 1)

    def x(self, index: int) -> float:
        return self._left + (index + 0.5) * self.step

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / self._ticks[-1]

    def _labelled(self) -> list[int]:
        """The bars whose labels have room, and do not leave the chart."""
        labels, steps = self._axis.labels, self._axis.steps
        every = max(1, math.ceil((max(map(len, labels), default=0) * _LETTER + _APART) / self.step))
        fitting = [
            index
            for index, label in enumerate(labels)
            if len(label) * _LETTER / 2 <= min(self.x(index), self._width - self.x(index))
        ]
        if steps:
            every = next((step for step in steps if step >= every), steps[-1])
            return [index for index in fitting if not index % every]
        return fitting[::-1][::every]

    def column(self, index: int) -> str:
        """The whole height above a point of the axis, so that it is easy to point at."""
        left = self.x(index) - self.step / 2
        return (
            f'<rect x="{left:.1f}" y="{_TOP}" width="{self.step:.1f}" height="{HEIGHT - _TOP - _BOTTOM}" class="aim"/>'
        )

    def svg(self, body: str, title: str, description: str) -> str:
        grid = []
        for value in self._ticks:
            y = self.y(value)
            grid.append(f'<line x1="{self._left}" x2="{self._width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            grid.append(
                f'<text x="{self._left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(self._tick(value))}</text>'
            )
        grid.append(f'<text x="8" y="12" class="unit">{escape(self._unit)}</text>')
        for index in self._labelled():
            label = escape(self._axis.labels[index])
            grid.append(f'<text x="{self.x(index):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>')
        return _svg("".join(grid) + body, self._width, HEIGHT, title, description)


def _svg(body: str, width: int, height: int, title: str, description: str) -> str:
    name = f"{re.sub(r'[^a-z]+', '-', title.lower())}-{width}"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-labelledby="{name} {name}-d"><title id="{name}">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(description)}</desc>{body}</svg>'
    )


def _tooltip(shapes: str, text: Sequence[str]) -> str:
    return f"<g>{shapes}<title>{chr(10).join(map(escape, text))}</title></g>"


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The stretches without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((index, value))
    return [run for run in runs if run]
