"""The page of several runs: what each came to, repetitions of one recipe together, and what differs between recipes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Final, Literal

from imagesprint.console import Console, duration
from imagesprint.errors import UsageError
from imagesprint.files import write_text
from imagesprint.recipes.library import differences
from imagesprint.report.charts import COLOURS, Chart, Line, axis_unit, dots, switchable
from imagesprint.report.page import page, table
from imagesprint.report.repetitions import (
    ACCURACIES,
    CONFIDENCE,
    Contrast,
    Experiment,
    Figure,
    contrasts,
    experiments,
    told,
)
from imagesprint.report.run_record import RunRecord, names, read_run
from imagesprint.report.sections import OF_CLASSES, percent

MOST_SEEDS: Final = 5  # that are named one by one
Rows = Literal["metrics", "evaluations"]
CURVES: Final[Sequence[tuple[str, Rows, str]]] = (
    ("Validation top-1, %", "evaluations", "top1"),
    ("Validation, mean of classes, %", "evaluations", "mean_class_accuracy"),
    ("Validation loss", "evaluations", "loss"),
    ("Training loss, without weight decay", "metrics", "cross_entropy"),
    ("Learning rate", "metrics", "lr"),
)


@dataclass(frozen=True)
class Comparison:
    """Where the page lies, the experiments that the runs are of, and how they differ from the first."""

    path: Path
    experiments: list[Experiment]
    contrasts: list[Contrast]


def write_comparison(paths: Sequence[Path], console: Console) -> Comparison:
    """Write comparison.html into the first of the run directories `paths`.

    Raises UsageError for what is no run, and for more recipes than there are colours.
    """
    records = [read_run(path) for path in paths]
    for remark in (remark for record in records for remark in record.remarks):
        console.warn(remark)
    named = list(zip(names(records), records, strict=True))
    found = experiments(named)
    if len(found) > len(COLOURS):
        raise UsageError(
            f"{len(found)} recipes are more than can be told apart", f"name runs of at most {len(COLOURS)}"
        )
    for remark in _doubts(found):
        console.warn(remark)
    differ = contrasts(found)
    body = [
        f"<h1>{escape(_title(found))}</h1>",
        "<h2>Results</h2>",
        *_repetitions(found, differ),
        _results(named),
        "<h2>Curves</h2>",
        switchable(lambda axis: _curves(found, axis)),
        "<h2>Recipes</h2>",
        *(part for other in found[1:] for part in _difference(found[0], other)),
        *(["<p>All runs are of the same recipe.</p>"] if len(found) == 1 else []),
        "<footer>Written by imagesprint report.</footer>",
    ]
    target = paths[0] / "comparison.html"
    write_text(target, page(f"{len(records)} runs", body))
    return Comparison(target, found, differ)


def _title(found: Sequence[Experiment]) -> str:
    if all(len(one.runs) == 1 for one in found):
        return " · ".join(one.runs[0][0] for one in found)
    return " · ".join(f"{one.name}, {len(one.runs)} run{'s' if len(one.runs) > 1 else ''}" for one in found)


def _doubts(found: Sequence[Experiment]) -> list[str]:
    """What speaks against taking runs for repetitions, or experiments for comparable."""
    doubts = [
        f"two runs of {one.name} have the same seed: they do not tell its spread"
        for one in found
        if len(set(one.seeds)) < len(one.seeds)
    ]
    trained_on = {record.checkpoint.data for one in found for _, record in one.runs} - {""}
    return doubts + (["the runs were trained on different data"] if len(trained_on) > 1 else [])


def _repetitions(found: Sequence[Experiment], differ: Sequence[Contrast]) -> list[str]:
    """Mean and spread of each experiment, and what they say of one another; nothing where no run is repeated."""
    repeated = [one for one in found if len(one.runs) > 1]
    if not repeated:
        return []
    figures = told(found)
    rows = [[*_heading(one), *(_spread(one, figure) for figure in figures)] for one in found]
    judged = [one for one in found if "top1" in one.values]
    lines = [table(["recipe", "seeds", "epoch", *(figure.title for figure in figures)], rows)]
    lines.append(
        "<p class=faint>Mean ± standard deviation of the runs, at the last epoch at which all were judged.</p>"
    )
    lines += [f"<p class=faint>{escape(doubt)}.</p>" for doubt in _doubts(found)]
    if judged:
        spots = [(one.name, one.values["top1"], _colour(found, one)) for one in judged]
        lines.append(dots("Top-1 of each run, %, with mean and standard deviation", spots))
    if differ:
        shown = [one for one in differ if one.figure in figures]
        accuracy = [one for one in shown if one.figure.key in ACCURACIES]
        others = [one for one in shown if one.figure.key not in ACCURACIES]
        lines.append("<h3>Is the difference more than chance?</h3>")
        lines += [f"<p>{escape(one.sentence)}.</p>" for one in accuracy]
        lines.append(
            f"<p class=faint>By Welch’s t: of twenty such intervals of {CONFIDENCE:.0%}, one misses by chance alone, "
            "so the more figures and recipes are compared, the more of them stand out without a reason.</p>"
        )
        sentences = "".join(f"<li>{escape(one.sentence)}</li>" for one in others)
        lines.append(f"<details><summary>The other figures</summary><ul>{sentences}</ul></details>")
    return [*lines, "<h3>Each run</h3>"]


def _heading(one: Experiment) -> list[str]:
    seeds = ", ".join(map(str, one.seeds)) if len(one.runs) <= MOST_SEEDS else f"{len(one.runs)} runs"
    return [one.name, seeds, "" if one.epoch is None else f"{one.epoch:g}"]


def _spread(one: Experiment, figure: Figure) -> str:
    return one.spreads[figure.key].text(figure.format) if figure.key in one.values else ""


def _results(named: Sequence[tuple[str, RunRecord]]) -> str:
    rows = []
    of_classes = [OF_CLASSES] if any(record.has_unequal_classes for _, record in named) else []
    for name, record in named:
        best, last = record.best, record.last
        rows.append(
            [
                name,
                record.recipe.name,
                str(record.recipe.seed),
                f"{last.epoch:g}" + ("" if record.result is not None else ", not finished"),
                f"{record.evaluations[-1].top1:.2f}" if best else "",
                *(percent(record.evaluations[-1].mean_class_accuracy if best else None) for _ in of_classes),
                f"{best.top1:.2f}, epoch {best.epoch:g}" if best else "",
                duration(record.wall_seconds),
            ]
        )
    return table(["run", "recipe", "seed", "epochs", "top-1 %", *of_classes, "best top-1 %", "wall time"], rows)


def _colour(found: Sequence[Experiment], one: Experiment) -> str:
    return COLOURS[found.index(one)]


def _curves(found: Sequence[Experiment], axis: str) -> list[Chart]:
    longest = max(record.train_seconds for one in found for _, record in one.runs)
    unit, x_label = axis_unit(axis, longest)

    def lines(one: Experiment, rows: Rows, key: str) -> list[Line]:
        colour, judged = _colour(found, one), rows == "evaluations"
        own = [(name, record.points(rows, key, axis, unit)) for name, record in one.runs]
        if len(own) == 1:
            return [Line(own[0][0], own[0][1], colour, markers=judged)]
        mean = Line(f"{one.name}, mean", _mean_curve(one, rows, key, axis, unit), colour, markers=judged)
        return [*(Line(name, points, colour, thin=True) for name, points in own), mean]

    drawn = any(record.draws_classes for one in found for _, record in one.runs)
    curves = [curve for curve in CURVES if drawn or curve[2] != "mean_class_accuracy"]
    return [
        Chart(title, [line for one in found for line in lines(one, rows, key)], x_label) for title, rows, key in curves
    ]


def _mean_curve(one: Experiment, rows: Rows, key: str, axis: str, unit: float) -> list[tuple[float, float]]:
    """The mean over the runs at each step that all of them have, at the mean of where they were then."""
    by_step: list[Mapping[int, tuple[float, float]]] = []
    for _, record in one.runs:
        steps = [row.step for row in getattr(record, rows) if getattr(row, key) is not None]
        by_step.append(dict(zip(steps, record.points(rows, key, axis, unit), strict=True)))
    shared = sorted(set.intersection(*(set(points) for points in by_step)))
    return [
        (fmean(points[step][0] for points in by_step), fmean(points[step][1] for points in by_step)) for step in shared
    ]


def _difference(first: Experiment, other: Experiment) -> list[str]:
    a, b = first.runs[0][1].recipe, other.runs[0][1].recipe
    repeated = len(first.runs) + len(other.runs) > 2
    rows = [[one.key, one.a, one.b] for one in differences(a, b) if not (repeated and one.key == "seed")]
    names = [one.name if repeated else one.runs[0][0] for one in (first, other)]
    return [f"<h3>{escape(names[1])} against {escape(names[0])}</h3>", table(["key", *names], rows, words=True)]
