import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from imagesprint.checkpoints import format as checkpoint_format
from imagesprint.checkpoints.naming import checkpoint_path, list_checkpoints, newest_whole
from imagesprint.errors import CheckpointError


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

    monkeypatch.setattr(checkpoint_format, "read_training_checkpoint", read)
    with pytest.raises(CheckpointError, match=r"step-0000002.pt cannot be read"):
        newest_whole(tmp_path)
    assert asked == ["step-0000002.pt"]


def test_checkpoints_are_listed_by_their_step_and_nothing_else_is(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path) == []
    assert newest_whole(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    paths = [checkpoint_path(tmp_path, step) for step in (5, 12_345_678, 123_456_789)]
    for path in (
        *paths,
        *(path.with_name(f"{path.name}.damaged") for path in paths),
        tmp_path / "checkpoints/step-x.pt",
    ):
        path.touch()
    assert list_checkpoints(tmp_path) == paths
