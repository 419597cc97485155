"""The report's sections: summary, data, training, metrics, inference, misc."""

from html import escape

import numpy as np

from imagesprint.console import duration
from imagesprint.evaluating.results import ClassResult
from imagesprint.images.crops import LONGEST
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.serialization import to_toml
from imagesprint.records.dataset import Dataset
from imagesprint.report.charts import run_charts, switchable
from imagesprint.report.page import Markup, cards, facts, table
from imagesprint.report.pictures import show_mistakes
from imagesprint.report.run_record import Reference, RunRecord, verdict
from imagesprint.runs.rows import Began, MetricsRow, classes_differ

EXTREMES = 8  # classes at either end
PAIRS = 10
MANY_ROWS = 12  # more evaluations than this are folded up
OF_CLASSES = "mean of classes %"  # a column, where classes have unequal numbers of images


def summary(record: RunRecord, reference: Reference | None, price: float | None) -> list[str]:
    """Title, verdict and the figures that count."""
    last, best = record.last, record.best
    figures = {}
    if best is not None:
        newest = record.evaluations[-1]
        figures[f"top-1 at epoch {newest.epoch:g}"] = f"{newest.top1:.2f}%"
        if classes_differ(newest.top1, newest.mean_class_accuracy):
            figures["mean of classes"] = f"{newest.mean_class_accuracy:.2f}%"
        if record.has_top5:
            figures["top-5"] = f"{newest.top5:.2f}%"
        figures[f"best top-1, epoch {best.epoch:g}"] = f"{best.top1:.2f}%"
    figures["wall time"] = duration(record.wall_seconds)
    figures["training images/s"] = f"{_mean(record.metrics, 'images_per_second'):,.0f}"
    figures["waiting for data"] = f"{_mean(record.metrics, 'data_wait'):.1%}"
    if price is not None:
        figures[f"cost, at {price:g} an hour"] = f"{price * record.wall_seconds / 3600:,.2f}"
    state = "Finished" if record.result is not None else "Not finished"
    if record.result is not None and record.result.ended_early:
        state = f"Finished early, after {record.recipe.patience} evaluations without a better top-1"
    lines = [
        f"<h1>{escape(record.recipe.name)}: {escape(record.recipe.model)}</h1>",
        f"<p class=faint>{state}: {last.step:,} steps, {last.epoch:g} epochs; directory {escape(record.name)}.</p>",
    ]
    if reference is not None:
        keeps_up, sentence = verdict(record, reference)
        lines.append(
            f'<div class="verdict{"" if keeps_up else " under"}">{escape(sentence)}.'
            f"<small>{escape(reference.name)}: {escape(reference.source)}</small></div>"
        )
    return [*lines, cards(figures)]


def data_section(record: RunRecord) -> list[str]:
    """What it was trained and judged on."""
    known, recipe = record.checkpoint, record.recipe
    judged = f"{record.evaluations[-1].num_images:,}" if record.evaluations else "none yet"
    if known.path is None:
        return ["<h2 id=data>Data</h2>", facts({"validation images": judged})]
    classes, bad = known.classes, record.totals.bad_records
    names = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
    rows = {
        "training images": known.num_train,
        "validation images": judged,
        "classes": f"{len(classes):,}: {names}",
        "variants": ", ".join(dict.fromkeys(phase.source for phase in recipe.phases))
        + f" for training, {recipe.eval_source} for evaluation",
        "bad records": "none" if not bad else f"{bad:,}, in whose place others stood",
        "fingerprint": known.data or "unknown",
    }
    return ["<h2 id=data>Data</h2>", facts(rows)]


