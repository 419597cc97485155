import errno
import fcntl
import os
import pickle
import stat
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from io import FileIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pytest

from imagesprint.errors import FileError
from imagesprint.files import append_row, read_rows, remove, system_error, write_atomically, write_text


def failing(number: int) -> Callable[..., NoReturn]:
    """Return what stands in for a function of the system that comes to the error `number`."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "before")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        write_atomically(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_come_back_and_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert read_rows(path) == []
    append_row(path, {"step": 1})
    append_row(path, {"step": 2})
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert read_rows(path) == [{"step": 1}, {"step": 2}]
    append_row(path, {"step": 4})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 4}\n'
    path.write_text("x" * 10_000)
    append_row(path, {"step": 5})
    assert read_rows(path) == [{"step": 5}]


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    path, text = tmp_path / "rows.jsonl", "x" * 9000  # more than a buffer
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        list(pool.map(append_row, [path] * 80, [{"row": row, "text": text} for row in range(80)]))
    assert sorted(row["row"] for row in read_rows(path)) == list(range(80))


def test_an_error_of_the_system_names_operation_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(errno.EIO))
            with pytest.raises(FileError, match=f"^cannot write {path}: Input/output error$") as raised:
                write_text(path, "new")
        assert (raised.value.errno, raised.value.strerror, raised.value.filename) == (
            errno.EIO,
            "Input/output error",
            str(path),
        )
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileError, match=f"^cannot write {tmp_path}/no/file: No such file or directory$"):
        append_row(tmp_path / "no" / "file", {})
    with pytest.raises(FileError, match=f"^cannot read {tmp_path}: Is a directory$"):
        read_rows(tmp_path)
    with pytest.raises(FileError, match=f"^cannot remove {tmp_path}: "):
        remove(tmp_path)


def test_an_error_that_crossed_processes_still_says_what(tmp_path: Path) -> None:
    error = pickle.loads(pickle.dumps(FileError.of("read", tmp_path, OSError(errno.EIO, "Input/output error"))))
    assert (str(error), type(error)) == (f"cannot read {tmp_path}: Input/output error", FileError)
    assert error.hint.startswith("see to its disk")


def test_a_folder_whose_names_cannot_be_synced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = os.fsync, failing(errno.EIO)
    monkeypatch.setattr(os, "fsync", lambda file: failed() if stat.S_ISDIR(os.fstat(file).st_mode) else real(file))
    with pytest.raises(FileError, match=f"^cannot sync {tmp_path}: Input/output error$"):
        write_text(tmp_path / "file", "new")


def test_a_read_that_brings_less_cuts_off_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 5) if size != -1 else size) or b""

    path = tmp_path / "rows.jsonl"
    for step in range(3):
        append_row(path, {"step": step})
    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Short(path, mode.replace("b", "")))
    append_row(path, {"step": 3})
    monkeypatch.undo()
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_no_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    path = tmp_path / "rows.jsonl"
    with pytest.raises(FileError, match=f"^cannot lock {path}: {os.strerror(number)}$") as raised:
        append_row(path, {})
    assert "choose a place on another disk" in raised.value.hint


def test_the_system_s_error_is_found_behind_a_library_s() -> None:
    error, system = RuntimeError("unexpected pos 64"), OSError(errno.ENOSPC, "No space left on device")
    error.__context__ = system  # as torch.save has it
    assert system_error(error) is system
    assert system_error(RuntimeError("mine")) is None
    assert system_error(None) is None
