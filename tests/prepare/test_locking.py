"""Locks that one process holds while another wants them."""

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from imagesprint.console import Console
from imagesprint.errors import FileError, UsageError
from imagesprint.prepare.parts import Lock, open_lock

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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(number))
    said = f"cannot lock {tmp_path}/root/.parts/lock: "
    with pytest.raises(UsageError, match=said) as raised, open_lock(tmp_path / "root") as lock:
        lock.take_beginning(QUIET)
    assert "choose a place on another disk" in raised.value.hint


@pytest.mark.parametrize("function", ["listdir", "unlink", "rmdir"])
def test_what_cannot_be_removed_is_said_and_removed_by_the_next(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    said = rf"cannot remove {root}/.parts(/lock)?: Input/output error"
    with pytest.raises(FileError, match=said) as raised, open_lock(root):
        monkeypatch.setattr(os, function, failing(errno.EIO))
    monkeypatch.undo()
    assert "give the same command again" in raised.value.hint
    with open_lock(root):
        pass
    assert list(root.iterdir()) == []


def test_an_error_comes_before_one_in_cleaning_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "rmdir", failing(errno.EIO))
    with pytest.raises(ValueError, match="first"), open_lock(tmp_path / "root"):
        raise ValueError("first")


def test_folder_that_is_gone_already(tmp_path: Path) -> None:
    with open_lock(tmp_path / "root"):
        shutil.rmtree(tmp_path / "root")


def test_folder_that_another_process_has_begun_in_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_lock(tmp_path / "root"):
        monkeypatch.setattr(os, "rmdir", failing(errno.ENOTEMPTY))


def failing(number: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail
