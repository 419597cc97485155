"""Writing files so that a reader, or the next run, never sees half of one."""

import fcntl
import json
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from imagesprint.errors import RunError

TEMPORARY_PATTERN = ".*.tmp"  # files that `write_atomically` had not finished when its process was killed
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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, oldest first; none where there is no file.

    A last line without its end (the writer was killed in the middle of it) is left out. Raises RunError where
    another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    try:
        return [json.loads(line) for line in lines if line]
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}", "repair or delete the line that is no JSON object") from error


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
