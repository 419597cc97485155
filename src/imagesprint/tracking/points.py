"""What a tracker is told of a run: its rows as points, the recipe as settings, how it ended, and small files.

A point is a row of metrics.jsonl or evaluations.jsonl. Training notes no time with a row; TensorBoard's files have it,
and where they lack one, it follows from the rows behind it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.recipes.serialization import to_dict
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import DONE, EVALUATION_TAGS, EVALUATOR, METRIC_TAGS, read_scalars
from imagesprint.runs.rows import Began, Command, Ended, EvaluationRow, MetricsRow
from imagesprint.storage.url import Place, Url

# What trackers call the keys of a row: a group, a slash and a name, as Lightning and Transformers have it.
TRAIN_NAMES: Final = {
    "train/loss": "loss",
    "train/cross_entropy": "cross_entropy",
    "train/l2": "l2",
    "train/top1": "top1",
    "train/top5": "top5",
    "train/learning_rate": "lr",
    "train/batch_size": "batch_size",
    "train/image_size": "image_size",
    "train/images_per_second": "images_per_second",
    "train/data_wait": "data_wait",
    "train/epoch": "epoch",
}
EVAL_NAMES: Final = {
    "eval/top1": "top1",
    "eval/top5": "top5",
    "eval/mean_class_accuracy": "mean_class_accuracy",
    "eval/loss": "loss",
}
NAMES: Final = (*TRAIN_NAMES, *EVAL_NAMES)

# What is sent beside the rows, where it is there. Checkpoints are too large: the best one is named.
SMALL_FILES: Final = ("recipe.toml", "result.json", "report.html", "model-card.md")

FINISHED: Final = "finished"
RUNNING: Final = "running"
STOPPED: Final = "stopped"
FAILED: Final = "failed"

Key = tuple[str, int]  # the name of a figure and its step: what a tracker has once
Setting = str | int | float | bool


@dataclass(frozen=True)
class Point:
    """What was known after `step` steps, at `time` in seconds since 1970: figures by their names in NAMES."""

    step: int
    time: float
    figures: Mapping[str, float]


def group_of(point: Point) -> str:
    """Which file a point is a row of: `train` or `eval`."""
    return next(iter(point.figures)).partition("/")[0]


@dataclass(frozen=True)
class RunIdentity:
    """`id` (12 hex digits) is the same wherever the run is read from, and another for every other run.

    `name` is what people call it; `place` is where it was read; `begun` is when its first row was, in seconds since
    1970.
    """

    id: str
    name: str
    place: str
    begun: float


def identify(run: RunDirectory, place: Place) -> RunIdentity:
    """Which run lies in `run`, whose place people know as `place`. Raises UsageError where nothing was trained yet."""
    recipe, commands, rows = run.recipe(), run.commands(), run.metrics()
    if recipe is None:
        raise UsageError(f"{place} holds no run", "name the --output of an imagesprint train")
    if not commands:
        raise UsageError(f"{place} holds no training that has begun", "train first, then give this command again")
    # The first line of commands.jsonl stands for good: the second, the process and the machine where all began.
    first = [recipe.name, recipe.seed, asdict(commands[0])]
    digest = hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:12]
    times = row_times(run, rows)
    name = (place.name or place.host) if isinstance(place, Url) else place.resolve().name
    return RunIdentity(digest, name, str(place), times[rows[0].step] if rows else _changed(run))


def points(run: RunDirectory) -> list[Point]:
    """All rows of `run`, by their steps. Raises RunError where one is damaged."""
    metrics = run.metrics()
    times = row_times(run, metrics)
    found = [Point(row.step, times[row.step], _figures(row, TRAIN_NAMES)) for row in metrics]
    evaluations = run.evaluations()
    if evaluations:
        told = _told_times(run, EVALUATION_TAGS["top1"])
        last = max(times.values(), default=_changed(run))
        found += [
            Point(row.step, told.get(row.step, times.get(row.step, last)), _figures(row, EVAL_NAMES))
            for row in evaluations
        ]
    return sorted(found, key=lambda point: point.step)


def row_times(run: RunDirectory, rows: Sequence[MetricsRow]) -> dict[int, float]:
    """When each of `rows`, by its step, was logged, in seconds since 1970."""
    told, times, at = _told_times(run, METRIC_TAGS["loss"]), {}, _changed(run)
    for row in reversed(rows):
        times[row.step] = told.get(row.step, at)
        at = times[row.step] - row.seconds
    return times


def _told_times(run: RunDirectory, tag: str) -> dict[int, float]:
    """The times that TensorBoard's files have for a tag, by step."""
    folders = (run.tensorboard / EVALUATOR, run.tensorboard)
    return {step: at for folder in folders for step, at, _ in read_scalars(folder).get(tag, ())}


def _changed(run: RunDirectory) -> float:
    files = [file for file in (run.metrics_file, run.recipe_file) if file.exists()]
    return files[0].stat().st_mtime if files else 0.0


def _figures(row: MetricsRow | EvaluationRow, names: Mapping[str, str]) -> dict[str, float]:
    """Those that the row has: one of an earlier version may lack some."""
    return {name: float(value) for name, key in names.items() if (value := getattr(row, key)) is not None}


def settings(run: RunDirectory) -> dict[str, Setting]:
    """The recipe as one reads it with --set, such as `phases.0.batch_size`, and what the training ran on first."""
    recipe = run.recipe()
    found: dict[str, Setting] = {}
    if recipe is not None:
        _flatten("", to_dict(recipe), found)
    began = next((row for row in run.commands() if isinstance(row, Began)), None)
    if began is not None:
        found |= {f"run.{key}": getattr(began, key) for key in ("device", "ranks", "threads", "host", "decoder")}
    return {key: value for key, value in found.items() if value != ""}


def _flatten(prefix: str, value: object, found: dict[str, Setting]) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _flatten(f"{prefix}.{key}" if prefix else key, item, found)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            _flatten(f"{prefix}.{index}", item, found)
    else:
        found[prefix] = value if isinstance(value, Setting) else json.dumps(value)


def outcome(run: RunDirectory) -> str:
    """How the training stands: FINISHED, RUNNING (or killed, which its files do not tell), STOPPED or FAILED."""
    if run.result() is not None:
        return FINISHED
    last: Command | None = next(reversed(run.commands()), None)
    if not isinstance(last, Ended):
        return RUNNING
    return STOPPED if last.reason in (DONE, "SIGINT") or last.reason.startswith("stopped by") else FAILED


def best(run: RunDirectory, place: Place) -> dict[str, Setting]:
    """The best evaluation and where its checkpoint lies; empty before the first."""
    row = max(run.evaluations(), key=lambda one: (one.top1, one.step), default=None)
    if row is None:
        return {}
    found: dict[str, Setting] = {"best_top1": row.top1, "best_top5": row.top5, "best_step": row.step}
    if row.mean_class_accuracy is not None:
        found["best_mean_class_accuracy"] = row.mean_class_accuracy
    if row.checkpoint is not None:
        found["best_checkpoint"] = str(place / row.checkpoint)
    return found
