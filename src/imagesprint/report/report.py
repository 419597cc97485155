"""`report`: one self-contained HTML file on a run, its model card, and several runs on one page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Literal

from imagesprint.console import Console, duration, printable, printable_lines
from imagesprint.errors import MissingPackageError, UsageError
from imagesprint.files import write_text
from imagesprint.recipes.library import differences
from imagesprint.records.dataset import Dataset, open_root
from imagesprint.report.charts import COLOURS, Chart, Line, axis_unit, save_plots, switchable
from imagesprint.report.page import page, table
from imagesprint.report.pictures import validation_images
from imagesprint.report.run_record import RunRecord, find_reference, names, read_run
from imagesprint.report.sections import (
    data_section,
    inference_section,
    metrics_section,
    misc_section,
    summary,
    training_section,
)
from imagesprint.storage.url import Place

SECTIONS = ("data", "training", "metrics", "inference", "misc")


def write_report(
    path: Path,
    console: Console,
    reference: str | None = None,
    data: Place | None = None,
    price: float | None = None,
) -> Path:
    """Write report.html and model-card.md into the run directory `path`, and its plots; returns where the report lies.

    `reference` is a published run's name or a run directory, by default that of the recipe on ImageNet; `data` the root
    that the pictures come from; `price` what an hour of the machine costs. Raises UsageError where there is no run, or
    no such reference or root.
    """
    record = read_run(path)
    for remark in record.remarks:
        console.warn(remark)
    held_against = find_reference(record, reference)
    dataset = _images(record, data, console)
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in SECTIONS)
    body = [
        *summary(record, held_against, price),
        f"<nav>{links}</nav>",
        *data_section(record),
        *training_section(record, held_against),
        *metrics_section(record, dataset),
        *inference_section(record),
        *misc_section(record),
        "<footer>Written by imagesprint report. top-1 and top-5 are percentages of the validation images.</footer>",
    ]
    _plots(record, console)
    write_text(path / "model-card.md", model_card(record))
    target = path / "report.html"
    write_text(target, page(f"{record.recipe.name}: {record.name}", body))
    return target


def _plots(record: RunRecord, console: Console) -> None:
    try:
        save_plots(record)
    except MissingPackageError as error:
        console.line(f"plots       not drawn: {error.what}; {error.hint}")


def _images(record: RunRecord, data: Place | None, console: Console) -> Dataset | None:
    if data is None:
        return None
    root = open_root(data)
    if not record.judged:
        console.warn("no checkpoint has details: imagesprint evaluate RUN --data ROOT finds the mistakes to show")
        return None
    dataset = validation_images(root, record.judged[0]["data"])
    if dataset is None:
        console.warn(f"{data} does not hold the images that the run was judged on: the report has no pictures")
    return dataset


def model_card(record: RunRecord) -> str:
    """The text of model-card.md."""
    recipe, known, best = record.recipe, record.checkpoint, record.best
    lines = [
        f"# {recipe.model}, trained by {printable(recipe.name)}",
        "",
        "## Model",
        "",
        f"- Architecture: {recipe.model}" + (f", {known.num_weights / 1e6:,.1f} million weights" if known.path else ""),
        f"- Input: uint8 RGB; shorter side to {recipe.eval_resize} px, then the centre {recipe.eval_image_size} px",
        "- Output: a logit a class",
        f"- Checkpoint: {known.path.relative_to(record.path) if known.path else 'none'}",
        "",
        "## Training",
        "",
        f"- {record.last.step:,} steps, {record.last.epoch:g} epochs"
        + (f" of {known.num_train:,} images in {len(known.classes):,} classes" if known.path else ""),
        f"- {duration(record.wall_seconds)} in all, {recipe.precision}, seed {recipe.seed}"
        + (f", PyTorch {known.torch}" if known.torch else ""),
        "- The whole recipe: recipe.toml",
        "",
        "## Evaluation",
        "",
    ]
    if best is None:
        return printable_lines("\n".join([*lines, "Nothing was evaluated yet.", ""]))
    lines += ["| epoch | images | top-1 % | top-5 % | loss | precision |", "|---|---|---|---|---|---|"]
    for title, row in (("last", record.evaluations[-1]), ("best", best)):
        figures = f"{row.num_images:,} | {row.top1:.2f} | {row.top5:.2f} | {row.loss:.4f} | {row.precision}"
        lines.append(f"| {row.epoch:g}, {title} | {figures} |")
    if record.judged:
        details = record.judged[0]["details"]
        judged = [row for row in details["per_class"] if row["num_images"]]
        worst = min(judged, key=lambda row: row["top1"] or 0.0)
        name = printable(worst["class"])
        lines += [
            "",
            f"- Expected calibration error: {details['calibration_error']:.2f}% (15 bins)",
            f"- Weakest class: {name}, top-1 {worst['top1']:.1f}% of {worst['num_images']:,} images",
        ]
    lines += [
        "",
        "## Limits",
        "",
        "- It always answers with one of its classes, whatever the picture shows.",
        "- The figures hold for images like those of the validation split, and the best checkpoint was chosen on it.",
        "",
    ]
    return printable_lines("\n".join(lines))


Named = tuple[str, RunRecord]

CURVES: Sequence[tuple[str, Literal["metrics", "evaluations"], str]] = (
    ("Validation top-1, %", "evaluations", "top1"),
    ("Validation loss", "evaluations", "loss"),
    ("Training cross-entropy", "metrics", "cross_entropy"),
    ("Learning rate", "metrics", "lr"),
)


def write_comparison(paths: Sequence[Path], console: Console) -> Path:
    """Write comparison.html into the first of the run directories `paths`; returns where it lies.

    Raises UsageError for what is no run, and for more runs than there are colours.
    """
    if len(paths) > len(COLOURS):
        raise UsageError(f"{len(paths)} runs are more than can be told apart", f"name at most {len(COLOURS)}")
    records = [read_run(path) for path in paths]
    for remark in (remark for record in records for remark in record.remarks):
        console.warn(remark)
    named = list(zip(names(records), records, strict=True))
    first, *others = named
    body = [
        f"<h1>{escape(' · '.join(name for name, _ in named))}</h1>",
        "<h2>Results</h2>",
        _results(named),
        "<h2>Curves</h2>",
        switchable(lambda axis: _curves(named, axis)),
        "<h2>Recipes</h2>",
        *(part for other in others for part in _difference(first, other)),
        "<footer>Written by imagesprint report.</footer>",
    ]
    target = paths[0] / "comparison.html"
    write_text(target, page(f"{len(records)} runs", body))
    return target


def _results(named: Sequence[Named]) -> str:
    rows = []
    for name, record in named:
        best, last = record.best, record.last
        rows.append(
            [
                name,
                record.recipe.name,
                f"{last.epoch:g}" + ("" if record.result is not None else ", not finished"),
                f"{record.evaluations[-1].top1:.2f}" if best else "",
                f"{best.top1:.2f}, epoch {best.epoch:g}" if best else "",
                duration(record.wall_seconds),
            ]
        )
    return table(["run", "recipe", "epochs", "top-1 %", "best top-1 %", "wall time"], rows)


def _curves(named: Sequence[Named], axis: str) -> list[Chart]:
    unit, x_label = axis_unit(axis, max(record.train_seconds for _, record in named))
    return [
        Chart(
            title,
            [
                Line(name, record.points(rows, key, axis, unit), colour, markers=rows == "evaluations")
                for (name, record), colour in zip(named, COLOURS, strict=False)
            ],
            x_label,
        )
        for title, rows, key in CURVES
    ]


def _difference(first: Named, other: Named) -> list[str]:
    rows = [[change.key, change.a, change.b] for change in differences(first[1].recipe, other[1].recipe)]
    title = f"<h3>{escape(other[0])} against {escape(first[0])}</h3>"
    if not rows:
        return [title, "<p>The same recipe.</p>"]
    return [title, table(["key", first[0], other[0]], rows, words=True)]
