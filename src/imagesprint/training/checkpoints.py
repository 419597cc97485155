"""The checkpoints of one `train` command: the one to go on from, and those that it writes."""

import errno
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imagesprint.checkpoints.format import TrainingCheckpoint, read_training_checkpoint
from imagesprint.checkpoints.writing import CheckpointWriter, Keep, Snapshot, Written, checkpoint_path
from imagesprint.console import Console
from imagesprint.errors import CheckpointError
from imagesprint.files import naming, system_error
from imagesprint.runs.directory import RunDirectory, check_disk_space
from imagesprint.training.metering import Cadence
from imagesprint.training.state import TrainingState

DAMAGED_SUFFIX = ".damaged"  # of a checkpoint that is none any more, so that no command takes it for one


def newest_whole(run: RunDirectory) -> tuple[TrainingCheckpoint, dict[Path, CheckpointError]] | None:
    """The newest whole checkpoint, and the errors of the damaged ones that are newer.

    None where there is no checkpoint at all; raises the newest's CheckpointError where none is whole.
    """
    damaged: dict[Path, CheckpointError] = {}
    for path in reversed(run.checkpoints()):
        try:
            return read_training_checkpoint(path), damaged
        except CheckpointError as error:
            system = system_error(error)
            if system is not None and system.errno not in (None, errno.EINVAL):  # which a cut file makes of a seek
                raise  # the disk's fault: the checkpoint may be sound
            damaged[path] = error
    if damaged:
        raise next(iter(damaged.values()))
    return None


def set_aside(damaged: dict[Path, CheckpointError], whole: Path, console: Console) -> None:
    """Rename the `damaged` checkpoints, and say that the run goes on from `whole`."""
    for path, error in damaged.items():
        with naming("rename", path):
            path.rename(path.with_name(path.name + DAMAGED_SUFFIX))
        console.warn(f"{error.what}; it is kept as {path.name}{DAMAGED_SUFFIX}, and the run goes on from {whole.name}")


class Checkpoints:
    """Writes checkpoints beside the training, and removes those that the rule `keep` does not want; rank 0 alone."""

    def __init__(self, run: RunDirectory, state: TrainingState, cadence: Cadence, keep: Keep, console: Console) -> None:
        self._run, self._schedule, self._keep, self._console = run, cadence.schedule, keep, console
        tensors = state.checkpoint_like()
        _check_space(run, sum(tensor.nbytes for tensor in tensors), state.step, cadence, keep)
        self._writing = 0.0
        self._writer = CheckpointWriter(run.path, Snapshot(tensors, tensors[0].device), self._written)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, traceback)

    def save(self, content: dict[str, Any]) -> None:
        """Begin to write `content`, as `TrainingState.checkpoint` gives it. Raises RunError."""
        self._writer.save(content)

    def look(self) -> None:
        """Raise RunError where the one in flight has failed."""
        self._writer.look()

    def finish(self) -> None:
        """Wait for the one in flight. Raises RunError."""
        self._writer.finish()

    def take_writing(self) -> float:
        """Return the seconds that writing took, beside the training, of those that were whole since the last call."""
        seconds, self._writing = self._writing, 0.0
        return seconds

    def _written(self, written: Written) -> None:
        self._writing += written.seconds
        self._console.note(
            f"checkpoint  {written.path.name}: training waited {1e3 * written.waited:.1f} ms, "
            f"written in {written.seconds:.2f} s"
        )
        top1 = {row.step: row.top1 for row in self._run.evaluations()} if self._keep.best else {}
        steps = [int(path.stem[len("step-") :]) for path in self._run.checkpoints()]
        dispensable = self._keep.dispensable(steps, self._schedule, top1)
        self._writer.meanwhile(lambda: self._remove([checkpoint_path(self._run.path, step) for step in dispensable]))

    def _remove(self, paths: list[Path]) -> None:
        """In the writer's thread: to give back its blocks takes a large file some time."""
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._console.warn(f"{path} cannot be removed: {error.strerror}")


def _check_space(run: RunDirectory, size: int, step: int, cadence: Cadence, keep: Keep) -> None:
    """Raise UsageError where what is ahead of `step` does not fit on the disk."""
    ahead = len(cadence.checkpoints(step))
    if ahead:
        epochs = cadence.schedule.epochs_done(cadence.until)
        stay = keep.count(len(run.checkpoints()) + ahead, epochs) - len(run.checkpoints())
        check_disk_space(run.path, size, max(1, stay))
