"""What a run directory tells of a run, read once for the report, and reference runs to hold it against."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.evaluating.results import FOLDER, Result, read_result
from imagesprint.recipes.recipe import Recipe
from imagesprint.runs.directory import RunDirectory, recipe_changes, wrong_recipe_file
from imagesprint.runs.logs import interruptions, remarks
from imagesprint.runs.rows import (
    Command,
    Epochs,
    EvaluationRow,
    Interruption,
    MetricsRow,
    Percent,
    RunResult,
    Seconds,
    classes_differ,
    from_json,
)

AXES = ("epoch", "step", "seconds")  # what curves may run over; seconds are those spent on steps


@dataclass(frozen=True)
class Span:
    """A phase as far as it was trained: from where to where on each of AXES, and its image size."""

    epoch: tuple[float, float]
    step: tuple[int, int]
    seconds: tuple[float, float]
    image_size: int


@dataclass(frozen=True)
class Saved:
    """What the checkpoint at `path` says beside its tensors; what older files lack, or all without one, is empty."""

    path: Path | None = None
    num_weights: int = 0
    classes: tuple[str, ...] = ()
    num_train: int = 0
    data: str = ""
    decoder: str = ""
    torch: str = ""
    wall_seconds: float = 0.0
    bad_records: int = 0
    overflows: int = 0


@dataclass(frozen=True)
class RunRecord:
    """`metrics`, `evaluations` and `commands` are the rows of the files of that name, in order. `checkpoint` is the
    newest that can be read. `judged` are the results of RUN/evaluated for the newest step that was judged, the plain
    one first, empty where there are none. `remarks` says what is wrong with the files, one sentence each.
    """

    path: Path
    recipe: Recipe
    metrics: list[MetricsRow]
    evaluations: list[EvaluationRow]
    result: RunResult | None
    checkpoint: Saved
    judged: list[Result]
    commands: list[Command]
    remarks: list[str]

    @property
    def name(self) -> str:
        """The run as people call it: its folder."""
        return self.path.resolve().name

    @property
    def last(self) -> MetricsRow:
        """The newest row of metrics."""
        return self.metrics[-1]

    @property
    def best(self) -> EvaluationRow | None:
        """The evaluation of the highest top-1; None where nothing was evaluated."""
        return max(self.evaluations, key=lambda row: (row.top1, row.step), default=None)

    @property
    def train_seconds(self) -> float:
        """Seconds spent on the steps that were logged."""
        return sum(row.seconds for row in self.metrics)

    @property
    def totals(self) -> RunResult | Saved:
        """What has wall_seconds, bad_records and overflows of the whole run: its result, or else its checkpoint."""
        return self.checkpoint if self.result is None else self.result

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start with evaluations and checkpoints; of an unfinished run up to its last checkpoint."""
        return self.totals.wall_seconds or self.train_seconds

    @property
    def interruptions(self) -> tuple[Interruption, ...]:
        """Those so far, oldest first."""
        return interruptions(self.commands) if self.result is None else self.result.interruptions

    @property
    def has_top5(self) -> bool:
        """Whether top-5 says anything: not among five classes or fewer."""
        return any(row.top5 < 100 for row in self.evaluations)

    @property
    def has_unequal_classes(self) -> bool:
        """Whether the mean of the classes says anything beside top-1."""
        return any(classes_differ(row.top1, row.mean_class_accuracy) for row in self.evaluations)

    @property
    def draws_classes(self) -> bool:
        """Whether the mean of the classes is so far from top-1, a point, that its curve is another one."""
        means = [(row.top1, row.mean_class_accuracy) for row in self.evaluations]
        return any(mean is not None and abs(top1 - mean) >= 1 for top1, mean in means)

    def along(self, rows: Sequence[MetricsRow | EvaluationRow], axis: str) -> list[float]:
        """The places of `rows` on one of AXES."""
        if axis != "seconds":
            return [getattr(row, axis) for row in rows]
        seconds = np.cumsum([row.seconds for row in self.metrics])
        steps = [row.step for row in self.metrics]
        return [float(place) for place in np.interp([row.step for row in rows], steps, seconds)]

    def points(
        self, rows: Literal["metrics", "evaluations"], key: str, axis: str, unit: float, scale: float = 1
    ) -> list[tuple[float, float]]:
        """The curve of `key` in the rows that have it: places on one of AXES in `unit`, and values times `scale`."""
        own = [row for row in getattr(self, rows) if getattr(row, key) is not None]
        return [(x / unit, scale * getattr(row, key)) for x, row in zip(self.along(own, axis), own, strict=True)]

    def spans(self) -> list[Span]:
        """The phases that were begun, in order."""
        spans: list[Span] = []
        epoch, step, seconds = 0.0, 0, 0.0
        for _, rows in groupby(self.metrics, key=lambda row: row.phase):
            own = list(rows)
            last, end = own[-1], seconds + sum(row.seconds for row in own)
            spans.append(Span((epoch, last.epoch), (step, last.step), (seconds, end), last.image_size))
            epoch, step, seconds = last.epoch, last.step, end
        return spans


