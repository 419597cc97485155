"""`report`: one self-contained HTML file on a run, and its model card."""

from collections.abc import Sequence
from pathlib import Path

from imagesprint.console import Console, duration, printable, printable_lines
from imagesprint.errors import MissingPackageError
from imagesprint.files import write_text
from imagesprint.records.dataset import Dataset, open_root
from imagesprint.report.charts import save_plots
from imagesprint.report.page import page
from imagesprint.report.pictures import validation_images
from imagesprint.report.run_record import RunRecord, find_reference, read_run
from imagesprint.report.sections import (
    OF_CLASSES,
    centre,
    data_section,
    inference_section,
    metrics_section,
    misc_section,
    percent,
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


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def model_card(record: RunRecord) -> str:
    """The text of model-card.md."""
    recipe, known, best = record.recipe, record.checkpoint, record.best
    lines = [
        f"# {recipe.model}, trained by {printable(recipe.name)}",
        "",
        "## Model",
        "",
        f"- Architecture: {recipe.model}" + (f", {known.num_weights / 1e6:,.1f} million weights" if known.path else ""),
        f"- Input: uint8 RGB; shorter side to {recipe.eval_resize} px, then the centre {centre(recipe)}",
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
    of_classes = [OF_CLASSES] if record.has_unequal_classes else []
    header = ["epoch", "images", "top-1 %", *of_classes, "top-5 %", "loss", "precision"]
    lines += [_row(header), "|" + "---|" * len(header)]
    for title, row in (("last", record.evaluations[-1]), ("best", best)):
        first, mean = f"{row.epoch:g}, {title}", [percent(row.mean_class_accuracy) for _ in of_classes]
        figures = [f"{row.top1:.2f}", *mean, f"{row.top5:.2f}", f"{row.loss:.4f}", row.precision]
        lines.append(_row([first, f"{row.num_images:,}", *figures]))
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
