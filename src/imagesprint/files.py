"""Writing files so that a reader, or the next run, never sees half of one."""

import fcntl
import json
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from imagesprint.errors import RunError

TEMPORARY_PATTERN = ".*.tmp"  # files that `write_atomically` had not finished when its process was killed
Row = TypeVar("Row")
_TAIL = 4096  # bytes read at a time when looking for the end of a line


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have `write` fill a temporary file beside `path`, sync it to the disk, and give it its name.

    Where anything fails the temporary file is removed and what stood at `path` before still does.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
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
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            if line:
                rows.append(parse(json.loads(line.decode())))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged in line {number}: {error}", hint) from error
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """As `parse_rows`: the objects as they are."""
    return parse_rows(path, _as_object)


def _as_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def is_cut(path: Path) -> bool:
    """Whether the last line of a .jsonl file lacks its end, so that `read_rows` leaves it out."""
    if not path.exists():
        return False
    with path.open("rb", buffering=0) as file:
        return _end_of_last_line(file) < file.seek(0, os.SEEK_END)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a whole .jsonl file atomically."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one object to a .jsonl file and sync it to the disk. Several processes may do so at the same time.

    A last line that was cut short, by a kill or a full disk, gives way to the new one. An OSError names the file.
    """
    try:
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # or one could take another's line, half written, for cut short
            file.truncate(_end_of_last_line(file))
            rest = memoryview((json.dumps(row) + "\n").encode())
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _end_of_last_line(file: FileIO) -> int:
    """Where the last line that is whole ends, in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
