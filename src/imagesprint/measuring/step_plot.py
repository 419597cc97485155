"""The plots of `bench step` and `bench train`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesprint.measuring.data_plot import COLOURS, plain, save_figure

_LIMITS = {  # keys of `memory_bound`, and what they mean
    "eager": "memory bound, each operation by itself",
    "fused_norm": "memory bound, ReLU and addition in batch norm",
    "convolutions": "memory bound, convolutions alone",
}


def save_step_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of `bench_step` or `bench_train` as a PNG. Raises UsageError where `path` cannot be written."""
    figure = _step_figure(result) if result["bench"] == "step" else _train_figure(result)
    save_figure(figure, path, f"{result['recipe']}: {result['model']}, {result['precision']}, {result['device']}")


def _step_figure(result: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 4.8), dpi=110, layout="constrained")
    speeds, parts = figure.subplots(1, 2)
    _draw_bars(speeds, result["phases"], {"images_per_second": "measured"})
    for (key, label), style in zip(_LIMITS.items(), ("-", "--", ":"), strict=True):
        limits = [result["world_size"] * row["memory_bound"][key] for row in result["phases"]]
        left, right = ([place + side for place in range(len(limits))] for side in (-0.4, 0.4))
        speeds.hlines(limits, left, right, colors=COLOURS[2], linestyles=style, label=label)
    _end_bars(speeds)
    _draw_step_parts(parts, result["phases"])
    return figure


def _train_figure(result: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    labels = {"images_per_second": plain(f"from {result['data']}"), "synthetic_images_per_second": "synthetic"}
    _draw_bars(axes, result["phases"], labels)
    _end_bars(axes)
    return figure


def _draw_bars(axes: Axes, phases: list[Mapping[str, Any]], labels: Mapping[str, str]) -> None:
    """A group of bars for each shape, one for each key of `labels`."""
    width = 0.8 / len(labels)
    for number, (key, label) in enumerate(labels.items()):
        places = [place + (number + 0.5) * width - 0.4 for place in range(len(phases))]
        bars = axes.bar(places, [row[key] for row in phases], 0.9 * width, color=COLOURS[number], label=label)
        axes.bar_label(bars, fmt="{:,.4g}", padding=2, fontsize="small")
    names = [f"{row['image_size']} px\n{row['batch_size']} = {_micro_batches(row)}" for row in phases]
    axes.set_xticks(range(len(phases)), names)
    axes.set_ylabel("images/s")


def _micro_batches(row: Mapping[str, Any]) -> str:
    return f"{row['batch_size'] // row['micro_batch']} × {row['micro_batch']}"


def _end_bars(axes: Axes) -> None:
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    axes.margins(y=0.35)  # room for the legend above the bars
    axes.legend(frameon=False, fontsize="small", loc="upper right")


def _draw_step_parts(axes: Axes, phases: list[Mapping[str, Any]]) -> None:
    """Milliseconds an image of each part of an eager step, stacked."""
    names = [f"{row['image_size']} px, {_micro_batches(row)}" for row in phases]
    left = [0.0] * len(phases)
    for part, colour in zip(phases[0]["seconds_by_part"], COLOURS, strict=False):
        taken = [1e3 * row["seconds_by_part"][part] / row["batch_size"] for row in phases]
        axes.barh(names, taken, left=left, color=colour, label=part)
        left = [before + more for before, more in zip(left, taken, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("eager step, ms an image")
    axes.legend(frameon=False, fontsize="small", ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
