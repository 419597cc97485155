"""The curves of a run over each axis, and how a chart of lines is drawn: as SVG for a page, or as a PNG."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from imagesprint.errors import needing
from imagesprint.files import write_atomically
from imagesprint.report.run_record import AXES, Reference, RunRecord

# Okabe and Ito: told apart by the colour-blind, too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 480, 250  # user units; shown at about their number of pixels, so that 13-unit text reads well
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 22, 40
MOST_POINTS = 400  # of a line: more than that are less than a pixel apart
MOST_MARKERS = 60
MOST = 1e300  # what is above, or no number at all, has no place on an axis
NARROWEST_BAND = 46  # units, to write its label into
SHADES = ("#f2f2f2", "#ffffff")  # of the bands in a PNG


@dataclass(frozen=True)
class Line:
    """Points to join. `markers` shows each; `joined` is False for points that belong to no one run; `thin` is one of
    several whose mean stands beside them, and not in the legend.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: str
    markers: bool = False
    joined: bool = True
    dashed: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Chart:
    """A title with its unit, the lines, and shaded `bands` as (from, to, label)."""

    title: str
    lines: Sequence[Line]
    x_label: str
    bands: Sequence[tuple[float, float, str]] = ()
    y_range: tuple[float, float] | None = None


LABELS = {"epoch": "Epochs", "step": "Steps", "seconds": "Training time"}
TRAINING, VALIDATION, SECOND, THIRD = COLOURS[:4]
GREY = "#666666"
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
PLOTS = ("loss", "lr", "accuracy")  # those of `run_charts` that are written as files, too


def run_charts(record: RunRecord, reference: Reference | None, axis: str) -> dict[str, Chart]:
    """Accuracy, loss, learning rate, image size, throughput and waiting for data over `axis`, phases shaded."""
    unit, x_label = axis_unit(axis, record.train_seconds)
    bands = [(*(end / unit for end in getattr(span, axis)), f"{span.image_size} px") for span in record.spans()]

    def chart(title: str, *lines: Line, y_range: tuple[float, float] | None = None) -> Chart:
        return Chart(title, lines, x_label, bands, y_range)

    def trained(label: str, key: str, colour: str = TRAINING, scale: float = 1) -> Line:
        return Line(label, record.points("metrics", key, axis, unit, scale), colour)

    def judged(label: str, key: str, colour: str = VALIDATION) -> Line:
        return Line(label, record.points("evaluations", key, axis, unit), colour, markers=True)

    accuracy = [judged("validation top-1", "top1"), trained("training top-1, augmented", "top1")]
    if record.has_top5:
        accuracy.append(judged("validation top-5", "top5", SECOND))
    if record.draws_classes:
        accuracy.append(judged("validation, mean of classes", "mean_class_accuracy", THIRD))
    if reference is not None:
        accuracy.append(_reference_line(record, reference, axis, unit))
    longest_wait = max(102 * row.data_wait for row in record.metrics)
    return {
        "accuracy": chart("Accuracy, %", *accuracy, y_range=(0, 102)),
        "loss": chart(
            "Loss",
            trained("total", "loss"),
            trained("without weight decay", "cross_entropy", SECOND),
            trained("weight decay (L2)", "l2", THIRD),
            judged("validation", "loss"),
        ),
        "lr": chart("Learning rate", trained("learning rate", "lr")),
        "image_size": chart("Image size, pixels", trained("image size", "image_size")),
        "throughput": chart("Throughput, images/s", trained("images/s", "images_per_second")),
        "data_wait": chart(
            "Time spent waiting for data, %",
            trained("waiting", "data_wait", scale=100),
            y_range=(0, max(10.0, longest_wait)),
        ),
    }


def axis_unit(axis: str, seconds: float) -> tuple[float, str]:
    """What to divide an axis by, and its label, for a run that trained so many `seconds`."""
    if axis != "seconds":
        return 1.0, LABELS[axis].lower()
    return next((unit, f"{name} of training") for unit, name in UNITS if seconds >= 2 * unit or unit == 1)


def _reference_line(record: RunRecord, reference: Reference, axis: str, unit: float) -> Line:
    if axis == "epoch":
        places = [(point.epoch, point.top1) for point in reference.points]
    elif axis == "seconds":
        places = [(point.seconds / unit, point.top1) for point in reference.points if point.seconds is not None]
    else:  # where this run was at the reference's epochs
        epochs, steps = zip(*((row.epoch, row.step) for row in record.metrics), strict=True)
        passed = [point for point in reference.points if point.epoch <= epochs[-1]]
        places = [(float(np.interp(point.epoch, epochs, steps)), point.top1) for point in passed]
    joined = reference.kind == "curve"
    return Line(f"{reference.name} top-1", places, GREY, markers=True, joined=joined, dashed=True)


def save_plots(record: RunRecord) -> None:
    """Write PLOTS over the steps as PNGs into RUN/plots. Raises as `save_png` does."""
    charts = run_charts(record, None, "step")
    for name in PLOTS:
        save_png(charts[name], record.path / "plots" / f"{name}.png")


