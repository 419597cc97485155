"""`report`: one self-contained HTML file on a run, which opens from disk without a network, and its model card."""

from dataclasses import dataclass
from pathlib import Path

from imagesprint.console import Console
from imagesprint.files import write_text
from imagesprint.measuring.plots import save_plots
from imagesprint.measuring.reporting.model_card import model_card
from imagesprint.measuring.reporting.page import page
from imagesprint.measuring.reporting.pictures import validation_images
from imagesprint.measuring.reporting.references import find_reference
from imagesprint.measuring.reporting.run_record import RunRecord, read_run
from imagesprint.measuring.reporting.sections import (
    data_section,
    inference_section,
    metrics_section,
    misc_section,
    summary,
    training_section,
)
from imagesprint.records.dataset import Dataset, open_root
from imagesprint.runs.directory import RunDirectory

SECTIONS = ("data", "training", "metrics", "inference", "misc")


@dataclass(frozen=True)
class ReportOptions:
    """`reference` is a published run's name or a run directory; `data` the root that the pictures come from; `price`
    what an hour of the machine costs."""

    reference: str | None = None
    data: Path | None = None
    price: float | None = None


def write_report(path: Path, options: ReportOptions, console: Console) -> Path:
    """Write report.html and model-card.md into the run directory `path`, and its plots; returns where the report lies.

    Raises UsageError where there is no run, or nothing that the options name.
    """
    record = read_run(path)
    for remark in record.remarks:
        console.warn(remark)
    reference = find_reference(record, options.reference)
    dataset = _images(record, options.data, console)
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in SECTIONS)
    body = [
        *summary(record, reference, options.price),
        f"<nav>{links}</nav>",
        *data_section(record),
        *training_section(record, reference),
        *metrics_section(record, dataset),
        *inference_section(record),
        *misc_section(record),
        "<footer>Written by imagesprint report. top-1 and top-5 are percentages of the validation images.</footer>",
    ]
    save_plots(RunDirectory(path))
    write_text(path / "model-card.md", model_card(record))
    target = path / "report.html"
    write_text(target, page(f"{record.recipe.name}: {record.name}", body))
    return target


def _images(record: RunRecord, data: Path | None, console: Console) -> Dataset | None:
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
