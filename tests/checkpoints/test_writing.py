import errno
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from imagesprint.checkpoints.writing import KEEP_ALL, CheckpointWriter, Keep, Snapshot, Written, write_checkpoint
from imagesprint.errors import RunError, UsageError
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.runs.directory import check_disk_space

STEPS = [4, 6, 8, 12, 16]  # of four steps an epoch


@pytest.mark.parametrize(
    ("rule", "gone"),
    [
        ("all", []),
        ("last:1", [4, 6, 8, 12]),
        ("last:3", [4, 6]),
        ("epochs:2", [4, 6, 12]),
        ("best", [4, 8, 12]),
        ("last:2,best", [4, 8]),
    ],
)
def test_what_goes(tiny_recipe: Recipe, rule: str, gone: list[int]) -> None:
    top1 = {4: 10.0, 6: 70.0, 12: 60.0, 20: 99.0}  # the last was removed before, or is another run's
    assert Keep.parse(rule).dispensable(STEPS, Schedule(tiny_recipe, 70), top1) == gone


@pytest.mark.parametrize("rule", ["", "none", "last:0", "last:", "epochs:x", "all,best", "best:2", "last:2, best"])
def test_what_is_no_rule(rule: str) -> None:
    with pytest.raises(UsageError, match="--keep"):
        Keep.parse(rule)


def test_how_many_stay_at_most() -> None:
    assert KEEP_ALL.count(100, 50) == 100
    assert Keep.parse("last:3,best").count(100, 50) == 4
    assert Keep.parse("epochs:10").count(100, 50) == 6
    assert Keep.parse("last:9").count(2, 50) == 2


CPU = torch.device("cpu")


def content(step: int, weight: torch.Tensor) -> dict[str, Any]:
    return {"step": step, "model": {"a": weight, "b": weight[:2]}, "note": "x"}


def test_what_is_written_is_what_was_there_when_it_was_begun(tmp_path: Path) -> None:
    weight, done = torch.arange(6.0).reshape(2, 3).t(), list[Written]()
    with CheckpointWriter(tmp_path, Snapshot([weight], CPU), done.append) as writer:
        for step in (1, 2):
            weight.fill_(step)
            writer.save(content(step, weight))
            weight.fill_(-1)
    assert [one.path.name for one in done] == ["step-0000001.pt", "step-0000002.pt"]
    for step, one in enumerate(done, 1):
        read = torch.load(one.path, weights_only=True)
        assert read["step"] == step
        assert read["model"]["a"].unique().tolist() == [step]
        assert read["model"]["a"].stride() == weight.stride()
        assert read["model"]["b"].shape == (2, 2)


def test_memory_is_used_again() -> None:
    weight = torch.ones(3)
    snapshot = Snapshot([weight], CPU)
    places = {snapshot.take({"a": weight})[0]["a"].data_ptr() for _ in range(3)}
    assert len(places) == 1
    assert weight.data_ptr() not in places


def test_an_error_in_writing_is_raised_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()  # a file where the folder belongs
    writer = CheckpointWriter(tmp_path, Snapshot([], CPU), lambda _: None)
    with writer:
        writer.save(content(1, torch.ones(3)))
        with pytest.raises(RunError, match=r"cannot write checkpoint .*step-0000001\.pt"):
            writer.finish()
        writer.look()  # told once
    with pytest.raises(RunError), writer.__class__(tmp_path, Snapshot([], CPU), lambda _: None) as second:
        second.save(content(2, torch.ones(3)))


def test_space_that_is_not_there_is_told_in_figures(tmp_path: Path) -> None:
    check_disk_space(tmp_path, 1, 10)
    with pytest.raises(UsageError, match=r"GiB left, but 7 checkpoints of 1048576\.00 GiB .* 8388608\.00 GiB"):
        check_disk_space(tmp_path, 1 << 50, 7)


def test_the_system_s_reason_is_told_not_torch_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("imagesprint.checkpoints.writing.write_atomically", lambda _, write: write(Full()))
    with pytest.raises(RunError, match=r"cannot write checkpoint .*step-0000001\.pt: No space left on device$"):
        write_checkpoint(tmp_path, content(1, torch.ones(3)))