def switchable(draw_over: Callable[[str], Iterable[Chart]]) -> str:
    """The charts that `draw_over` gives for each axis, those of one shown at a time; switched without a script."""
    inputs = "".join(
        f"<input type=radio name=axis id=by-{axis}{' checked' if axis == AXES[0] else ''}><label for=by-{axis}>"
        f"{LABELS[axis]}</label>"
        for axis in AXES
    )
    panels = "".join(f'<div class="grid over-{axis}">{"".join(map(draw, draw_over(axis)))}</div>' for axis in AXES)
    return f"<div class=curves>{inputs}{panels}</div>"


@dataclass(frozen=True)
class _Drawable:
    """What of a chart can be drawn: the lines that have points, without those that have no place on an axis."""

    lines: Sequence[Line]
    x_end: float
    y_low: float
    y_high: float

    @classmethod
    def of(cls, chart: Chart) -> "_Drawable":
        lines = [replace(line, points=[point for point in line.points if abs(point[1]) < MOST]) for line in chart.lines]
        lines = [line for line in lines if line.points]
        xs = [x for line in lines for x, _ in line.points] + [end for _, end, _ in chart.bands]
        highest = max([y for line in lines for _, y in line.points] + [1e-9])
        return cls(lines, max(xs, default=1) or 1, *(chart.y_range or (0.0, 1.05 * highest)))


def draw(chart: Chart) -> str:
    """The chart as a figure element of HTML: title, legend and drawing, which is SVG."""
    drawable = _Drawable.of(chart)
    told = [line for line in drawable.lines if not line.thin]
    legend = "".join(f"<span>{_swatch(line)}{escape(line.label)}</span>" for line in told)
    return (
        f"<figure><figcaption><b>{escape(chart.title)}</b>"
        f"<div class=legend>{legend if len(drawable.lines) > 1 else ''}</div></figcaption>"
        f"{_svg(chart, drawable)}</figure>"
    )


def _svg(chart: Chart, drawable: _Drawable) -> str:
    lines, x_end, y_low, y_high = drawable.lines, drawable.x_end, drawable.y_low, drawable.y_high

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
    thin = " class=thin" if line.thin else ""
    drawn = f'<polyline{thin} points="{points}" stroke="{line.colour}"{dashes}>'
    drawn += f"<title>{escape(line.label)}</title></polyline>"
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


def dots(title: str, groups: Sequence[tuple[str, Sequence[float], str]]) -> str:
    """A row for each of `groups`, named values in a colour: each value, their mean, and a bar of one standard deviation
    to either side of it; a figure element of HTML.
    """
    values = [value for _, own, _ in groups for value in own]
    low, high = min(values), max(values)
    low, high = (low - 0.1 * (high - low), high + 0.1 * (high - low)) if high > low else (low - 1, high + 1)
    left, right, height = 12, 2 * WIDTH - 12, 46 * len(groups) + 30

    def place(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    parts = [f'<svg class=dots viewBox="0 0 {2 * WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for x in _ticks(low, high):
        parts.append(f'<path class=grid d="M{place(x):.1f} 4V{height - 24}"/>')
        parts.append(f'<text x="{place(x):.1f}" y="{height - 7}" text-anchor="middle">{x:g}</text>')
    for number, (name, own, colour) in enumerate(groups):
        at, mean = 46 * number + 34, fmean(own)
        parts.append(f'<text x="{left}" y="{at - 14}">{escape(name)}: {mean:.2f}</text>')
        if len(own) > 1:
            reach = stdev(own)
            ends = [min(max(place(mean + side * reach), left), right) for side in (-1, 1)]
            parts.append(f'<path class=reach d="M{ends[0]:.1f} {at}H{ends[1]:.1f}" stroke="{colour}"/>')
            parts.append(f'<path d="M{place(mean):.1f} {at - 8}V{at + 8}" stroke="{colour}"/>')
        parts += [
            f'<circle cx="{place(value):.1f}" cy="{at}" r="4" fill="#fff" stroke="{colour}"><title>{value:.2f}</title>'
            "</circle>"
            for value in own
        ]
    drawing = f"<div class=scroll>{''.join(parts)}</svg></div>"
    return f"<figure><figcaption><b>{escape(title)}</b></figcaption>{drawing}</figure>"


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


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= 0.999 * rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _count(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def save_png(chart: Chart, path: Path) -> None:
    """Write the chart as a PNG, in a new folder if need be. Raises MissingPackageError without matplotlib, OSError."""
    with needing("plots"):
        from matplotlib.figure import Figure  # slow to import
    drawable = _Drawable.of(chart)
    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, (start, end, label) in enumerate(chart.bands):
        axes.axvspan(start, end, color=SHADES[number % 2], zorder=0)
        place = ((start + end) / 2, 0.02)
        axes.annotate(label, place, xycoords=("data", "axes fraction"), ha="center", color="gray")
    for line in drawable.lines:
        marker = "o" if line.markers else ""
        axes.plot(*zip(*line.points, strict=True), marker=marker, color=line.colour, label=line.label)
    axes.set(title=chart.title, xlabel=chart.x_label)
    axes.set(xlim=(0, 1.01 * drawable.x_end), ylim=(drawable.y_low, drawable.y_high))  # room for the last marker
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if len(drawable.lines) > 1:
        axes.legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
