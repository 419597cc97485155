"""`report A B C`: several runs on one page."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from imagesprint.console import Console, duration
from imagesprint.errors import UsageError
from imagesprint.files import write_text
from imagesprint.measuring.reporting.curves import axis_unit, switchable
from imagesprint.measuring.reporting.line_chart import COLOURS, Chart, Line, draw
from imagesprint.measuring.reporting.page import page, table
from imagesprint.measuring.reporting.run_record import RunRecord, names, read_run
from imagesprint.recipes.compare import differences

Named = tuple[str, RunRecord]

CURVES = (
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


def _curves(named: Sequence[Named], axis: str) -> str:
    unit, x_label = axis_unit(axis, max(record.train_seconds for _, record in named))
    charts = []
    for title, rows, key in CURVES:
        lines = []
        for (name, record), colour in zip(named, COLOURS, strict=False):
            own = getattr(record, rows)
            places = zip(record.along(own, axis), own, strict=True)
            points = [(x / unit, getattr(row, key)) for x, row in places]
            lines.append(Line(name, points, colour, markers=rows == "evaluations"))
        charts.append(draw(Chart(title, lines, x_label)))
    return "".join(charts)


def _difference(first: Named, other: Named) -> list[str]:
    rows = [[change.key, change.a, change.b] for change in differences(first[1].recipe, other[1].recipe)]
    title = f"<h3>{escape(other[0])} against {escape(first[0])}</h3>"
    if not rows:
        return [title, "<p>The same recipe.</p>"]
    return [title, table(["key", first[0], other[0]], rows, words=True)]
