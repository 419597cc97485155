"""What `plan` prints for people: at most 100 columns wide."""

from collections.abc import Mapping
from typing import Any

from imagesprint.cli.bench_text import rate
from imagesprint.cli.output import table
from imagesprint.console import duration


def plan_text(result: Mapping[str, Any]) -> str:
    """Return the result of `plan`."""
    ranks, checkpoints = result["ranks"], result["checkpoints"]
    total = f"in all      {duration(result['total_seconds'])} ({result['total_seconds']:,.0f} s)"
    if "cost" in result:
        total += f", {result['cost']:,.2f} at {result['price_per_hour']:,.2f} an hour"
    lines = [
        f"{result['recipe']}: {result['model']}, {result['epochs']:g} epochs of {result['num_train']:,} images",
        f"on {ranks} × {result['machine']}" if result["calibration"] is None else _machine(result),
        "",
        _phases(result),
        "",
        f"checkpoints {checkpoints['count']:,} of {_size(checkpoints['bytes'])}: "
        f"{_size(checkpoints['bytes_on_disk'])} on the disk if all are kept",
        total,
    ]
    for point in result["accuracies"]:
        top5 = f", top-5 {point['top5']:g}%" if "top5" in point else ""
        after = duration(point["seconds"])
        lines.append(f"reference   {result['reference']}: top-1 {point['top1']:g}%{top5} after {after}")
    return "\n".join([*lines, *_sources(result)])


def _machine(result: Mapping[str, Any]) -> str:
    plural = "s" if result["ranks"] > 1 else ""
    return f"on {result['ranks']} rank{plural} of this machine: {result['machine']}"


def _phases(result: Mapping[str, Any]) -> str:
    rows: list[list[object]] = []
    for index, row in enumerate(result["phases"]):
        memory = row.get("memory")
        rows.append(
            [
                f"phase {index}",
                *(f"{row[key]:,}" for key in ("steps", "images", "image_size", "batch_size")),
                f"{rate(row['images_per_second']):,}{'*' if row.get('derived') else ''}",
                duration(row["seconds"]),
                row["limited_by"],
                "" if memory is None else f"{memory / 1e9:.2f}",
            ]
        )
    if "evaluations" not in result["not_included"]:
        rows.append(_other("start-up", "", result["start_up_seconds"]))
        rows += [_other(key, result[key]["count"], result[key]["seconds"]) for key in ("evaluations", "checkpoints")]
    return table(["", "steps", "images", "px", "batch", "images/s", "time", "limited by", "GB"], rows)


def _other(name: str, count: object, seconds: float) -> list[object]:
    return [name, f"{count}", "", "", "", "", duration(seconds), "", ""]


def _sources(result: Mapping[str, Any]) -> list[str]:
    calibration = result["calibration"]
    if calibration is not None:
        if calibration["is_new"]:
            return [f"speeds      measured just now, kept in {calibration['file']}"]
        return [
            f"speeds      measured on {calibration['made']}, kept in {calibration['file']}",
            "            delete that file to measure again",
        ]
    lines = []
    for source, derived in dict.fromkeys((row["source"], row["derived"]) for row in result["phases"]):
        lines.append(f"speeds      {source}")
        if derived:
            lines.append(f"            * derived from it: {derived}")
    lines.append("limits      assumed, not measured")
    lines.append(f"not in it   {', '.join(result['not_included'])}: nobody published what they take")
    return lines


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
