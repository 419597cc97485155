"""The checkpoints of a run by their names: where each lies, which training goes on from, and what is set aside."""

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imagesprint.console import Console
from imagesprint.errors import CheckpointError, UsageError
from imagesprint.files import naming, system_error

if TYPE_CHECKING:
    from imagesprint.checkpoints.format import TrainingCheckpoint

FOLDER: Final = "checkpoints"  # in the run directory
DAMAGED_SUFFIX: Final = ".damaged"  # of a checkpoint that is none any more, so that no command takes it for one


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run / FOLDER / f"step-{step:07d}.pt"


def step_of(checkpoint: Path) -> int:
    """The steps after which a file of `list_checkpoints` was written, by its name."""
    return int(checkpoint.stem.removeprefix("step-"))


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint files of the run directory `run`, by their step. Raises FileError."""
    with naming("read", run / FOLDER):
        found = list((run / FOLDER).glob("step-*.pt"))
    return sorted((file for file in found if re.fullmatch(r"step-\d+\.pt", file.name)), key=step_of)


def last_checkpoint(path: Path) -> Path:
    """The last checkpoint of a run directory; any other path as it is. Raises UsageError where a run has none."""
    if not path.is_dir():
        return path
    checkpoints = list_checkpoints(path)
    if not checkpoints:
        raise UsageError(f"{path} holds no checkpoints/step-*.pt", "name a run directory or a checkpoint file")
    return checkpoints[-1]


def newest_whole(run: Path) -> "tuple[TrainingCheckpoint, dict[Path, CheckpointError]] | None":
    """The newest whole checkpoint of `run`, and the errors of the damaged ones that are newer.

    None where there is no checkpoint at all; raises the newest's CheckpointError where none is whole.
    """
    from imagesprint.checkpoints.format import read_training_checkpoint  # imports torch

    damaged: dict[Path, CheckpointError] = {}
    for path in reversed(list_checkpoints(run)):
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
