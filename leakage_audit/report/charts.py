"""Line charts as inline SVG: no script, no network, colours from the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise

from leakage_audit.report.band_names import LETTER, Point, place
from leakage_audit.report.curves import thin

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 230, 44, 12, 10, 30
MARKS = {  # in the legend and around a point: curves differ without colour, too
    "s1": ("●", "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z"),
    "s2": ("■", "m-3 -3h6v6h-6z"),
    "s3": ("▲", "m0 -4l4 7h-8z"),
    "s4": ("◆", "m0 -4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z"),
    "s5": ("▼", "m0 4l4 -7h-8z"),
    "s6": ("✚", "m-1.5 -4h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"),
}
DOTS = 60  # points up to which each is marked, and tells its numbers


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: Stands in the legend.
        points: Step and value, by step.
        style: The style sheet's class: `s1` … `s6`, or `chance`.
        gaps: Steps at which the value is not known; the line is broken there.
    """

    name: str
    points: Sequence[tuple[int, float]]
    style: str
    gaps: Sequence[int] = ()


@dataclass(frozen=True)
class Band:
    """A stretch of the y axis that has a name; it reaches up to the next one."""

    name: str
    start: float


def chart(
    title: str,
    lines: Sequence[Line],
    span: tuple[int, int],
    limits: tuple[float, float] = (-math.inf, math.inf),
    bands: Sequence[Band] = (),
    include: Sequence[float] = (),
) -> str:
    """A chart with its legend as an HTML figure.

    Args:
        title: What the y axis measures, with its unit.
        lines: At least one with a point.
        span: First and last step of the x axis, the same for charts that are to be compared.
        limits: What lies beyond is drawn at the edge, with its value.
        bands: Shaded stretches of the y axis, from low to high.
        include: Values that the y axis is to reach in any case.
    """
    lines = [replace(line, points=thin(list(line.points))) for line in lines if line.points]
    values = [min(max(value, limits[0]), limits[1]) for line in lines for _, value in line.points] + list(include)
    ticks = nice(min(values), max(values))
    axes = _Axes(span, (ticks[0], ticks[-1]))
    beyond = _beyond(lines, axes)
    drawn = [[axes.at(point) for point in piece] for line in lines for piece in _pieces(line)]
    drawn += [[(x, y - 6), (x + LETTER * len(text), y - 6)] for x, y, text, _ in beyond]
    shades, names = _bands(bands, axes, drawn)
    curves = [part for line in lines for part in _curve(line, axes)]
    told = [
        f'<text class="beyond {style}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>' for x, y, text, style in beyond
    ]
    parts = [*shades, *_grid(ticks, axes), *curves, *told, *names]
    legend = "".join(
        f'<span class="key {x.style}"><i aria-hidden="true">{MARKS.get(x.style, ("", ""))[0]}</i>'
        f"{escape(x.name)}</span>"
        for x in lines
    )
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    return f'<figure class="chart"><figcaption><b>{escape(title)}</b>{legend}</figcaption>{svg}</figure>'


@dataclass(frozen=True)
class _Axes:
    x: tuple[int, int]
    y: tuple[float, float]

    def across(self, step: float) -> float:
        share = (step - self.x[0]) / max(self.x[1] - self.x[0], 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def at(self, point: tuple[int, float]) -> Point:
        return self.across(point[0]), self.up(point[1])

    def up(self, value: float) -> float:
        share = (min(max(value, self.y[0]), self.y[1]) - self.y[0]) / (self.y[1] - self.y[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def nice(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that enclose a range: 1, 2, 2.5 or 5 times a power of ten apart."""
    size = max(abs(low), abs(high))
    if high - low < 1e-9 * max(size, 1.0):  # a flat curve, in the middle of its chart
        margin = size / 2 if size > 1e-6 else 0.5
        low, high = low - margin, high + margin
    power = 10 ** math.floor(math.log10((high - low) / about))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if (high - low) / (m * power) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def number(value: float | None) -> str:
    """A number as people write it; a dash for none."""
    if value is None:
        return "–"
    text = f"{value:,.1f}".removesuffix(".0") if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", "−")


def _grid(ticks: Sequence[float], axes: _Axes) -> list[str]:
    parts = []
    for tick in ticks:
        y = axes.up(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for step in nice(*axes.x) if axes.x[1] > axes.x[0] else [axes.x[0]]:
        if axes.x[0] <= step <= axes.x[1] and step == int(step):
            x = axes.across(step)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{number(step)}</text>')
    parts.append(f'<text class="tick axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 1}" text-anchor="end">step</text>')
    return parts


def _bands(bands: Sequence[Band], axes: _Axes, drawn: Sequence[Sequence[Point]]) -> tuple[list[str], list[str]]:
    """The shaded stretches, and their names where there is room, off what is drawn."""
    shades, names = [], []
    for band, end in zip(bands, [*(above.start for above in bands[1:]), math.inf], strict=False):
        top, bottom = axes.up(end), axes.up(band.start)
        if bottom - top > 1:
            shades.append(
                f'<rect class="band {band.name}" x="{LEFT}" y="{top:.1f}" width="{WIDTH - LEFT - RIGHT}" '
                f'height="{bottom - top:.1f}"/>'
            )
        if bottom - top > 14:
            x, y = place(band.name, (top, bottom), (LEFT, WIDTH - RIGHT), drawn)
            names.append(f'<text class="band-name" x="{x:.1f}" y="{y:.1f}">{band.name}</text>')
    return shades, names


def _curve(line: Line, axes: _Axes) -> list[str]:
    parts = []
    for piece in _pieces(line):
        path = " ".join(f"{axes.across(step):.1f},{axes.up(value):.1f}" for step, value in piece)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
    if len(line.points) <= DOTS and line.style != "chance":
        for step, value in line.points:
            told = f"<title>{escape(line.name)}, step {step}: {number(value)}</title>"
            path = f"M{axes.across(step):.1f} {axes.up(value):.1f}{MARKS.get(line.style, MARKS['s1'])[1]}"
            parts.append(f'<path class="dot {line.style}" d="{path}">{told}</path>')
    return parts


def _beyond(lines: Sequence[Line], axes: _Axes) -> list[tuple[float, float, str, str]]:
    """Where curves leave the chart, the first number of each that does, one under the other at its edge.

    Returns:
        Place, words and style of each.
    """
    found: list[tuple[float, float, str, str]] = []
    for line in lines:
        outside = [p for p in line.points if not axes.y[0] - 1e-9 <= p[1] <= axes.y[1] + 1e-9]
        if outside:
            step, value = outside[0]
            arrow, down = ("↑", 1) if value > axes.y[1] else ("↓", -1)
            row = 12 * down * sum(text.startswith(arrow) for _, _, text, _ in found)
            x, y = axes.across(step) + 6, axes.up(value) + (14 if down > 0 else -6) + row
            found.append((x, y, f"{arrow} {line.name} {number(value)}", line.style))
    return found


def _pieces(line: Line) -> list[list[tuple[int, float]]]:
    """The points between which the line is drawn."""
    pieces = [[line.points[0]]]
    for last, point in pairwise(line.points):
        if any(last[0] < step < point[0] for step in line.gaps):
            pieces.append([])
        pieces[-1].append(point)
    return pieces
