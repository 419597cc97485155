"""The plots of the benches and of `plan`."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imagesprint.console import printable
from imagesprint.diagnosis.bench_data import AtThreads, DataBench, Inside
from imagesprint.diagnosis.bench_predict import PredictBench
from imagesprint.diagnosis.bench_step import PARTS, MeasuredShape, StepBench, StepSpeed, TrainBench, TrainedShape
from imagesprint.diagnosis.planning import Plan
from imagesprint.diagnosis.verdict import LIMITS
from imagesprint.errors import UsageError
from imagesprint.files import write_atomically

# Okabe and Ito's colours: told apart by the colour-blind, too
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#f0e442", "#000000")


def save_data_plot(result: DataBench, path: Path) -> None:
    """Write the result of `bench_data` as a PNG. Raises UsageError where `path` cannot be written."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    speeds, stages = figure.subplots(1, 2)
    _draw_speeds(speeds, result.by_threads)
    _draw_stages(stages, result.inside)
    save_figure(figure, path, f"{result.data}, {result.mean_bytes / 1000:,.0f} kB → {result.image_size} px")


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


def _draw_speeds(axes: Axes, entries: Sequence[AtThreads]) -> None:
    lines: dict[str, dict[int, float]] = {"imagesprint": {}, "its decoder alone": {}}
    for entry in entries:
        lines["imagesprint"][entry.threads] = entry.images_per_second
        lines["its decoder alone"][entry.threads] = entry.decoder_alone.images_per_second
        for name, peer in entry.peers.items():
            lines.setdefault(name, {})[entry.threads] = peer.images_per_second
    for (name, points), colour in zip(lines.items(), COLOURS, strict=False):
        axes.plot(list(points), list(points.values()), "o-", color=colour, label=name)
    _scale(axes, [entry.threads for entry in entries], "threads")
    axes.set_ylabel("images/s")
    axes.legend(frameon=False, fontsize="small")


def _scale(axes: Axes, values: Sequence[int], label: str) -> None:
    """Powers of two to the right, speeds or times from zero up."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_xlabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _draw_stages(axes: Axes, inside: Inside | None) -> None:
    if inside is None:
        axes.text(0.5, 0.5, "no stages without the native decoder", ha="center", va="center")
        axes.set_axis_off()
        return
    names = [name.replace("_", " ") for name in inside.stages]
    bars = axes.barh(names, list(inside.stages.values()), color=COLOURS[0])
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("one thread, µs an image")


_BOUNDS = {  # keys of `memory_bound`, and what they mean
    "eager": "memory bound, each operation by itself",
    "fused_norm": "memory bound, ReLU and addition in batch norm",
    "convolutions": "memory bound, convolutions alone",
}


def save_step_plot(result: StepBench | TrainBench, path: Path) -> None:
    """Write the result of `bench_step` or `bench_train` as a PNG. Raises UsageError where `path` cannot be written."""
    figure = _step_figure(result) if isinstance(result, StepBench) else _train_figure(result)
    setup = result.setup
    save_figure(figure, path, f"{setup.recipe}: {setup.model}, {setup.precision}, {setup.device}")


def _step_figure(result: StepBench) -> Figure:
    figure = Figure(figsize=(11, 4.8), dpi=110, layout="constrained")
    speeds, parts = figure.subplots(1, 2)
    shapes = [row.speed for row in result.phases]
    _draw_bars(speeds, shapes, {"measured": [shape.images_per_second for shape in shapes]})
    for (key, label), style in zip(_BOUNDS.items(), ("-", "--", ":"), strict=True):
        limits = [result.setup.world_size * row.limits.memory_bound[key] for row in result.phases]
        left, right = ([place + side for place in range(len(limits))] for side in (-0.4, 0.4))
        speeds.hlines(limits, left, right, colors=COLOURS[2], linestyles=style, label=label)
    _end_bars(speeds)
    _draw_step_parts(parts, result.phases)
    return figure


def _train_figure(result: TrainBench) -> Figure:
    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    speeds = {
        plain(f"from {result.data}"): [row.images_per_second for row in result.phases],
        "synthetic": [row.synthetic_images_per_second for row in result.phases],
    }
    _draw_bars(axes, result.phases, speeds)
    _end_bars(axes)
    return figure


def _draw_bars(axes: Axes, shapes: Sequence[StepSpeed | TrainedShape], speeds: Mapping[str, Sequence[float]]) -> None:
    """A group of bars for each shape, one for each label of `speeds`."""
    width = 0.8 / len(speeds)
    for number, (label, values) in enumerate(speeds.items()):
        places = [place + (number + 0.5) * width - 0.4 for place in range(len(shapes))]
        bars = axes.bar(places, values, 0.9 * width, color=COLOURS[number], label=label)
        axes.bar_label(bars, fmt="{:,.4g}", padding=2, fontsize="small")
    names = [f"{shape.image_size} px\n{shape.batch_size} = {_micro_batches(shape)}{_frozen(shape)}" for shape in shapes]
    axes.set_xticks(range(len(shapes)), names)
    axes.set_ylabel("images/s")


def _micro_batches(shape: StepSpeed | TrainedShape) -> str:
    return f"{shape.batch_size // shape.micro_batch} × {shape.micro_batch}"


def _frozen(shape: StepSpeed | TrainedShape) -> str:
    return "" if shape.freeze == "none" else f"\n{shape.freeze} frozen"


def _end_bars(axes: Axes) -> None:
    axes.grid(alpha=0.3, axis="y")
    axes.set_axisbelow(True)
    axes.margins(y=0.35)  # room for the legend above the bars
    axes.legend(frameon=False, fontsize="small", loc="upper right")


def _draw_step_parts(axes: Axes, phases: Sequence[MeasuredShape]) -> None:
    """Milliseconds an image of each part of an eager step, stacked."""
    # Bars of one name would lie over one another
    names = [f"{row.speed.image_size} px, {_micro_batches(row.speed)}{_frozen(row.speed)}" for row in phases]
    left = [0.0] * len(phases)
    for part, colour in zip(PARTS, COLOURS, strict=False):
        taken = [1e3 * row.seconds_by_part[part] / row.speed.batch_size for row in phases]
        axes.barh(names, taken, left=left, color=colour, label=part)
        left = [before + more for before, more in zip(left, taken, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("eager step, ms an image")
    axes.legend(frameon=False, fontsize="small", ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def save_predict_plot(result: PredictBench, path: Path) -> None:
    """Write the result of `bench_predict` as a PNG. Raises UsageError where `path` cannot be written."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    latency, throughput = figure.subplots(1, 2)
    threads = max(call.threads for call in result.calls)
    calls = [call for call in result.calls if call.threads == threads]
    batch_sizes = sorted({call.batch_size for call in calls})
    programs = dict.fromkeys((call.runtime, call.precision) for call in calls)
    for (runtime, precision), colour in zip(programs, COLOURS, strict=False):
        for decoding, style in ((False, "o-"), (True, "o--")):
            kind = (runtime, precision, decoding)
            own = [call for call in calls if (call.runtime, call.precision, call.decoding) == kind]
            label = f"{runtime} {precision}{', from JPEG' if decoding else ''}"
            latency.plot(batch_sizes, [1e3 * call.p50 for call in own], style, color=colour, label=label)
            throughput.plot(batch_sizes, [call.images_per_second for call in own], style, color=colour)
    latency.set_ylabel("median of a call, ms")
    latency.legend(frameon=False, fontsize="small")
    throughput.set_ylabel("images/s")
    for axes in (latency, throughput):
        _scale(axes, batch_sizes, "batch size")
    title = f"{result.model}, {result.image_size} px, {threads} thread{'' if threads == 1 else 's'}, {result.device}"
    save_figure(figure, path, title)


