"""Reference runs, published or one's own, and the verdict on a run beside one."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from imagesprint.errors import UsageError
from imagesprint.measuring.reporting.run_record import RunRecord, names, read_run
from imagesprint.runs.directory import RunDirectory

ON_TRACK = 1.0  # points of top-1: what two seeds differ by in the middle of a training; at its end it is a third of it
NUM_CLASSES = 1000  # of ImageNet, to which the published figures belong


@dataclass(frozen=True)
class Reference:
    """`points` have epoch and top1, some top5 and seconds. A "curve" is one run on its way; "ends" are what runs of so
    many epochs came to."""

    name: str
    model: str
    recipes: tuple[str, ...]
    kind: str
    source: str
    points: tuple[dict[str, float], ...]


def reference_names() -> list[str]:
    """The published ones."""
    return sorted(file.name.removesuffix(".json") for file in _folder().iterdir())


def published_reference(recipe: str) -> Reference | None:
    """The published one of the built-in recipe of that name on ImageNet; None where there is none."""
    published = [_read(name) for name in reference_names()]
    return next((reference for reference in published if recipe in reference.recipes), None)


def find_reference(record: RunRecord, wanted: str | None) -> Reference | None:
    """The published reference or the run that `wanted` names; without it the one of the run's recipe on ImageNet.

    Raises UsageError for what is neither.
    """
    if wanted is None:
        if len(record.checkpoint.get("classes", ())) != NUM_CLASSES:
            return None
        return published_reference(record.recipe.name)
    if wanted in reference_names():
        return _read(wanted)
    if RunDirectory(Path(wanted)).recipe_file.exists():
        return _from_run(record, read_run(Path(wanted)))
    raise UsageError(
        f"--reference {wanted}: there is no such reference, nor a run",
        f"choose one of {', '.join(reference_names())}, or name a run directory",
    )


def verdict(record: RunRecord, reference: Reference) -> tuple[bool, str]:
    """Whether the run keeps up with `reference` at the latest point that both have, and a sentence that says so."""
    ours = [(row.epoch, row.top1) for row in record.evaluations]
    if reference.kind == "ends":
        ours = ours[-1:] if record.result is not None else []
    passed = [point for point in reference.points if ours and point["epoch"] <= ours[-1][0] + 0.005]
    if reference.kind == "curve":
        passed = [point for point in passed if point["epoch"] >= ours[0][0]]
    if not passed:
        first = reference.points[0]["epoch"]
        return True, f"No verdict yet: the first figure of {reference.name} is for epoch {first:g}"
    point = passed[-1]
    epochs, top1 = zip(*ours, strict=True)
    difference = float(np.interp(point["epoch"], epochs, top1)) - point["top1"]
    side = "over" if difference >= 0 else "under"
    place = f"{abs(difference):.1f} points {side} {reference.name} at epoch {point['epoch']:g}"
    return difference >= -ON_TRACK, f"On track: {place}" if abs(difference) <= ON_TRACK else place


def _folder() -> Any:
    return files("imagesprint.measuring.reporting").joinpath("references")


def _read(name: str) -> Reference:
    content = json.loads(_folder().joinpath(f"{name}.json").read_text(encoding="utf-8"))
    return Reference(**{**content, "recipes": tuple(content["recipes"]), "points": tuple(content["points"])})


def _from_run(ours: RunRecord, other: RunRecord) -> Reference:
    seconds = other.along(other.evaluations, "seconds")
    points = tuple(
        {"epoch": row.epoch, "top1": row.top1, "top5": row.top5, "seconds": at}
        for row, at in zip(other.evaluations, seconds, strict=True)
    )
    if not points:
        raise UsageError(f"--reference {other.path}: nothing was evaluated there", "imagesprint evaluate it first")
    return Reference(names([ours, other])[1], other.recipe.model, (), "curve", f"the run {other.path}", points)
