"""Whether what a run is going to write fits on its disk."""

import shutil
from pathlib import Path

from imagesprint.errors import UsageError
from imagesprint.files import naming

_GIB = 1 << 30


def check_disk_space(run: Path, checkpoint_bytes: int, checkpoints: int) -> None:
    """Raise UsageError where `checkpoints` more files of `checkpoint_bytes` do not fit beside what lies in `run`.

    One more is needed while the next is written and the oldest is still there.
    """
    with naming("read", run):
        free = shutil.disk_usage(run).free
    needed = (checkpoints + 1) * checkpoint_bytes
    if needed > free:
        raise UsageError(
            f"{run} has {free / _GIB:.2f} GiB left, but {checkpoints:,} checkpoints of {checkpoint_bytes / _GIB:.2f} "
            f"GiB (and one in the making) take {needed / _GIB:.2f} GiB",
            "free some space, or keep fewer: --keep last:3,best",
        )
