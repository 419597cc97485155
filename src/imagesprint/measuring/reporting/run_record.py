"""What a run directory tells of a run, read once for the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from imagesprint.errors import ImagesprintError, UsageError
from imagesprint.evaluating.results_kept import FOLDER, read_result
from imagesprint.files import read_rows
from imagesprint.model.checkpoint import read_training_checkpoint
from imagesprint.recipes.recipe import Recipe
from imagesprint.runs.directory import RunDirectory

Row = dict[str, Any]
AXES = ("epoch", "step", "seconds")  # what curves may run over; seconds are those spent on steps


@dataclass(frozen=True)
class Span:
    """A phase as far as it was trained: its first and last place on each axis, and its image size."""

    start: Row
    end: Row
    image_size: int


@dataclass(frozen=True)
class RunRecord:
    """`metrics` and `evaluations` are the rows of the files of that name, oldest first, each with its `seconds` of
    training since the start; the seconds that a row of metrics is about are its `window`. `checkpoint` holds what the
    newest says beside its tensors, empty where none can be read. `judged` are the results of RUN/evaluated for the
    newest step that was judged, the plain one first, empty where there are none.
    """

    path: Path
    recipe: Recipe
    metrics: list[Row]
    evaluations: list[Row]
    result: Row | None
    checkpoint: Row
    judged: list[Row]
    log: list[str]

    @property
    def name(self) -> str:
        """The run as people call it: its folder."""
        return self.path.resolve().name

    @property
    def last(self) -> Row:
        """The newest row of metrics."""
        return self.metrics[-1]

    @property
    def best(self) -> Row | None:
        """The evaluation of the highest top-1; None where nothing was evaluated."""
        return max(self.evaluations, key=lambda row: (row["top1"], row["step"]), default=None)

    @property
    def wall_seconds(self) -> float:
        """Seconds since the start with evaluations and checkpoints; of an unfinished run up to its last checkpoint."""
        known = self.result or self.checkpoint
        return float(known["wall_seconds"] if "wall_seconds" in known else self.last["seconds"])

    @property
    def has_top5(self) -> bool:
        """Whether top-5 says anything: not among five classes or fewer."""
        return any(row["top5"] < 100 for row in self.evaluations)

    def spans(self) -> list[Span]:
        """The phases that were begun, in order."""
        spans: list[Span] = []
        before: Row = dict.fromkeys(AXES, 0)
        for _, rows in groupby(self.metrics, key=lambda row: row["phase"]):
            last = list(rows)[-1]
            spans.append(Span(before, last, last["image_size"]))
            before = last
        return spans


def names(records: Sequence[RunRecord]) -> list[str]:
    """What tells the runs apart: their folders' names or, where two have the same, their paths."""
    short = [record.name for record in records]
    return short if len(set(short)) == len(short) else [str(record.path) for record in records]


def read_run(path: Path) -> RunRecord:
    """Read the run at `path`. Raises UsageError where there is no run or nothing was logged yet."""
    run = RunDirectory(path)
    recipe = run.recipe()
    if recipe is None:
        raise UsageError(f"{path} holds no run", "name the --output of an imagesprint train")
    metrics = read_rows(run.metrics_file)
    if not metrics:
        raise UsageError(
            f"{path} holds no logged steps", "train first: imagesprint train RECIPE --data ROOT --output RUN"
        )
    seconds = np.cumsum([row["seconds"] for row in metrics])
    steps = [row["step"] for row in metrics]
    log = path / "log.txt"
    return RunRecord(
        path,
        recipe,
        [row | {"window": row["seconds"], "seconds": float(at)} for row, at in zip(metrics, seconds, strict=True)],
        [row | {"seconds": float(np.interp(row["step"], steps, seconds))} for row in run.evaluations()],
        run.result(),
        _facts(run),
        _judged(path),
        log.read_text(encoding="utf-8").splitlines() if log.exists() else [],
    )


def _facts(run: RunDirectory) -> Row:
    """What the newest checkpoint says, and how many weights its model has."""
    for path in reversed(run.checkpoints()):
        try:
            held = read_training_checkpoint(path)
        except ImagesprintError:  # a damaged one says nothing
            continue
        keys = (
            "wall_seconds",
            "classes",
            "class_texts",
            "num_train",
            "data",
            "decoder",
            "torch",
            "bad_records",
            "overflows",
        )
        weights = sum(value.numel() for key, value in held.model.items() if "running" not in key)
        facts = {key: getattr(held, key) for key in keys if getattr(held, key)}  # what older files lack is empty
        return facts | {"path": path, "num_weights": weights}
    return {}


def _judged(path: Path) -> list[Row]:
    found = [result for file in (path / FOLDER).glob("*.json") if (result := read_result(file)) is not None]
    newest = max((result["step"] for result in found), default=0)
    latest = {result["view"]: result for result in found if result["step"] == newest}
    plain = latest.pop("plain", None)
    return [] if plain is None else [plain, *latest.values()]
