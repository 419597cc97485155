"""One writer a run: a lock that the kernel takes back when its holder dies."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from imagesprint.errors import UsageError
from imagesprint.files import naming, no_lock

LOCK: Final = ".lock"  # in the run directory; it says who holds, or last held, the lock


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the lock of the run directory `run`, which is made if need be.

    Raises UsageError where another process holds it, naming that one, where nothing can be written there, or where the
    file system has no locks.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(
            f"--output {run} cannot be written: {error.filename}: {error.strerror}", "choose another --output"
        ) from error
    try:
        _take(file, run)
        yield
    finally:
        os.close(file)


def is_locked(run: Path) -> bool:
    """Whether a process writes `run`, as far as the kernel of this machine knows; tried by taking it for an instant."""
    try:
        with (run / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _take(file: int, run: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            refused = no_lock(run / LOCK, error)
            raise UsageError(refused.what, refused.hint) from error
        with naming("read", run / LOCK):
            holder = os.pread(file, 1000, 0).decode(errors="replace").strip() or "another process"
        raise UsageError(
            f"{run} is in use by {holder}", "wait for it, stop it (a SIGTERM saves first), or choose another --output"
        ) from error
    with naming("write", run / LOCK), os.fdopen(os.dup(file), "w") as out:
        os.ftruncate(file, 0)
        out.write(f"process {os.getpid()} on {socket.gethostname()}\n")
