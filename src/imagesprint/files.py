"""Writing files so that a reader, or the next run, never sees half of one."""

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from imagesprint.errors import FileError, ImagesprintError, RunError

TEMPORARY_PATTERN = ".*.tmp"  # files that `write_atomically` had not finished when its process was killed
Row = TypeVar("Row")
_NO_LOCKS: Final = (
    "choose a place on another disk: this one has no locks (Lustre has them where it is mounted with flock, NFS where "
    "its lock service runs), and without them nothing keeps two commands from writing the same files"
)
_TAIL = 4096  # bytes read at a time when looking for the end of a line


@contextmanager
def naming(operation: str, path: Path, hint: str = "") -> Iterator[None]:
    """Turn an OSError of the block into a FileError that names `operation`, a verb, and `path`, unless it is one."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError.of(operation, path, error, hint) from error


@contextmanager
def shown_as(path: Path, name: object) -> Iterator[None]:
    """Have errors of the block speak of `name` where they speak of what lies at `path`, a copy of it on this machine.

    What the copy's own disk refuses is said of the copy.
    """
    try:
        yield
    except ImagesprintError as error:
        if not isinstance(error, FileError) and system_error(error.__cause__) is None:
            error.what = error.what.replace(str(path), str(name))
            error.hint = error.hint.replace(str(path), str(name))
            error.args = (error.what,)
        raise


def system_error(error: BaseException | None) -> OSError | None:
    """Return the OSError behind `error`, if there is one: libraries make others of it, such as torch a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a temporary file beside `path`, sync it to the disk, and give it its name.

    Where anything fails the temporary file is removed, what stood at `path` before still does, and an OSError is a
    FileError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming("write", path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # the next command removes it
                temporary.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, if there is one. Raises FileError."""
    with naming("remove", path):
        path.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Have the names in the folder at `path` on the disk, too. Raises FileError."""
    with naming("sync", path):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def parse_rows(path: Path, parse: Callable[[Any], Row], hint: str = "repair or delete that line") -> list[Row]:
    """What `parse` makes of each object of a .jsonl file, oldest first; none where there is no file.

    A last line without its end (the writer was killed in the middle of it) is left out: `is_cut` tells. Raises
    RunError, with file, line and `hint`, for another line that is no JSON in UTF-8 or for which `parse` raises a
    ValueError.
    """
    with naming("read", path):
        lines = whole_lines(path.read_bytes()) if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                rows.append(parse(json.loads(line.decode())))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged in line {number}: {error}", hint) from error
    return rows


def whole_lines(content: bytes) -> list[bytes]:
    """The lines of a .jsonl file without their ends; what follows the last end was cut short and is none."""
    return content.split(b"\n")[:-1]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """As `parse_rows`: the objects as they are."""
    return parse_rows(path, _as_object)


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def is_cut(path: Path) -> bool:
    """Whether the last line of a .jsonl file lacks its end, so that `read_rows` leaves it out. Raises FileError."""
    with naming("read", path):
        if not path.exists():
            return False
        with path.open("rb", buffering=0) as file:
            return _end_of_last_line(file) < file.seek(0, os.SEEK_END)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a whole .jsonl file atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one object to a .jsonl file and sync it to the disk. Several processes may do so at the same time.

    A last line that was cut short, by a kill or a full disk, gives way to the new one. Raises FileError.
    """
    append_lines(path, [json.dumps(row).encode()])


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """As `append_row`: lines as they stand in another such file, without their ends."""
    with naming("write", path), path.open("ab+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # or one could take another's line, half written, for cut short
        except OSError as error:
            raise no_lock(path, error) from error
        os.ftruncate(file.fileno(), _end_of_last_line(file))  # goes on after a signal; file.truncate does not
        rest = memoryview(b"".join(line + b"\n" for line in lines))
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def no_lock(path: Path, error: OSError) -> FileError:
    """Return the error that the file at `path` cannot be locked, because of `error`."""
    unsupported = error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
    return FileError.of("lock", path, error, _NO_LOCKS if unsupported else "")


def _end_of_last_line(file: FileIO) -> int:
    """Where the last line that is whole ends, in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL)
        file.seek(start)
        tail = b""
        while len(tail) < end - start:  # one read may bring less: what it lacks would count as cut off
            more = file.read(end - start - len(tail))
            if not more:
                break
            tail += more
        newline = tail.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
