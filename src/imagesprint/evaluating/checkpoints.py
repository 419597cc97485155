"""`evaluate`: every checkpoint of a run, or named ones, on the validation split."""

import os
from dataclasses import dataclass
from pathlib import Path

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.evaluating.evaluation import evaluate, evaluation_row, evaluation_set
from imagesprint.model.weights import list_checkpoints, load_model
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import RunLogs
from imagesprint.runs.ranks import Ranks, open_ranks


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """One judged checkpoint; `epoch` counts the epochs done."""

    path: str
    step: int
    epoch: float
    num_images: int
    top1: float
    top5: float
    loss: float


def find_checkpoints(paths: list[Path]) -> list[Path]:
    """The checkpoint files that `paths`, run directories and checkpoint files, stand for, in order, each once.

    Raises UsageError for a path that is neither.
    """
    found: list[Path] = []
    for path in paths:
        files = list_checkpoints(path) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path} holds no checkpoints/step-*.pt", "name a run directory or checkpoint files")
        if not files[0].is_file():
            raise UsageError(f"there is no run or checkpoint {path}", "name a run directory or checkpoint files")
        found += files
    return list(dict.fromkeys(found))


def evaluate_checkpoints(paths: list[Path], data: Path, device: str, console: Console) -> list[EvaluatedCheckpoint]:
    """Judge each of the checkpoint files `paths` on the validation split of the root `data`, in order.

    A checkpoint inside a run directory also gets its row in that run's evaluations.jsonl, and its points in
    TensorBoard. Returns the same on every rank.
    """
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        evaluated = []
        for index, path in enumerate(paths):
            console.live(f"evaluating {path} ({index + 1}/{len(paths)})")
            evaluated.append(_evaluate_checkpoint(path, root, ranks))
        return evaluated


def _evaluate_checkpoint(path: Path, root: Root, ranks: Ranks) -> EvaluatedCheckpoint:
    model = load_model(path).to(ranks.device)
    accuracy = evaluate(model, evaluation_set(root, model), ranks)
    epoch = Schedule(model.recipe, model.num_train).epochs_done(model.step)
    run = RunDirectory(path.resolve().parent.parent)
    if ranks.is_main and run.recipe_file.exists():
        row = evaluation_row(accuracy, model.step, epoch, Path(os.path.relpath(path.resolve(), run.path)))
        with RunLogs(run, suffix=".evaluate") as logs:
            logs.evaluation(row)
    return EvaluatedCheckpoint(
        str(path), model.step, epoch, accuracy.num_images, accuracy.top1, accuracy.top5, accuracy.loss
    )
