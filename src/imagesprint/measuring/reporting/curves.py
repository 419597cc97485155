"""The curves of a run, over each axis."""

from collections.abc import Callable, Sequence

import numpy as np

from imagesprint.measuring.reporting.line_chart import COLOURS, Chart, Line, draw
from imagesprint.measuring.reporting.references import Reference
from imagesprint.measuring.reporting.run_record import AXES, RunRecord
from imagesprint.runs.rows import EvaluationRow, MetricsRow

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
