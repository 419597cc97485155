"""`evaluate`: every checkpoint of a run, or named ones, on the validation split."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.evaluating.evaluation import evaluate, evaluation_row, evaluation_set
from imagesprint.images.decoders import describe_decoder
from imagesprint.model.weights import list_checkpoints, load_model
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import RunLogs
from imagesprint.runs.ranks import open_ranks


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
    TensorBoard, unless the same is there already. Returns the same on every rank.
    """
    root = open_root(data)
    with open_ranks(device) as ranks, ExitStack() as stack:
        console = console if ranks.is_main else Console.silent()
        recorder = _Recorder(stack, console)
        console.line(f"decoder     {describe_decoder()}")
        evaluated, fallbacks = [], 0
        for index, path in enumerate(paths):
            console.live(f"evaluating {path} ({index + 1}/{len(paths)})")
            model = load_model(path).to(ranks.device)
            accuracy = evaluate(model, evaluation_set(root, model), ranks)
            epoch = Schedule(model.recipe, model.num_train).epochs_done(model.step)
            if ranks.is_main:
                recorder.record(path, evaluation_row(accuracy, model.step, epoch, Path("checkpoints", path.name)))
            fallbacks += accuracy.fallbacks
            evaluated.append(EvaluatedCheckpoint(path=str(path), step=model.step, epoch=epoch, **accuracy.figures()))
        if fallbacks:
            console.line(f"decoder     {fallbacks:,} images were of a kind that is left to Pillow")
        return evaluated


class _Recorder:
    """Writes rows of evaluations into the runs that the checkpoints belong to, one TensorBoard file a run."""

    def __init__(self, stack: ExitStack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._logs: dict[Path, RunLogs] = {}

    def record(self, checkpoint: Path, row: dict[str, Any]) -> None:
        folder = checkpoint.resolve().parent
        run = RunDirectory(folder.parent)
        if folder.name != "checkpoints" or not run.recipe_file.exists() or _is_known(row, run):
            return
        try:
            if run.path not in self._logs:
                self._logs[run.path] = self._stack.enter_context(RunLogs(run, folder="evaluate"))
            self._logs[run.path].evaluation(row)
        except OSError as error:
            self._console.warn(f"{run.path} cannot be written ({error.strerror}): the figures are not recorded there")


def _is_known(row: dict[str, Any], run: RunDirectory) -> bool:
    """Whether `run` has a row of the same checkpoint with the same counts."""
    keys = ("checkpoint", "step", "num_images", "top1", "top5")
    return any(all(known[key] == row[key] for key in keys) for known in run.evaluations())
