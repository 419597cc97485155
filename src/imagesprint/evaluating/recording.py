"""Rows of evaluations in the runs that checkpoints belong to: evaluations.jsonl and a TensorBoard file of our own."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from imagesprint.console import Console
from imagesprint.evaluating.results_kept import run_of
from imagesprint.files import is_cut
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import EVALUATOR, RunLogs
from imagesprint.runs.rows import EvaluationRow


class Recorder:
    """Writes rows as long as `stack` is open; warns, once a run, where that is not possible."""

    def __init__(self, stack: ExitStack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._logs: dict[Path, RunLogs] = {}
        self._read_only: set[Path] = set()

    def look(self, checkpoints: Iterable[Path]) -> None:
        """Look at what the runs of these have, before work is done that could not be recorded. Raises RunError."""
        for run in {run for run in map(run_of, checkpoints) if run is not None}:
            run.evaluations()
            if is_cut(run.evaluations_file):
                self._console.warn(f"{run.evaluations_file}: its last line is cut short and is passed over")

    def record(self, checkpoint: Path, row: EvaluationRow) -> None:
        """Append the `row` of a checkpoint to its run, unless it has the same; nothing where it lies in none."""
        run = run_of(checkpoint)
        if run is None or run.path in self._read_only or _is_known(row, run):
            return
        try:
            if run.path not in self._logs:
                self._logs[run.path] = self._stack.enter_context(RunLogs(run, folder=EVALUATOR))
            self._logs[run.path].evaluation(row)
        except OSError as error:
            self._read_only.add(run.path)
            self._console.warn(f"{run.path} cannot be written ({error.strerror}): the figures are not recorded there")


def _is_known(row: EvaluationRow, run: RunDirectory) -> bool:
    """Whether `run` has a row of the same checkpoint with the same counts."""
    return any(replace(known, epoch=row.epoch, loss=row.loss) == row for known in run.evaluations())
