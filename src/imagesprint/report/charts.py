"""Line charts as SVG, and the curves of a run over each axis."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

from imagesprint.report.run_record import AXES, Reference, RunRecord
from imagesprint.runs.rows import EvaluationRow, MetricsRow

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


LABELS = {"epoch": "Epochs", "step": "Steps", "seconds": "Training time"}
TRAINING, VALIDATION, SECOND, THIRD = COLOURS[:4]
GREY = "#666666"
Rows = Sequence[MetricsRow | EvaluationRow]
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def switchable(draw_over: Callable[[str], str]) -> str:
    """What `draw_over` gives for each axis, one shown at a time; switched without a script."""
    inputs = "".join(
        f"<input type=radio name=axis id=by-{axis}{' checked' if axis == AXES[0] else ''}><label for=by-{axis}>"
        f"{LABELS[axis]}</label>"
        for axis in AXES
    )
    panels = "".join(f'<div class="grid over-{axis}">{draw_over(axis)}</div>' for axis in AXES)
    return f"<div class=curves>{inputs}{panels}</div>"


def draw_curves(record: RunRecord, reference: Reference | None, axis: str) -> str:
    """Accuracy, loss, learning rate, image size, throughput and waiting for data over `axis`, phases shaded."""
    unit, x_label = axis_unit(axis, record.train_seconds)
    bands = [
        (getattr(span.start, axis) / unit, getattr(span.end, axis) / unit, f"{span.image_size} px")
        for span in record.spans()
    ]

    def line(label: str, rows: Rows, key: str, colour: str, scale: float = 1, markers: bool = False) -> Line:
        places = zip(record.along(rows, axis), rows, strict=True)
        return Line(label, [(x / unit, scale * getattr(row, key)) for x, row in places], colour, markers)

    def chart(title: str, *lines: Line, y_range: tuple[float, float] | None = None) -> str:
        return draw(Chart(title, lines, x_label, bands, y_range))

    metrics, evaluations = record.metrics, record.evaluations
    accuracy = [
        line("validation top-1", evaluations, "top1", VALIDATION, markers=True),
        line("training top-1, augmented", metrics, "top1", TRAINING),
    ]
    if record.has_top5:
        accuracy.append(line("validation top-5", evaluations, "top5", SECOND, markers=True))
    if reference is not None:
        accuracy.append(_reference_line(record, reference, axis, unit))
    return "".join(
        [
            chart("Accuracy, %", *accuracy, y_range=(0, 102)),
            chart(
                "Loss",
                line("total", metrics, "loss", TRAINING),
                line("cross-entropy", metrics, "cross_entropy", SECOND),
                line("weight decay (L2)", metrics, "l2", THIRD),
                line("validation", evaluations, "loss", VALIDATION, markers=True),
            ),
            chart("Learning rate", line("learning rate", metrics, "lr", TRAINING)),
            chart("Image size, pixels", line("image size", metrics, "image_size", TRAINING)),
            chart("Throughput, images/s", line("images/s", metrics, "images_per_second", TRAINING)),
            chart(
                "Time spent waiting for data, %",
                line("waiting", metrics, "data_wait", TRAINING, scale=100),
                y_range=(0, max(10.0, *(102 * row.data_wait for row in metrics))),
            ),
        ]
    )


def axis_unit(axis: str, seconds: float) -> tuple[float, str]:
    """What to divide an axis by, and its label, for a run that trained so many `seconds`."""
    if axis != "seconds":
        return 1.0, LABELS[axis].lower()
    return next((unit, f"{name} of training") for unit, name in UNITS if seconds >= 2 * unit or unit == 1)


def _reference_line(record: RunRecord, reference: Reference, axis: str, unit: float) -> Line:
    points = [point for point in reference.points if axis != "seconds" or "seconds" in point]
    if axis == "step":  # where this run was, or is going to be, at the reference's epochs
        epochs, steps = zip(*((row.epoch, row.step) for row in record.metrics), strict=True)
        points = [point | {"step": float(np.interp(point["epoch"], epochs, steps))} for point in points]
        points = [point for point in points if point["epoch"] <= epochs[-1]]
    places = [(point[axis] / unit, point["top1"]) for point in points]
    joined = reference.kind == "curve"
    return Line(f"{reference.name} top-1", places, GREY, markers=True, joined=joined, dashed=True)
