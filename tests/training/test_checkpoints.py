import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from imagesprint.errors import CheckpointError
from imagesprint.runs.directory import RunDirectory
from imagesprint.training import checkpoints
from imagesprint.training.checkpoints import newest_whole


def test_a_checkpoint_that_its_disk_does_not_give_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one would cost the steps between, and the newest, which may be sound, would be set aside."""
    (tmp_path / "checkpoints").mkdir()
    for step in (1, 2):
        (tmp_path / f"checkpoints/step-000000{step}.pt").touch()
    asked = []

    def read(path: Path) -> NoReturn:
        asked.append(path.name)
        raise CheckpointError(f"{path} cannot be read") from OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(checkpoints, "read_training_checkpoint", read)
    with pytest.raises(CheckpointError, match=r"step-0000002.pt cannot be read"):
        newest_whole(RunDirectory(tmp_path))
    assert asked == ["step-0000002.pt"]
