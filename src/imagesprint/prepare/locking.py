"""Locks on a ROOT: several parts are prepared in it at a time, no shard twice, and one process alone joins them.

ROOT/.parts/lock is a file of which record locks are taken. Its first byte is held by whoever begins, byte i + 1 stands
for train shard i and the validation shards that belong to it, and the joining of parts holds them all. Such locks also
hold among machines that share a file system, and end with their process.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imagesprint.console import Console
from imagesprint.errors import FileError, UsageError
from imagesprint.files import naming, no_lock
from imagesprint.records.dataset import PARTS

LOCK = "lock"

_BEGINNING = (0, 1)  # first byte and length
_ALL = (0, 0)  # a length of 0 reaches to the end of any file
_HELD = (errno.EACCES, errno.EAGAIN)  # what a lock that another process holds comes to
_LEFT_OVER = "what was prepared is whole: give the same command again, it removes what is left"


class Lock:
    """The lock of one ROOT. Use `open_lock`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = _open(root)

    def take_beginning(self, console: Console) -> None:
        """Keep others from beginning; wait while one begins, or joins what is there."""
        if not self._take(_BEGINNING, wait=False):
            console.line(f"waiting for another `imagesprint prepare` to begin or to end in {self._root}")
            self._take(_BEGINNING, wait=True)

    def take_part(self, first: int, end: int) -> None:
        """Lock train shards `first` up to `end`. Raises UsageError if another process works at any of them."""
        if first < end and not self._take((first + 1, end - first), wait=False):
            raise UsageError(
                f"another `imagesprint prepare` is at work in {self._root}, at some of train shards {first}:{end}",
                "wait for it, or stop it",
            )

    def take_all(self) -> None:
        """Lock all of ROOT; wait until nobody else is at work in it."""
        self._take(_ALL, wait=True)

    def release_beginning(self) -> None:
        """Let others begin."""
        self._release(_BEGINNING)

    def release_all(self) -> None:
        """Let go of everything."""
        self._release(_ALL)

    def close(self) -> None:
        """Let go of everything; remove .parts if it holds nothing but the lock and nobody else is at work.

        Raises FileError where it cannot be removed.
        """
        folder, removes = self._root / PARTS, False
        with naming("remove", folder, _LEFT_OVER):
            try:
                with suppress(FileNotFoundError):  # somebody has removed it by hand
                    removes = self._take(_ALL, wait=False) and os.listdir(folder) == [LOCK]
                    if removes:
                        with naming("remove", folder / LOCK, _LEFT_OVER):
                            (folder / LOCK).unlink(missing_ok=True)
            finally:
                os.close(self._file)  # before the folder goes: over NFS an open file stays in it under another name
            if removes:
                _remove_folder(folder)

    def _take(self, span: tuple[int, int], wait: bool) -> bool:
        start, length = span
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, start)
            except OSError as error:
                if error.errno in _HELD:
                    return False
                raise _refused(no_lock(self._root / PARTS / LOCK, error)) from error
            with naming("read", self._root / PARTS / LOCK):
                if os.fstat(self._file).st_nlink:
                    return True
            # Whoever held it before has finished and removed the file: there is a new one, or none.
            os.close(self._file)
            self._file = _open(self._root)

    def _release(self, span: tuple[int, int]) -> None:
        start, length = span
        try:
            fcntl.lockf(self._file, fcntl.LOCK_UN, length, start)
        except OSError as error:
            raise _refused(no_lock(self._root / PARTS / LOCK, error)) from error


@contextmanager
def open_lock(root: Path) -> Iterator[Lock]:
    """Open the lock of `root`, a folder that is made if need be.

    Raises UsageError if it cannot be written to or has no locks. In the end .parts is removed where it holds no state;
    raises FileError if it cannot be.
    """
    lock = Lock(root)
    try:
        yield lock
    except BaseException:
        with suppress(FileError, UsageError):  # that error comes first; the next command removes what is left
            lock.close()
        raise
    lock.close()


def _open(root: Path) -> int:
    path = root / PARTS / LOCK
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(root, error) from error
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # the process that finished has removed the folder meanwhile
        except OSError as error:
            raise _cannot_write(root, error) from error


def _remove_folder(folder: Path) -> None:
    """Remove an empty folder; leave it to a process that has begun in it meanwhile. Raises OSError."""
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _refused(error: FileError) -> UsageError:
    return UsageError(error.what, error.hint)


def _cannot_write(root: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot write to {error.filename or root}: {error.strerror}", "choose another ROOT")
