"""Plots of a run: loss, learning rate and accuracy over the steps, with the phases shaded."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesprint.errors import UsageError
from imagesprint.files import write_atomically
from imagesprint.report.charts import MOST
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import EvaluationRow, MetricsRow

Rows = Sequence[MetricsRow | EvaluationRow]
Draw = Callable[[Axes, list[MetricsRow], list[EvaluationRow]], None]
SHADES = ("#f2f2f2", "#ffffff")
TRAINING, VALIDATION, SECOND = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito: told apart by the colour-blind, too


def save_plots(run: RunDirectory) -> list[Path]:
    """Write loss.png, lr.png and accuracy.png into RUN/plots; returns their paths.

    Raises UsageError where nothing was logged yet.
    """
    metrics, evaluations = run.metrics(), run.evaluations()
    if not metrics:
        raise UsageError(
            f"{run.path} holds no logged steps", "train first: imagesprint train RECIPE --data ROOT --output RUN"
        )
    folder = run.path / "plots"
    folder.mkdir(exist_ok=True)
    draws: dict[str, Draw] = {"loss": _loss, "lr": _lr, "accuracy": _accuracy}
    return [_save(folder / f"{name}.png", draw, metrics, evaluations) for name, draw in draws.items()]


def _save(path: Path, draw: Draw, metrics: list[MetricsRow], evaluations: list[EvaluationRow]) -> Path:
    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    _shade_phases(axes, metrics)
    draw(axes, metrics, evaluations)
    axes.set_xlabel("step")
    axes.set_xlim(0, 1.01 * metrics[-1].step)  # room for the last marker
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    return path


def _shade_phases(axes: Axes, metrics: list[MetricsRow]) -> None:
    """A band a phase, with its image size written at its foot."""
    starts: dict[int, int] = {}
    before = 0
    for row in metrics:
        starts.setdefault(row.phase, before)
        before = row.step
    sizes = {row.phase: row.image_size for row in metrics}
    ends = [*list(starts.values())[1:], before]
    for (phase, start), end in zip(starts.items(), ends, strict=True):
        axes.axvspan(start, end, color=SHADES[phase % 2], zorder=0)
        axes.annotate(
            f"{sizes[phase]} px",
            ((start + end) / 2, 0.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            color="gray",
        )


def _plot(axes: Axes, rows: Rows, key: str, color: str, style: str = "-", label: str | None = None) -> None:
    values = [getattr(row, key) for row in rows]
    heights = [value if abs(value) < MOST else math.nan for value in values]
    axes.plot([row.step for row in rows], heights, style, color=color, label=label)


def _loss(axes: Axes, metrics: list[MetricsRow], evaluations: list[EvaluationRow]) -> None:
    _plot(axes, metrics, "loss", TRAINING, label="training, with weight decay")
    _plot(axes, metrics, "cross_entropy", SECOND, label="training, cross-entropy")
    _plot(axes, evaluations, "loss", VALIDATION, "o-", "validation")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _lr(axes: Axes, metrics: list[MetricsRow], _: list[EvaluationRow]) -> None:
    _plot(axes, metrics, "lr", TRAINING)
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)


def _accuracy(axes: Axes, metrics: list[MetricsRow], evaluations: list[EvaluationRow]) -> None:
    _plot(axes, metrics, "top1", TRAINING, label="training top-1 (augmented)")
    _plot(axes, evaluations, "top1", VALIDATION, "o-", "validation top-1")
    _plot(axes, evaluations, "top5", SECOND, "o-", "validation top-5")
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 101)
    axes.legend(frameon=False, loc="center right")
