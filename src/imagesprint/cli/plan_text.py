"""What `plan` prints for people: at most 100 columns wide."""

from collections.abc import Mapping
from typing import Any

from imagesprint.cli.bench_text import rate
from imagesprint.cli.output import table
from imagesprint.console import duration, printable


def plan_text(result: Mapping[str, Any]) -> str:
    """Return the result of `plan`."""
    is_measured = result["calibration"] is not None
    plural = "s" if result["ranks"] > 1 else ""
    machine = f"{result['ranks']} × {result['machine']}"
    if is_measured:
        machine = f"{result['ranks']} rank{plural} of this machine: {result['machine']}"
    lines = [
        f"{printable(result['recipe'])}: {result['model']}, "
        f"{result['epochs']:g} epochs of {result['num_train']:,} images",
        f"on {machine}",
        "",
        _phases(result["phases"]),
        "",
        *(_besides(result) if is_measured else ()),
        _disk(result["checkpoints"]),
        _total(result),
        *_reached(result),
        *(_calibration(result["calibration"]) if is_measured else _sources(result)),
    ]
    return "\n".join(lines)


def _phases(phases: list[Mapping[str, Any]]) -> str:
    header = ["phase", "steps", "images", "px", "batch", "images/s", "time", "limited by"]
    rows: list[list[object]] = [
        [
            index,
            *(row[key] for key in ("steps", "images", "image_size", "batch_size")),
            rate(row["images_per_second"]),
            duration(row["seconds"]),
            row["limited_by"],
            *([round(row["memory"] / 1e9, 2)] if "memory" in row else ["derived" if row["derived"] else "published"]),
        ]
        for index, row in enumerate(phases)
    ]
    return table([*header, "memory, GB" if "memory" in phases[0] else "speed"], rows)


def _besides(result: Mapping[str, Any]) -> list[str]:
    """What a calibration knows beside the phases."""
    lines = [f"start-up    {result['start_up_seconds']:.1f} s"]
    for key in ("evaluations", "checkpoints"):
        count, seconds = result[key]["count"], result[key]["seconds"]
        lines.append(f"{key} {count:,} of {seconds / count:.2f} s: {duration(seconds)}")
    return lines


def _disk(checkpoints: Mapping[str, Any]) -> str:
    each, together = (_size(checkpoints[key]) for key in ("bytes", "bytes_on_disk"))
    return f"disk        {checkpoints['count']:,} checkpoints of {each}: {together} if all are kept"


def _total(result: Mapping[str, Any]) -> str:
    text = f"in all      {duration(result['total_seconds'])} ({result['total_seconds']:,.0f} s)"
    if "cost" in result:
        text += f", {result['cost']:,.2f} at {result['price_per_hour']:,.2f} an hour"
    return text


def _reached(result: Mapping[str, Any]) -> list[str]:
    """When the reference's accuracies are."""
    lines = []
    for point in result["accuracies"]:
        top5 = f", top-5 {point['top5']:g}%" if "top5" in point else ""
        after = duration(point["seconds"])
        lines.append(f"reference   {result['reference']}: top-1 {point['top1']:g}%{top5} after {after}")
    return lines


def _calibration(calibration: Mapping[str, Any]) -> list[str]:
    if calibration["is_new"]:
        return ["speeds      measured just now, and kept in", f"            {calibration['file']}"]
    made = f"speeds      measured on {calibration['made']}; to measure again, delete"
    return [made, f"            {calibration['file']}"]


def _sources(result: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for source in dict.fromkeys(row["source"] for row in result["phases"]):
        rows = [(index, row["derived"]) for index, row in enumerate(result["phases"]) if row["source"] == source]
        lines.append(f"speeds      {source}")
        lines += [f"            derived for phase {index}: {derived}" for index, derived in rows if derived]
    return [
        *lines,
        "limits      assumed: those who publish speeds feed their GPUs fast enough",
        f"not in it   {', '.join(result['not_included'])}: nobody published what they take",
    ]


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"