def names(records: Sequence[RunRecord]) -> list[str]:
    """What tells the runs apart: their folders' names or, where two have the same, their paths."""
    short = [record.name for record in records]
    return short if len(set(short)) == len(short) else [str(record.path) for record in records]


def read_run(path: Path) -> RunRecord:
    """Read the run at `path`. Raises UsageError where there is no run or nothing was logged yet, RunError where one of
    its files is damaged.
    """
    run = RunDirectory(path)
    recipe = run.recipe()
    if recipe is None:
        raise UsageError(f"{path} holds no run", "name the --output of an imagesprint train")
    metrics = run.metrics()
    if not metrics:
        raise UsageError(
            f"{path} holds no logged steps", "train first: imagesprint train RECIPE --data ROOT --output RUN"
        )
    found = remarks(run)
    return RunRecord(
        path=path,
        recipe=recipe,
        metrics=metrics,
        evaluations=run.evaluations(),
        result=run.result(),
        checkpoint=_saved(run, recipe, found),
        judged=_judged(path, found),
        commands=run.commands(),
        remarks=found,
    )


def _saved(run: RunDirectory, recipe: Recipe, found: list[str]) -> Saved:
    """What the newest whole checkpoint says; adds to the remarks `found`."""
    for path in reversed(run.checkpoints()):
        try:
            held = read_training_checkpoint(path)
        except CheckpointError as error:
            found.append(error.what)
            continue
        changed = recipe_changes(held.recipe, recipe)
        if changed:
            raise wrong_recipe_file(run, changed)
        weights = sum(value.numel() for key, value in held.model.items() if "running" not in key)
        same = {field.name: getattr(held, field.name) for field in fields(Saved) if field.name != "num_weights"}
        return Saved(**same, num_weights=weights)
    return Saved()


def _judged(path: Path, found: list[str]) -> list[Result]:
    """The results of the newest step that was judged; adds to the remarks `found`."""
    results = []
    for file in sorted((path / FOLDER).glob("*.json")):
        result = read_result(file)
        if result is None:
            found.append(f"{file} is damaged: imagesprint evaluate makes it anew")
        else:
            results.append(result)
    newest = max((result["step"] for result in results), default=0)
    latest = {result["view"]: result for result in results if result["step"] == newest}
    plain = latest.pop("plain", None)
    return [] if plain is None else [plain, *latest.values()]


ON_TRACK = 1.0  # points of top-1: what two seeds differ by in the middle of a training; at its end it is a third of it
NUM_CLASSES = 1000  # of ImageNet, to which the published figures belong


@dataclass(frozen=True)
class ReferencePoint:
    """What was come to after so many epochs, and `seconds` where these are known."""

    epoch: Epochs
    top1: Percent
    top5: Percent | None = None
    seconds: Seconds | None = None


@dataclass(frozen=True)
class Reference:
    """Figures to hold a run against. A "curve" is one run on its way; "ends" are what runs of so many epochs came
    to."""

    name: str
    model: str
    recipes: tuple[str, ...]
    kind: str
    source: str
    points: tuple[ReferencePoint, ...]


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
        if len(record.checkpoint.classes) != NUM_CLASSES:
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
    passed = [point for point in reference.points if ours and point.epoch <= ours[-1][0] + 0.005]
    if reference.kind == "curve":
        passed = [point for point in passed if point.epoch >= ours[0][0]]
    if not passed:
        first = reference.points[0].epoch
        return True, f"No verdict yet: the first figure of {reference.name} is for epoch {first:g}"
    point = passed[-1]
    epochs, top1 = zip(*ours, strict=True)
    difference = float(np.interp(point.epoch, epochs, top1)) - point.top1
    side = "over" if difference >= 0 else "under"
    found = f"{abs(difference):.1f} points {side} {reference.name} at epoch {point.epoch:g}"
    return difference >= -ON_TRACK, f"On track: {found}" if abs(difference) <= ON_TRACK else found


def _folder() -> Traversable:
    return files("imagesprint.report").joinpath("references")


def _read(name: str) -> Reference:
    return from_json(Reference, json.loads(_folder().joinpath(f"{name}.json").read_text(encoding="utf-8")))


def _from_run(ours: RunRecord, other: RunRecord) -> Reference:
    seconds = other.along(other.evaluations, "seconds")
    points = tuple(
        ReferencePoint(row.epoch, row.top1, row.top5, at) for row, at in zip(other.evaluations, seconds, strict=True)
    )
    if not points:
        raise UsageError(f"--reference {other.path}: nothing was evaluated there", "imagesprint evaluate it first")
    return Reference(names([ours, other])[1], other.recipe.model, (), "curve", f"the run {other.path}", points)
