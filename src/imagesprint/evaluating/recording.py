"""Rows of evaluations in the runs that checkpoints belong to: evaluations.jsonl and a TensorBoard file of our own."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from imagesprint.console import Console
from imagesprint.evaluating.results_kept import run_of
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.logs import RunLogs


class Recorder:
    """Writes rows as long as `stack` is open; warns, once a run, where that is not possible."""

    def __init__(self, stack: ExitStack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self._logs: dict[Path, RunLogs] = {}
        self._read_only: set[Path] = set()

    def record(self, checkpoint: Path, row: dict[str, Any]) -> None:
        """Append the `row` of a checkpoint to its run, unless it has the same; nothing where it lies in none."""
        run = run_of(checkpoint)
        if run is None or run.path in self._read_only or _is_known(row, run):
            return
        try:
            if run.path not in self._logs:
                self._logs[run.path] = self._stack.enter_context(RunLogs(run, folder="evaluate"))
            self._logs[run.path].evaluation(row)
        except OSError as error:
            self._read_only.add(run.path)
            self._console.warn(f"{run.path} cannot be written ({error.strerror}): the figures are not recorded there")


def _is_known(row: dict[str, Any], run: RunDirectory) -> bool:
    """Whether `run` has a row of the same checkpoint with the same counts."""
    keys = ("checkpoint", "step", "num_images", "top1", "top5")
    return any(all(known[key] == row[key] for key in keys) for known in run.evaluations())
