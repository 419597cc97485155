"""The model card: what somebody should know who is handed the model, in Markdown (Mitchell et al. 2019)."""

from imagesprint.console import duration, printable, printable_lines
from imagesprint.measuring.reporting.run_record import RunRecord


def model_card(record: RunRecord) -> str:
    """The text of model-card.md."""
    recipe, known, best = record.recipe, record.checkpoint, record.best
    lines = [
        f"# {recipe.model}, trained by {printable(recipe.name)}",
        "",
        "## Model",
        "",
        f"- Architecture: {recipe.model}" + (f", {known['num_weights'] / 1e6:,.1f} million weights" if known else ""),
        f"- Input: uint8 RGB; shorter side to {recipe.eval_resize} px, then the centre {recipe.eval_image_size} px",
        "- Output: a logit a class",
        f"- Checkpoint: {known['path'].relative_to(record.path) if known else 'none'}",
        "",
        "## Training",
        "",
        f"- {record.last.step:,} steps, {record.last.epoch:g} epochs"
        + (f" of {known['num_train']:,} images in {len(known['classes']):,} classes" if known else ""),
        f"- {duration(record.wall_seconds)} in all, {recipe.precision}, seed {recipe.seed}"
        + (f", PyTorch {known['torch']}" if "torch" in known else ""),
        "- The whole recipe: recipe.toml",
        "",
        "## Evaluation",
        "",
    ]
    if best is None:
        return printable_lines("\n".join([*lines, "Nothing was evaluated yet.", ""]))
    lines += ["| epoch | images | top-1 % | top-5 % | loss |", "|---|---|---|---|---|"]
    for title, row in (("last", record.evaluations[-1]), ("best", best)):
        figures = f"{row.num_images:,} | {row.top1:.2f} | {row.top5:.2f} | {row.loss:.4f}"
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
