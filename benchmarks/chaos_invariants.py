"""What must hold of a finished run, whatever happened to it, beside one that nothing happened to."""

import json
from pathlib import Path
from typing import Any

import torch


def broken_promises(run: Path, reference: Path) -> list[str]:
    """Return what does not hold of `run`, in words; nothing where all does. Both ran on as many processes."""
    broken = []
    if not _same_weights(last_checkpoint(run), last_checkpoint(reference)):
        broken.append("the weights are others")
    judged, expected = (rows(folder / "evaluations.jsonl") for folder in (run, reference))
    keys = ("step", "num_images", "top1", "top5", "loss")
    if [[row[key] for key in keys] for row in judged] != [[row[key] for key in keys] for row in expected]:
        broken.append(f"evaluations differ: at steps {[row['step'] for row in judged]}")
    return broken + unsound_logs(run, reference)


def unsound_logs(run: Path, reference: Path) -> list[str]:
    """Return what does not hold of the logs of `run`: each step once, every interruption told, nothing left over."""
    broken = []
    metrics, theirs = rows(run / "metrics.jsonl"), rows(reference / "metrics.jsonl")
    covered = [round(row["images_per_second"] * row["seconds"] / row["batch_size"]) for row in metrics]
    steps = [row["step"] for row in metrics]
    if [end - begin for begin, end in zip([0, *steps], steps, strict=False)] != covered or steps[-1] != theirs[-1][
        "step"
    ]:
        broken.append(f"metrics.jsonl does not have every step once: rows end at {steps}")
    if _tensorboard(run, "loss/total") != steps:
        broken.append("TensorBoard has other steps than metrics.jsonl")
    if left := [str(file.relative_to(run)) for file in run.rglob(".*") if file.name != ".lock"]:
        broken.append(f"left over: {', '.join(left)}")
    begun = sum("began" in row for row in rows(run / "commands.jsonl"))
    told = len(json.loads((run / "result.json").read_text())["interruptions"])
    if told != begun - 1:
        broken.append(f"result.json tells of {told} interruptions, there were {begun - 1}")
    return broken


def rows(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a .jsonl file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def last_checkpoint(run: Path) -> dict[str, Any]:
    """Return the content of the newest checkpoint of `run`."""
    content: dict[str, Any] = torch.load(max((run / "checkpoints").glob("step-*.pt")), weights_only=True)
    return content


def _same_weights(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    a, b = ours["model"], theirs["model"]
    return ours["step"] == theirs["step"] and a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _tensorboard(run: Path, tag: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(tag)]
