"""The logs of a run: metrics.jsonl, evaluations.jsonl and TensorBoard, gap-free over resumes."""

from dataclasses import asdict
from types import TracebackType
from typing import Final

from imagesprint.files import append_row, is_cut
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.event_file import EventFile, damage_of, mend, read_scalars
from imagesprint.runs.rows import EvaluationRow, MetricsRow

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
EVALUATOR: Final = "evaluate"  # the folder below tensorboard/ of those that are not training


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

    def metrics(self, row: MetricsRow) -> None:
        """Log what the steps up to `row.step` did."""
        append_row(self._run.metrics_file, asdict(row))
        self._events.scalars(_points(row), row.step)

    def evaluation(self, row: EvaluationRow) -> None:
        """Log one evaluated checkpoint."""
        append_row(self._run.evaluations_file, asdict(row))
        self._events.scalars(_points(row), row.step)


def _points(row: MetricsRow | EvaluationRow) -> dict[str, float]:
    tags = METRIC_TAGS if isinstance(row, MetricsRow) else EVALUATION_TAGS
    return {tag: getattr(row, key) for key, tag in tags.items()}


def remarks(run: RunDirectory, until: int | None = None) -> list[str]:
    """What is wrong in the logs of `run` and yet no error, in words: lines cut short, steps without a row, damaged
    TensorBoard files. `until` is the step that rows must reach.

    Raises RunError where one of the rows is damaged otherwise, so that it is known before work is done.
    """
    run.evaluations()
    run.commands()
    files = (run.metrics_file, run.evaluations_file, run.commands_file)
    found = [f"{file}: its last line is cut short and is passed over" for file in files if is_cut(file)]
    rows = run.metrics()
    spans = [(row.before, row.step) for row in rows if until is None or row.step <= until]
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), ends[-1] if until is None else until]
    gaps = [(end, start) for end, start in zip(ends, starts, strict=True) if start > end]
    found += [f"{run.metrics_file} has no row for the steps {end + 1} to {start}" for end, start in gaps]
    damage = (damage_of(file) for file in sorted(run.tensorboard.rglob("*tfevents*")) if file.is_file())
    return found + [f"{what}: TensorBoard shows nothing behind it" for what in damage if what]


def mend_tensorboard(run: RunDirectory, step: int) -> bool:
    """Write what training's TensorBoard files should show up to `step` anew where they do not; whether that was so.

    They were damaged or cut, or the command before was killed between a row and its points.
    """
    metrics = [row for row in run.metrics() if row.step <= step]
    shown = read_scalars(run.tensorboard)
    elsewhere = {at for at, _, _ in read_scalars(run.tensorboard / EVALUATOR).get(EVALUATION_TAGS["top1"], ())}
    own = {at for at, _, _ in shown.get(EVALUATION_TAGS["top1"], ())}
    evaluations = [row for row in run.evaluations() if row.step <= step]
    evaluations = [row for row in evaluations if row.step in own or row.step not in elsewhere]
    rows: list[MetricsRow | EvaluationRow] = [*metrics, *evaluations]
    return mend(run.tensorboard, [(row.step, _points(row)) for row in sorted(rows, key=lambda row: row.step)], step)
