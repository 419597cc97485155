"""The logs of a run: metrics.jsonl, evaluations.jsonl and TensorBoard, gap-free over resumes."""

from types import TracebackType
from typing import Any

from imagesprint.files import append_row
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.event_file import EventFile

# TensorBoard's names for the keys of a row of metrics.jsonl, and of evaluations.jsonl.
METRIC_TAGS = {
    "loss": "loss/total",
    "cross_entropy": "loss/cross_entropy",
    "l2": "loss/l2",
    "top1": "train/top1",
    "top5": "train/top5",
    "lr": "learning_rate",
    "batch_size": "batch_size",
    "image_size": "image_size",
    "images_per_second": "images_per_second",
    "data_wait": "data_wait",
}
EVALUATION_TAGS = {"top1": "eval/top1", "top5": "eval/top5", "loss": "eval/loss"}


class RunLogs:
    """Appends rows to the run's files and to TensorBoard files of its own in `folder`; a context manager.

    Training writes into the run's tensorboard/ itself, any other evaluator into a folder below it: TensorBoard
    follows only the newest file of a folder. Resuming at step `purge_after` makes it forget what it was told of
    later steps.
    """

    def __init__(self, run: RunDirectory, folder: str = "", purge_after: int | None = None) -> None:
        self._run = run
        self._events = EventFile(run.tensorboard / folder, None if purge_after is None else purge_after + 1)

    def __enter__(self) -> "RunLogs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._events.close()

    def metrics(self, row: dict[str, Any]) -> None:
        """Log what the steps up to `row["step"]` did."""
        append_row(self._run.metrics_file, row)
        self._events.scalars({tag: row[key] for key, tag in METRIC_TAGS.items()}, row["step"])

    def evaluation(self, row: dict[str, Any]) -> None:
        """Log one evaluated checkpoint."""
        append_row(self._run.evaluations_file, row)
        self._events.scalars({tag: row[key] for key, tag in EVALUATION_TAGS.items()}, row["step"])
