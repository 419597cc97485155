import errno
import os
import re
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.checkpoints.naming import checkpoint_path, list_checkpoints
from imagesprint.checkpoints.writer import CheckpointWriter, Snapshot, write_checkpoint
from imagesprint.console import Console
from imagesprint.errors import RunError


def content(step: int, weight: torch.Tensor) -> Any:
    return {"step": step, "model": {"a": weight, "b": weight[:2]}, "note": "x"}


def writer_of(run: Path) -> CheckpointWriter:
    return CheckpointWriter(run, [torch.ones(3)], Console.silent())


def test_what_is_written_is_what_was_there_when_it_was_begun(tmp_path: Path) -> None:
    weight, console = torch.arange(6.0).reshape(2, 3).t(), Console.silent()
    console.log_to(tmp_path / "log.txt")
    with CheckpointWriter(tmp_path, [weight], console) as writer:
        for step in (1, 2):
            weight.fill_(step)
            writer.save(content(step, weight))
            weight.fill_(-1)
    assert writer.take_seconds() > 0
    assert writer.take_seconds() == 0
    found = list_checkpoints(tmp_path)
    assert [path.name for path in found] == ["step-0000001.pt", "step-0000002.pt"]
    for step, path in enumerate(found, 1):
        read = torch.load(path, weights_only=True)
        assert read["step"] == step
        assert read["model"]["a"].unique().tolist() == [step]
        assert read["model"]["a"].stride() == weight.stride()
        assert read["model"]["b"].shape == (2, 2)
    told = re.findall(r"step-000000(\d).pt: training waited [\d.]+ ms, written in", (tmp_path / "log.txt").read_text())
    assert told == ["1", "2"]


def test_what_need_not_stay_is_removed_once_the_next_is_written(tmp_path: Path) -> None:
    stream, folder = StringIO(), tmp_path / "folder"
    folder.mkdir()

    def surplus() -> list[Path]:
        return [folder, *list_checkpoints(tmp_path)[:-1]]

    with CheckpointWriter(tmp_path, [torch.ones(3)], Console(stream), surplus) as writer:
        for step in (1, 2, 3):
            writer.save(content(step, torch.ones(3)))
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, 3)]
    assert f"warning: {folder} cannot be removed: " in stream.getvalue()


def test_memory_is_used_again() -> None:
    weight = torch.ones(3)
    snapshot = Snapshot([weight], torch.device("cpu"))
    places = {snapshot.take({"a": weight})[0]["a"].data_ptr() for _ in range(3)}
    assert len(places) == 1
    assert weight.data_ptr() not in places


def test_an_error_in_writing_is_raised_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()  # a file where the folder belongs
    with writer_of(tmp_path) as writer:
        writer.save(content(1, torch.ones(3)))
        with pytest.raises(RunError, match=r"cannot write checkpoint .*step-0000001\.pt"):
            writer.finish()
        writer.look()  # told once
    with pytest.raises(RunError), writer_of(tmp_path) as second:
        second.save(content(2, torch.ones(3)))


def test_the_system_s_reason_is_told_not_torch_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("imagesprint.checkpoints.writer.write_atomically", lambda _, write: write(Full()))
    with pytest.raises(RunError, match=r"cannot write checkpoint .*step-0000001\.pt: No space left on device$"):
        write_checkpoint(tmp_path, content(1, torch.ones(3)))
