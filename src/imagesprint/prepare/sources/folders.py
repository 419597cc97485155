"""Images that lie as files in folders: finding and reading them."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagesprint.errors import DataError
from imagesprint.prepare.sources.source import Sample, changed


@contextmanager
def reading_source() -> Iterator[None]:
    """Turn an OSError from listing a source into a DataError that names the place."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}", "make it readable, or remove it from the source"
        ) from error


def read_file(folder: Path, sample: Sample) -> bytes:
    """Return the bytes of the file at `folder`/`sample.location`.

    Raises DataError if it cannot be read or its size has changed.
    """
    path = os.path.join(folder, sample.location)
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}",
            "make it readable, or remove it, then give the same command again",
        ) from error
    if len(data) != sample.num_bytes:
        raise changed(sample.location, f"{sample.num_bytes} bytes before, {len(data)} now")
    return data


def visible_files(folder: Path | str, seen: frozenset[tuple[int, int]] = frozenset()) -> list[tuple[str, int]]:
    """Return (path, size) of every regular file below `folder` that is not hidden.

    Links are followed, but not into the folders `seen` (device, inode) on the way down. Raises DataError for a broken
    link, OSError.
    """
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return []
    found = []
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        _check_link(entry)
        status = entry.stat()
        if stat.S_ISDIR(status.st_mode):
            found += visible_files(entry.path, seen | {identity})
        elif stat.S_ISREG(status.st_mode):
            found.append((entry.path, status.st_size))
    return found


def visible_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder` that are not hidden; none where there is no such folder.

    Raises DataError for a broken link, OSError.
    """
    if not folder.is_dir():
        return []
    visible = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    for entry in visible:
        _check_link(entry)
    return sorted(entry.name for entry in visible if entry.is_dir())


def _check_link(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise DataError(
            f"{entry.path} is a broken link to {os.readlink(entry.path)}", "repair it, or remove it from the source"
        )
