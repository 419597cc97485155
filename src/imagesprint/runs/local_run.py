"""A run that is read or judged, as a folder of this machine: the run directory itself or, for a URL, a copy of it.

The copy has the run's small files as they are now; its checkpoints are brought when they are asked for, by way of the
cache. What a command writes into it (a report, results of `evaluate`) is sent to the URL. It goes with the command.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from imagesprint.checkpoints.cached import cached_copy
from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.files import append_lines, naming, shown_as, whole_lines
from imagesprint.runs import sending
from imagesprint.storage.cache import cache_folder
from imagesprint.storage.lease import STALE_AFTER, find_lease
from imagesprint.storage.store import Store, Stored, open_store
from imagesprint.storage.url import Place, Url

_PREFIX: Final = ".read-"  # of the folders that hold such copies
_NEW: Final = ".new-"


@contextmanager
def local_run(place: Place, console: Console, newest: bool = False) -> Iterator[Path]:
    """The run at `place` as a folder, for the time of the block; with its `newest` checkpoint, where that is wanted.

    What is written there is at `place` when the block ends. Raises StorageError where that fails.
    """
    if isinstance(place, Path):
        yield place
        return
    with remote_copy(place, console) as copy:
        copy.refresh()
        if newest and (keys := sending.checkpoint_keys(copy.store)):
            copy.fetch(keys[-1])
        with shown_as(copy.path, place):
            yield copy.path
        copy.send()


@contextmanager
def remote_copy(url: Url, console: Console) -> Iterator["RemoteCopy"]:
    """A copy of the run at `url`, empty at first, for the time of the block; `console` speaks of it as of the URL."""
    with ExitStack() as stack:
        path = _new_folder(stack) / (url.name or url.host)  # a report is called by it
        with naming("write", path):
            path.mkdir()
        console.show_as(path, url)
        yield RemoteCopy(url, path)


def _new_folder(stack: ExitStack) -> Path:
    """A folder in the cache that goes when `stack` is closed, or with the next command where this one is killed."""
    runs = cache_folder() / "runs"
    with naming("write", runs):
        runs.mkdir(parents=True, exist_ok=True)
        _sweep(runs)
        made = Path(tempfile.mkdtemp(prefix=_NEW, dir=runs))
        held = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, held)
        with suppress(OSError):  # a disk without locks
            fcntl.flock(held, fcntl.LOCK_SH)
        # It gets its name once it is locked: others take away what is not.
        folder = made.rename(runs / made.name.replace(_NEW, _PREFIX, 1))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _sweep(runs: Path) -> None:
    """Remove the copies of commands that were killed."""
    for left in runs.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            file = os.open(left, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(file)


class RemoteCopy:
    """The run at `url` and its copy at `path`. Methods raise StorageError; each may be called again."""

    def __init__(self, url: Url, path: Path) -> None:
        self.url, self.path = url, path
        self.store: Store = open_store(url)
        self._listed: dict[str, Stored] = {}
        self._stamps: dict[str, tuple[int, int]] = {}  # of what is here as it is at the URL: bytes, time in ns
        self._own: set[str] = set()  # what this command wrote
        self._rows: list[bytes] = []  # of evaluations.jsonl, as they came
        self._lease: tuple[bytes, float] = b"", 0.0

    def refresh(self) -> list[Stored]:
        """Bring what has changed of the small files; the checkpoints that are at the URL, by their step."""
        listed = {stored.key: stored for stored in self.store.list() if not sending.is_hidden(stored.key)}
        changed = [
            key
            for key, stored in listed.items()
            if sending.is_small(key) and key not in self._own and self._listed.get(key) != stored
        ]
        own = self._own_rows()
        sending.download(self.store, changed, self.path)
        if sending.EVALUATIONS in changed:
            self._rows = self._rows_here()
            if own:
                append_lines(self.path / sending.EVALUATIONS, [line for line in own if line not in self._rows])
        self._listed = listed
        self._stamps |= {key: self._stamp(key) for key in changed}
        checkpoints = [stored for key, stored in listed.items() if sending.step_of(key) is not None]
        return sorted(checkpoints, key=lambda stored: sending.step_of(stored.key) or 0)

    def fetch(self, key: str) -> Path:
        """Have a checkpoint lie in the copy. Raises UsageError where it is not there, or not any more."""
        path = self.path / key
        stored = self.store.stat(key)
        if stored is None:
            raise UsageError(f"there is no checkpoint {self.url / key}", "name a run or a checkpoint")
        with cached_copy(self.store, key, stored) as file, naming("write", path):
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            try:
                path.hardlink_to(file)
            except OSError:  # a disk without hard links
                shutil.copyfile(file, path)
        return path

    def send(self) -> None:
        """Send what was written into the copy, but for checkpoints."""
        new = self._own_rows()
        if new:
            sending.merge_lines(
                self.store, sending.EVALUATIONS, lambda there: there + [line for line in new if line not in there]
            )
            self._rows += new
        for key in self._keys():
            stamp = self._stamp(key)
            if key != sending.EVALUATIONS and self._stamps.get(key) != stamp:
                self.store.upload(self.path / key, key)
                self._stamps[key] = stamp
                self._own.add(key)

    def is_held(self) -> bool:
        """Whether a training holds the run: its lease was renewed lately, and its process is not known to be gone.

        A lease that is seen for the first time counts as new.
        """
        standing = find_lease(self.store, sending.LEASE)
        if standing is None or standing.holder.is_gone:
            return False
        if standing.content != self._lease[0]:  # each renewal changes it
            self._lease = standing.content, time.monotonic()
        return time.monotonic() - self._lease[1] < STALE_AFTER

    def last_sign(self) -> float:
        """When training last wrote to its logs, in seconds since 1970 by the store's clock; 0 where that has none."""
        keys = (sending.RECIPE, sending.COMMANDS, sending.METRICS)
        return max((self._listed[key].modified for key in keys if key in self._listed), default=0.0)

    def _own_rows(self) -> list[bytes]:
        """Rows that this command has added to evaluations.jsonl since it was brought or sent."""
        return [line for line in self._rows_here() if line not in self._rows]

    def _rows_here(self) -> list[bytes]:
        try:
            return whole_lines((self.path / sending.EVALUATIONS).read_bytes())
        except FileNotFoundError:
            return []

    def _keys(self) -> list[str]:
        files = (file for file in self.path.rglob("*") if file.is_file())
        keys = sorted(str(file.relative_to(self.path)) for file in files)
        return [key for key in keys if not sending.is_hidden(key) and not key.startswith(sending.CHECKPOINTS)]

    def _stamp(self, key: str) -> tuple[int, int]:
        with suppress(FileNotFoundError):
            found = (self.path / key).stat()
            return found.st_size, found.st_mtime_ns
        return 0, 0
