"""Locks that one process holds while another wants them."""

import os
import subprocess
from pathlib import Path

import pytest

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.prepare.locking import Lock, open_lock

QUIET = Console(quiet=True)


def start(command: list[str], photos: Path, root: Path, *flags: str) -> subprocess.Popen[str]:
    words = [*command, "prepare", str(photos), str(root), "--variants", "32", "--shards", "4", "--workers", "1", *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_prepare_waits_for_one_that_joins(command: list[str], photos: Path, tmp_path: Path) -> None:
    with open_lock(tmp_path / "root") as lock:
        lock.take_all()
        process = start(command, photos, tmp_path / "root")
        assert process.stderr is not None
        assert process.stderr.readline().startswith("listing ")
        assert process.stderr.readline().startswith("waiting for another `imagesprint prepare` to begin or to end in")
        assert not (tmp_path / "root/32").exists()
    # The folder with the lock is gone: what has waited for it makes a new one.
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "70 train" in out
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["32"]


def test_parts_that_touch_are_refused_and_others_are_not(command: list[str], photos: Path, tmp_path: Path) -> None:
    with open_lock(tmp_path / "root") as lock:
        lock.take_part(1, 3)
        for part, code in (("0:1", 0), ("0:2", 2), ("2:3", 2), ("0:4", 2), ("3:4", 0)):
            process = start(command, photos, tmp_path / "root", "--part", part)
            _, err = process.communicate(timeout=60)
            assert process.returncode == code, (part, err)
            assert (f"at work in {tmp_path / 'root'}, at some of train shards {part}" in err) == (code == 2)


def test_folder_is_kept_while_it_holds_state_and_removed_when_empty(tmp_path: Path) -> None:
    with open_lock(tmp_path / "root") as lock:
        lock.take_beginning(QUIET)
        (tmp_path / "root/.parts/plan.json").touch()
    assert (tmp_path / "root/.parts/lock").exists()
    (tmp_path / "root/.parts/plan.json").unlink()
    with open_lock(tmp_path / "root"):
        pass
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir(mode=0o500)
    with pytest.raises(UsageError, match=r"cannot write to .*root/.parts: Permission denied"):
        Lock(tmp_path / "root")


def test_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file/root"):
        with pytest.raises(UsageError, match="cannot write to"):
            Lock(root)