_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
_OTHER = "#999999"
_NARROWEST = 0.06  # share of the whole that a part's name fits into


def save_plan_plot(plan: Plan, path: Path) -> None:
    """Write a plan as a PNG. Raises UsageError where that is not possible."""
    figure = Figure(figsize=(10, 2.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    total = plan.total_seconds
    unit, name = next(each for each in _UNITS if total >= 2 * each[0] or each[0] == 1)
    _draw_plan_parts(axes, plan, unit)
    for point in plan.accuracies:
        axes.axvline(point["seconds"] / unit, color="black", linestyle=":")
        axes.annotate(f"{point['top1']:g}% ", (point["seconds"] / unit, 0.43), ha="right", fontsize="small")
    axes.set_yticks([])
    axes.set_ylim(-0.45, 0.55)
    axes.set_xlim(0, 1.02 * total / unit)
    axes.set_xlabel(name)
    axes.legend(frameon=False, fontsize="small", ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save_figure(figure, path, f"{plan.recipe} on {plan.ranks} × {plan.machine}")


def _draw_plan_parts(axes: Axes, plan: Plan, unit: float) -> None:
    """Bars one after another: start-up, phases, and all evaluations and checkpoints together."""
    parts = [("start-up", plan.start_up_seconds, "")]
    parts += [(f"{row.image_size} px", row.seconds, row.limited_by) for row in plan.phases]
    parts += [("evaluations", plan.evaluations.seconds, ""), ("checkpoints", plan.checkpoints.seconds, "")]
    left, labels = 0.0, set[str]()
    for text, seconds, limit in parts:
        if seconds == 0:
            continue
        label = f"limited by {limit}" if limit else "start-up, evaluations, checkpoints"
        colour = COLOURS[LIMITS.index(limit)] if limit else _OTHER
        shown = "" if label in labels else label
        axes.barh(0, seconds / unit, left=left / unit, color=colour, edgecolor="white", label=shown)
        if seconds > _NARROWEST * plan.total_seconds:
            axes.text((left + seconds / 2) / unit, 0, text, ha="center", va="center", color="white")
        labels.add(label)
        left += seconds
