"""The plot of `bench data`: images a second against threads, and where one thread's time goes."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesprint.console import printable
from imagesprint.errors import UsageError
from imagesprint.files import write_atomically

# Okabe and Ito's colours: told apart by the colour-blind, too
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#f0e442", "#000000")


def save_data_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of `bench_data` as a PNG. Raises UsageError where `path` cannot be written."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    speeds, stages = figure.subplots(1, 2)
    _draw_speeds(speeds, result)
    _draw_stages(stages, result)
    title = f"{result['data']}, {result['mean_bytes'] / 1000:,.0f} kB → {result['image_size']} px"
    save_figure(figure, path, title)


def plain(text: str) -> str:
    """Text from outside for a figure, in which what stands between dollars would be a formula."""
    return printable(text).replace("$", r"\$")


def save_figure(figure: Figure, path: Path, title: str) -> None:
    """Write a figure under its title as a PNG. Raises UsageError where `path` cannot be written."""
    figure.suptitle(plain(title))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in a script that the font lacks
            write_atomically(path, lambda file: figure.savefig(file, format="png"))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", "choose another file for --plot") from None


def _draw_speeds(axes: Axes, result: Mapping[str, Any]) -> None:
    entries = result["by_threads"]
    lines: dict[str, dict[int, float]] = {"imagesprint": {}, "its decoder alone": {}}
    for entry in entries:
        lines["imagesprint"][entry["threads"]] = entry["images_per_second"]
        lines["its decoder alone"][entry["threads"]] = entry["decoder_alone"].images_per_second
        for name, peer in entry["peers"].items():
            lines.setdefault(name, {})[entry["threads"]] = peer["images_per_second"]
    for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
        axes.plot(list(points), list(points.values()), "o-", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks([entry["threads"] for entry in entries], [str(entry["threads"]) for entry in entries])
    axes.set_xlabel("threads")
    axes.set_ylabel("images/s")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")


def _draw_stages(axes: Axes, result: Mapping[str, Any]) -> None:
    if "stages" not in result:
        axes.text(0.5, 0.5, "no stages without the native decoder", ha="center", va="center")
        axes.set_axis_off()
        return
    names = [name.replace("_", " ") for name in result["stages"]]
    bars = axes.barh(names, list(result["stages"].values()), color=COLOURS[0])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("one thread, µs an image")
