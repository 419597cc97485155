"""A line chart as SVG: text stays text, lines stay sharp, and it reads on a phone as on paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

# Okabe and Ito: told apart by the colour-blind, too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 480, 250  # user units; shown at about their number of pixels, so that 13-unit text reads well
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 22, 40
MOST_POINTS = 400  # of a line: more than that are less than a pixel apart
MOST_MARKERS = 60
MOST = 1e300  # what is above, or no number at all, has no place on an axis
NARROWEST_BAND = 46  # units, to write its label into


@dataclass(frozen=True)
class Line:
    """Points to join. `markers` shows each; `joined` is False for points that belong to no one run."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    markers: bool = False
    joined: bool = True
    dashed: bool = False


@dataclass(frozen=True)
class Chart:
    """A title with its unit, the lines, and shaded `bands` as (from, to, label)."""

    title: str
    lines: Sequence[Line]
    x_label: str
    bands: Sequence[tuple[float, float, str]] = ()
    y_range: tuple[float, float] | None = None


def draw(chart: Chart) -> str:
    """The chart as a figure element: title, legend and drawing."""
    lines = [replace(line, points=[point for point in line.points if abs(point[1]) < MOST]) for line in chart.lines]
    lines = [line for line in lines if line.points]
    legend = "".join(f"<span>{_swatch(line)}{escape(line.label)}</span>" for line in lines) if len(lines) > 1 else ""
    return (
        f"<figure><figcaption><b>{escape(chart.title)}</b><div class=legend>{legend}</div></figcaption>"
        f"{_svg(chart, lines)}</figure>"
    )


def _svg(chart: Chart, lines: Sequence[Line]) -> str:
    xs = [x for line in lines for x, _ in line.points] + [end for _, end, _ in chart.bands]
    ys = [y for line in lines for _, y in line.points]
    x_end = max(xs, default=1) or 1
    y_low, y_high = chart.y_range or _padded(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        right, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + right * x / x_end, TOP + height * (y_high - y) / (y_high - y_low)

    last = "; ".join(f"{line.label}: {line.points[-1][1]:.4g}" for line in lines)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}, last values: '
        f'{escape(last)}" data-x-end="{x_end!r}" data-y-low="{y_low!r}" data-y-high="{y_high!r}">'
    ]
    for number, (start, end, label) in enumerate(chart.bands):
        (left, _), (right, _) = place(start, 0), place(end, 0)
        parts.append(_band(left, right, label, number))
    for y in _ticks(y_low, y_high):
        at = place(0, y)[1]
        parts.append(f'<path class=grid d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in _ticks(0, x_end):
        at = place(x, 0)[0]
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{_count(x)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    parts += [_line(line, [place(x, y) for x, y in _thinned(line.points)]) for line in lines]
    return "".join(parts) + "</svg>"


def _band(left: float, right: float, label: str, number: int) -> str:
    shade = f'<rect class=band{number % 2} x="{left:.1f}" y="4" width="{right - left:.1f}" '
    shade += f'height="{HEIGHT - BOTTOM - 4}"/>'
    if right - left < NARROWEST_BAND:
        return shade
    at = f'x="{(left + right) / 2:.1f}" y="{TOP - 7}"'
    return f'{shade}<text class=faint {at} text-anchor="middle">{escape(label)}</text>'


def _line(line: Line, places: Sequence[tuple[float, float]]) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
    drawn = f'<polyline points="{points}" stroke="{line.colour}"{dashes}><title>{escape(line.label)}</title></polyline>'
    if not line.joined:
        drawn = ""
    if line.markers and len(places) <= MOST_MARKERS:
        filled = line.colour if line.joined else "#fff"
        drawn += f'<g fill="{filled}" stroke="{line.colour}">' + "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(line.label)}: {value:.4g}</title></circle>'
            for (x, y), (_, value) in zip(places, line.points, strict=True)
        )
        drawn += "</g>"
    return drawn


def _swatch(line: Line) -> str:
    dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
    return f'<svg class=swatch viewBox="0 0 18 8"><path d="M0 4H18" stroke="{line.colour}"{dashes}/></svg>'


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most MOST_POINTS: the lowest and the highest of each bucket, so that no spike is lost."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return kept


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """From zero to a little above the largest."""
    return 0.0, 1.05 * max([*values, 1e-9])


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= 0.999 * rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _count(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
