"""What a run directory tells of a run, read once for the report, and reference runs to hold it against."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from imagesprint.checkpoints.format import read_training_checkpoint
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.evaluating.results import FOLDER, Result, read_result
from imagesprint.recipes.recipe import Recipe
from imagesprint.runs.directory import RunDirectory, recipe_changes, wrong_recipe_file
from imagesprint.runs.logs import remarks
from imagesprint.runs.rows import EvaluationRow, MetricsRow, RunResult

# Of a checkpoint, for the report.
_FACTS = ("wall_seconds", "classes", "class_texts", "num_train", "data", "decoder", "torch", "bad_records", "overflows")
AXES = ("epoch", "step", "seconds")  # what curves may run over; seconds are those spent on steps


@dataclass(frozen=True)
class Place:
    """A moment of a run, on each axis."""

    epoch: float = 0.0
    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Span:
    """A phase as far as it was trained: its first and last place, and its image size."""

    start: Place
    end: Place
    image_size: int


@dataclass(frozen=True)
class RunRecord:
    """`metrics` and `evaluations` are the rows of the files of that name, by step. `checkpoint` holds what the newest
    says beside its tensors, empty where none can be read. `judged` are the results of RUN/evaluated for the newest
    step that was judged, the plain one first, empty where there are none. `remarks` says what is wrong with the files,
    one sentence each.
    """

    path: Path
    recipe: Recipe
    metrics: list[MetricsRow]
    evaluations: list[EvaluationRow]
    result: RunResult | None
    checkpoint: dict[str, Any]
    judged: list[Result]
    log: list[str]
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
    def wall_seconds(self) -> float:
        """Seconds since the start with evaluations and checkpoints; of an unfinished run up to its last checkpoint."""
        return self.total("wall_seconds", self.train_seconds)

    @property
    def has_top5(self) -> bool:
        """Whether top-5 says anything: not among five classes or fewer."""
        return any(row.top5 < 100 for row in self.evaluations)

    def total(self, key: str, otherwise: float = 0) -> float:
        """A figure of the whole run, as its result or else its newest checkpoint has it."""
        total: float = self.checkpoint.get(key, otherwise) if self.result is None else getattr(self.result, key)
        return total

    def along(self, rows: Sequence[MetricsRow | EvaluationRow], axis: str) -> list[float]:
        """The places of `rows` on one of AXES."""
        if axis != "seconds":
            return [getattr(row, axis) for row in rows]
        seconds = np.cumsum([row.seconds for row in self.metrics])
        places: list[float] = np.interp(
            [row.step for row in rows], [row.step for row in self.metrics], seconds
        ).tolist()
        return places

    def spans(self) -> list[Span]:
        """The phases that were begun, in order."""
        spans: list[Span] = []
        before = Place()
        for _, rows in groupby(self.metrics, key=lambda row: row.phase):
            own = list(rows)
            seconds = before.seconds + sum(row.seconds for row in own)
            place = Place(own[-1].epoch, own[-1].step, seconds)
            spans.append(Span(before, place, own[-1].image_size))
            before = place
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
    checkpoint, judged = _facts(run, recipe, found), _judged(path, found)
    log = run.log_file.read_text(encoding="utf-8", errors="replace").splitlines() if run.log_file.exists() else []
    return RunRecord(path, recipe, metrics, run.evaluations(), run.result(), checkpoint, judged, log, found)


def _facts(run: RunDirectory, recipe: Recipe, found: list[str]) -> dict[str, Any]:
    """What the newest whole checkpoint says, and how many weights its model has; adds to the remarks `found`."""
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
        facts = {key: getattr(held, key) for key in _FACTS if getattr(held, key)}  # what older files lack is empty
        return facts | {"path": path, "num_weights": weights}
    return {}


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
    return files("imagesprint.report").joinpath("references")


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