def training_section(record: RunRecord, reference: Reference | None) -> list[str]:
    """Phases and curves."""
    rows = []
    for span, phase in zip(record.spans(), record.recipe.phases, strict=False):
        (first, last), (began, ended) = span.step, span.seconds
        inside = [row for row in record.metrics if first < row.step <= last]
        rows.append(
            [
                f"{span.epoch[0]:g}–{span.epoch[1]:g}",
                f"{first:,}–{last:,}",
                f"{phase.image_size} px",
                phase.batch_size,
                phase.micro_batch,
                f"{phase.lr[0]:g} → {phase.lr[1]:g} {phase.method}",
                f"{_mean(inside, 'images_per_second'):,.0f}",
                duration(ended - began),
            ]
        )
    header = ["epochs", "steps", "images", "batch", "micro-batch", "learning rate", "images/s", "time"]
    return [
        "<h2 id=training>Training</h2>",
        table(header, rows),
        "<h3>Curves</h3>",
        switchable(lambda axis: run_charts(record, reference, axis).values()),
    ]


def metrics_section(record: RunRecord, dataset: Dataset | None) -> list[str]:
    """Every evaluation, and what lies behind the newest that has details."""
    lines = ["<h2 id=metrics>Metrics</h2>", _evaluations(record)]
    if not record.judged:
        hint = "imagesprint evaluate RUN --data ROOT adds classes, confusions, calibration and the worst mistakes."
        return [*lines, f"<p class=faint>{hint}</p>"]
    plain = record.judged[0]
    details = plain["details"]
    lines += [
        f"<h3>Classes at epoch {plain['epoch']:g}</h3>",
        _classes(details["per_class"]),
        "<div class=pair><div>",
        "<h3>Most frequent confusions</h3>",
        table(
            ["class", "taken for", "times"],
            [[row["class"], row["taken_for"], row["count"]] for row in details["confusions"][:PAIRS]],
        ),
        "</div><div>",
        "<h3>Calibration</h3>",
        f"<p>Expected calibration error {details['calibration_error']:.2f}%: how far, on average, the probability of "
        "the first class is from the share of right answers.</p>",
        table(
            ["said", "right", "images"],
            [
                [f"{row['probability']:.1f}%", f"{row['top1']:.1f}%", row["num_images"]]
                for row in details["calibration"]
            ],
        ),
        "</div></div>",
    ]
    if dataset is not None and details["mistakes"]:
        lines += ["<h3>The surest mistakes</h3>", show_mistakes(dataset, details["mistakes"])]
    return lines


def inference_section(record: RunRecord) -> list[str]:
    """How the model wants its images, and how it does when they come otherwise."""
    recipe, known = record.recipe, record.checkpoint
    rows: dict[str, object] = {
        "input": f"uint8 RGB; shorter side to {recipe.eval_resize} px, antialiased, then the centre "
        f"{centre(recipe)}; normalised inside the model",
    }
    if known.path is not None:
        size = known.path.stat().st_size
        rows["weights"] = f"{known.num_weights / 1e6:,.1f} million"
        rows["checkpoint"] = f"{known.path.relative_to(record.path)}, {size / 1e6:,.0f} MB, as torch.load reads it"
    rows["in Python"] = Markup('<code>imagesprint.load_model("RUN")(images)</code> gives logits')
    lines = ["<h2 id=inference>Inference</h2>", facts(rows)]
    if len(record.judged) > 1:
        plain = record.judged[0]
        unequal = any(classes_differ(view["top1"], view["mean_class_accuracy"]) for view in record.judged)
        of_classes = [OF_CLASSES] if unequal else []
        views = [
            [
                "plain: one centre crop" if view is plain else view["view"],
                f"{view['top1']:.2f}",
                f"{view['top1'] - plain['top1']:+.2f}" if view is not plain else "",
                *(percent(view["mean_class_accuracy"]) for _ in of_classes),
                f"{view['top5']:.2f}",
                f"{view['loss']:.4f}",
            ]
            for view in record.judged
        ]
        lines += [
            f"<h3>Other ways to judge the checkpoint of epoch {plain['epoch']:g}</h3>",
            table(["", "top-1 %", "against plain", *of_classes, "top-5 %", "loss"], views),
        ]
    return lines


