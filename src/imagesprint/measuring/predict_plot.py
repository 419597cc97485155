"""The plot of `bench predict`: the median of a call and images a second against the batch size, with all threads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from imagesprint.measuring.data_plot import COLOURS, save_figure


def save_predict_plot(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of `bench_predict` as a PNG. Raises UsageError where `path` cannot be written."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    latency, throughput = figure.subplots(1, 2)
    threads = max(row["threads"] for row in result["calls"])
    rows = [row for row in result["calls"] if row["threads"] == threads]
    batch_sizes = sorted({row["batch_size"] for row in rows})
    for runtime, colour in zip(dict.fromkeys(row["runtime"] for row in rows), COLOURS, strict=False):
        for decoding, style in ((False, "o-"), (True, "o--")):
            own = [row for row in rows if (row["runtime"], row["decoding"]) == (runtime, decoding)]
            label = f"{runtime}{', from JPEG' if decoding else ''}"
            latency.plot(batch_sizes, [1e3 * row["p50"] for row in own], style, color=colour, label=label)
            throughput.plot(batch_sizes, [row["images_per_second"] for row in own], style, color=colour)
    latency.set_ylabel("median of a call, ms")
    latency.legend(frameon=False, fontsize="small")
    throughput.set_ylabel("images/s")
    for axes in (latency, throughput):
        axes.set_xscale("log", base=2)
        axes.set_xticks(batch_sizes, [str(batch_size) for batch_size in batch_sizes])
        axes.set_xlabel("batch size")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    plural = "" if threads == 1 else "s"
    save_figure(
        figure, path, f"{result['model']}, {result['image_size']} px, {threads} thread{plural}, {result['device']}"
    )
