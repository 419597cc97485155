import errno
import os
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from imagesprint.errors import FileError
from imagesprint.runs.logs import EventFile, mend


def points(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def test_a_later_file_takes_steps_back_also_with_the_clock_set_back(tmp_path: Path) -> None:
    ahead = tmp_path / f"events.out.tfevents.{int(time.time()) + 10**7}.host.1"
    first = EventFile(tmp_path)
    for step in range(5):
        first.scalars({"loss": step}, step)
    os.rename(next(tmp_path.iterdir()), ahead)  # as if it had been written then
    second = EventFile(tmp_path, purge_from=3)
    second.scalars({"loss": 30.0}, 3)
    assert sorted(tmp_path.iterdir())[0] == ahead
    assert points(tmp_path) == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0)]
    second.close()


@pytest.mark.parametrize("call", ["open", "pread"])
def test_what_cannot_be_read_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    events = EventFile(tmp_path)
    events.scalars({"loss": 1.0, "of another": 2.0}, 1)
    events.close()
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(FileError, match=f"cannot read {file}: Input/output error"):
            mend(tmp_path, [(1, {"loss": 1.0})], 1)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