def misc_section(record: RunRecord) -> list[str]:
    """Environment, interruptions, and the whole recipe."""
    known, began = record.checkpoint, [row for row in record.commands if isinstance(row, Began)]
    devices = [_device(row) for row in began if row.device]
    decoders = [row.decoder for row in began if row.decoder] or [known.decoder or "unknown"]
    interruptions = [f"{one.reason}, resumed after step {one.step:,}" for one in record.interruptions]
    rows: dict[str, object] = {
        "device": "; ".join(dict.fromkeys(devices)) or "unknown",
        "precision": record.recipe.precision,
        "PyTorch": known.torch or "unknown",
        "decoder": "; ".join(dict.fromkeys(decoders)),
        "seed": record.recipe.seed,
        "interruptions": "; ".join(interruptions) or "none",
    }
    warnings = dict.fromkeys(text for row in record.commands for text in row.warnings)
    if warnings:
        rows["warnings"] = Markup("<br>".join(map(escape, warnings)))
    return [
        "<h2 id=misc>Misc</h2>",
        facts(rows),
        f"<details open><summary>The whole recipe</summary><pre>{escape(to_toml(record.recipe))}</pre></details>",
    ]


def _device(began: Began) -> str:
    ranks = f"{began.ranks} rank{'s' if began.ranks > 1 else ''}"
    return f"{began.device}, {ranks}, {began.threads} CPU thread{'s' if began.threads > 1 else ''} each"


def _evaluations(record: RunRecord) -> str:
    if not record.evaluations:
        return "<p>Nothing was evaluated yet.</p>"
    of_classes = [OF_CLASSES] if record.has_unequal_classes else []
    rows = [
        [
            f"{row.epoch:g}",
            row.step,
            f"{row.top1:.2f}" + (" ★" if row is record.best else ""),
            *(percent(row.mean_class_accuracy) for _ in of_classes),
            f"{row.top5:.2f}",
            f"{row.loss:.4f}",
            row.num_images,
            row.precision,
        ]
        for row in record.evaluations
    ]
    whole = table(["epoch", "step", "top-1 %", *of_classes, "top-5 %", "loss", "images", "precision"], rows)
    if len(rows) <= MANY_ROWS:
        return whole
    return f"<details><summary>All {len(rows)} evaluations</summary>{whole}</details>"


def _classes(per_class: list[ClassResult]) -> str:
    judged = sorted((row for row in per_class if row["num_images"]), key=lambda row: -(row["top1"] or 0.0))
    if len(judged) <= 2 * EXTREMES:
        return _bars("class", judged)
    return (
        f"<div class=pair><div>{_bars(f'best of {len(judged):,}', judged[:EXTREMES])}</div>"
        f"<div>{_bars('worst', judged[-EXTREMES:])}</div></div>"
    )


def _bars(title: str, rows: list[ClassResult]) -> str:
    drawn = [
        [
            row["class"],
            row["num_images"],
            f"{row['top1']:.1f}",
            Markup(f'<span class=track><span class=bar style="width:{row["top1"]:.1f}%"></span></span>'),
        ]
        for row in rows
    ]
    return table([title, "images", "top-1 %", ""], drawn)


def centre(recipe: Recipe) -> str:
    """What evaluation cuts out of a resized image, after the words "the centre"."""
    if recipe.eval_shape == "square":
        return f"{recipe.eval_image_size} px"
    return (
        f"rectangle of the image's own shape, to the nearest sixth and at most {LONGEST} : 1, "
        f"with a shorter side of {recipe.eval_image_size} px"
    )


def percent(value: float | None) -> str:
    """For a table; nothing where it is not known."""
    return "" if value is None else f"{value:.2f}"


def _mean(rows: list[MetricsRow], key: str) -> float:
    """The mean of `key` over the time of the rows."""
    return float(np.average([getattr(row, key) for row in rows], weights=[row.seconds for row in rows]))
