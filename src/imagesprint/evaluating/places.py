"""Where the checkpoints lie that `evaluate` judges: in folders of this machine, or at URLs."""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from imagesprint.checkpoints.naming import FOLDER, list_checkpoints
from imagesprint.checkpoints.weight_files import checkpoint_hash
from imagesprint.console import Console
from imagesprint.errors import StorageError, UsageError
from imagesprint.evaluating.results import run_of
from imagesprint.files import shown_as
from imagesprint.runs import sending
from imagesprint.runs.local_run import RemoteCopy, remote_copy
from imagesprint.storage.store import Store, Stored, open_store
from imagesprint.storage.url import Place, Url

_READ: Final = 1 << 16  # bytes at a time: a checkpoint's directory is some 50,000 of them


def find_checkpoints(places: Sequence[Place]) -> list[Place]:
    """The checkpoints that `places`, runs and checkpoints, stand for, in order, each once.

    Raises UsageError for a place that is neither.
    """
    found: list[Place] = []
    for place in places:
        found += _at_path(place) if isinstance(place, Path) else _at_url(place)
    return list(dict.fromkeys(found))


def _at_path(path: Path) -> list[Path]:
    files = list_checkpoints(path) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no checkpoints/step-*.pt", "name a run directory or checkpoint files")
    if not files[0].is_file():
        raise UsageError(f"there is no run or checkpoint {path}", "name a run directory or checkpoint files")
    return files


def _at_url(url: Url) -> list[Url]:
    store = open_store(url)
    if store.stat("") is not None:
        return [url]
    keys = sending.checkpoint_keys(store)
    if not keys:
        raise UsageError(f"{url} holds no checkpoints/step-*.pt", "name a run or checkpoint files")
    return [url / key for key in keys]


class CheckpointPlaces:
    """Checkpoints by their places; a context manager. For a run at a URL there is a copy of its small files here.

    Rank 0 alone asks for more than whether one is there.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stack = ExitStack()
        self._copies: dict[Url, RemoteCopy | None] = {}
        self._unsent: set[Url] = set()  # runs whose store failed, which was told

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def copy(self, run: Url) -> RemoteCopy | None:
        """The copy of the run at a URL, with its small files as they were at first; None where there is no run."""
        if run not in self._copies:
            self._copies[run] = None
            if open_store(run).stat(sending.RECIPE) is not None:
                copy = self._copies[run] = self._stack.enter_context(remote_copy(run, self._console))
                copy.refresh()
        return self._copies[run]

    def exists(self, place: Place) -> bool:
        """Whether the checkpoint is there."""
        return place.exists() if isinstance(place, Path) else open_store(place).stat("") is not None

    def content(self, place: Place) -> str | None:
        """The `checkpoint_hash` of a checkpoint in a run, "" of another, None of one that is gone; of one at a URL no
        more is read than that takes.
        """
        if isinstance(place, Path):
            in_run = run_of(place) is not None
            return None if not place.exists() else checkpoint_hash(place) if in_run else ""
        store = open_store(place)
        stored = store.stat("")
        if stored is None:
            return None
        name = Path(place.name)
        with shown_as(name, place):
            return checkpoint_hash(name, io.BufferedReader(_RemoteFile(store, stored), _READ))

    def path(self, place: Place) -> Path:
        """Where a checkpoint lies in its run, or in that run's copy, whether it was fetched or not."""
        if isinstance(place, Path):
            return place
        copy = self.copy(place.parent.parent) if place.parent.name == FOLDER else None
        return copy.path / FOLDER / place.name if copy is not None else Path(place.name)

    def send(self, place: Place) -> None:
        """Send what was written into the copy of a checkpoint's run. Where that fails it is told, once, and tried again
        with the next.
        """
        if isinstance(place, Path):
            return
        run = place.parent.parent
        copy = self._copies.get(run)
        if copy is None:
            return
        try:
            copy.send()
            self._unsent.discard(run)
        except StorageError as error:
            if run not in self._unsent:
                self._unsent.add(run)
                self._console.warn(f"{error.what}: the figures are not recorded there; {error.hint}")


class _RemoteFile(io.RawIOBase):
    """A file in a store, of which is read what is asked for."""

    def __init__(self, store: Store, stored: Stored) -> None:
        self._store, self._stored, self._at = store, stored, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._stored.num_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._stored.num_bytes - self._at)
        if size <= 0:
            return 0
        buffer[:size] = self._store.read("", self._at, size, self._stored.etag)
        self._at += size
        return size
