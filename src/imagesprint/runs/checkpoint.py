"""Checkpoints: written whole or not at all, named by the steps done, readable without executing anything."""

from pathlib import Path
from typing import Any

from imagesprint.errors import RunError
from imagesprint.files import system_error, write_atomically
from imagesprint.model.weight_files import save_sealed


def checkpoint_path(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run / "checkpoints" / f"step-{step:07d}.pt"


def write_checkpoint(run: Path, content: dict[str, Any]) -> Path:
    """Write `content` (see `training.state`), sealed, atomically under its step; returns the path.

    Raises RunError where it cannot be written (a full disk, say); the checkpoints before it are untouched.
    """
    path = checkpoint_path(run, content["step"])
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda file: save_sealed(content, file))
    except (OSError, RuntimeError) as error:  # torch.save comes to a RuntimeError after the system's
        system = system_error(error)
        raise RunError(
            f"cannot write checkpoint {path}: {error if system is None else system.strerror}",
            "see to its disk, space and permissions, then run the same command again: it resumes",
        ) from error
    return path
