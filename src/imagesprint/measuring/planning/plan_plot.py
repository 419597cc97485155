"""The plot of `plan`: a time line of the phases, with the moments at which accuracies are reached."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesprint.measuring.data_plot import COLOURS, save_figure
from imagesprint.training.time_plan import LIMITS

_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_OTHER = "#999999"
_NARROWEST = 0.06  # share of the whole that a part's name fits into


def save_plan_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of `plan_here` or `plan_elsewhere` as a PNG. Raises UsageError where that is not possible."""
    figure = Figure(figsize=(10, 2.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    total = result["total_seconds"]
    unit, name = next(each for each in _UNITS if total >= 2 * each[0] or each[0] == 1)
    _draw_plan_parts(axes, result, unit)
    for point in result["accuracies"]:
        axes.axvline(point["seconds"] / unit, color="black", linestyle=":")
        axes.annotate(f"{point['top1']:g}% ", (point["seconds"] / unit, 0.43), ha="right", fontsize="small")
    axes.set_yticks([])
    axes.set_ylim(-0.45, 0.55)
    axes.set_xlim(0, 1.02 * total / unit)
    axes.set_xlabel(name)
    axes.legend(frameon=False, fontsize="small", ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save_figure(figure, path, f"{result['recipe']} on {result['ranks']} × {result['machine']}")


def _draw_plan_parts(axes: Axes, result: Mapping[str, Any], unit: float) -> None:
    """Bars one after another: start-up, phases, and all evaluations and checkpoints together."""
    parts = [("start-up", result["start_up_seconds"], "")]
    parts += [(f"{row['image_size']} px", row["seconds"], row["limited_by"]) for row in result["phases"]]
    parts += [(key, result[key]["seconds"], "") for key in ("evaluations", "checkpoints")]
    left, labels = 0.0, set[str]()
    for text, seconds, limit in parts:
        if seconds == 0:
            continue
        label = f"limited by {limit}" if limit else "start-up, evaluations, checkpoints"
        colour = COLOURS[LIMITS.index(limit)] if limit else _OTHER
        shown = "" if label in labels else label
        axes.barh(0, seconds / unit, left=left / unit, color=colour, edgecolor="white", label=shown)
        if seconds > _NARROWEST * result["total_seconds"]:
            axes.text((left + seconds / 2) / unit, 0, text, ha="center", va="center", color="white")
        labels.add(label)
        left += seconds
