"""`track`: a run's rows, each sent once, while it is trained or afterwards, from its folder or its URL.

What the tracker has is asked of the tracker, so there is no state beside it that could say something else after a kill:
what is not there is sent. A row that a resumed training wrote again is there already, and is not sent twice.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imagesprint.console import Console
from imagesprint.errors import TrackerError
from imagesprint.files import naming
from imagesprint.runs import sending
from imagesprint.runs.directory import RunDirectory, hold_lock
from imagesprint.runs.local_run import RemoteCopy, remote_copy
from imagesprint.runs.watching import WatchedRun, WatchedUrl
from imagesprint.storage.cache import cache_folder
from imagesprint.storage.url import Place, Url
from imagesprint.tracking.points import (
    SMALL_FILES,
    Key,
    Point,
    RunIdentity,
    best,
    group_of,
    identify,
    outcome,
    points,
    settings,
)
from imagesprint.tracking.tracker import Tracker, open_tracker

_PAUSE: Final = 20  # times as long as a look at the run took: of a long one, much is read and sent,
_LONGEST_PAUSE: Final = 30.0  # but no longer than so many seconds


@dataclass(frozen=True)
class Tracked:
    """What `track` did: `rows` were sent by this command to the run that people find at `where`; `run_is` how the
    training stands.
    """

    run: str
    tracker: str
    where: str
    rows: int
    run_is: str


def track(place: Place, kind: str, follow: bool, console: Console) -> Tracked:
    """Send what the run at `place` has logged, and with `follow` what it logs until it ends, to the tracker `kind`.

    Nothing is written to the run. Raises UsageError for what is no run or is being sent there by another process,
    RunError for damaged rows, StorageError, and TrackerError; one in the middle of following is waited for.
    """
    with ExitStack() as stack:
        watched, copy = stack.enter_context(_watched(place, console))
        run = identify(watched.run, place)
        stack.enter_context(alone(run, kind))
        tracker = open_tracker(kind, run, settings(watched.run))
        console.line(f"tracker     {tracker.where}")
        sender = Sender(tracker, watched.run)
        if follow:
            keep_sending(watched, sender, console)
        else:
            sender.send_new()
        stands = outcome(watched.run)
        tracker.finish(stands, best(watched.run, place), _small_files(watched.run, copy))
        return Tracked(str(place), kind, tracker.where, sender.rows, stands)


class Sender:
    """Sends the rows of `run` that `tracker` lacks."""

    def __init__(self, tracker: Tracker, run: RunDirectory) -> None:
        self._tracker, self._run = tracker, run
        self._sent: set[Key] | None = None  # unknown: it is asked before more is sent
        self._stamps: tuple[tuple[int, int], ...] = ()
        self._tried: set[tuple[int, str]] = set()  # rows by step and group

    @property
    def rows(self) -> int:
        """How many this one sent; a row counts once, also where the tracker took it and could not say so."""
        return len(self._tried)

    def send_new(self) -> int:
        """Send what is new since the last call; returns how many rows. After an error the tracker is asked again."""
        stamps = tuple(_stamp(file) for file in (self._run.metrics_file, self._run.evaluations_file))
        if stamps == self._stamps and self._sent is not None:
            return 0
        if self._sent is None:
            self._sent = self._tracker.sent()
        new = list(self._new(self._sent))
        sent, self._sent = self._sent, None
        if new:
            self._tried |= {(point.step, group_of(point)) for point in new}
            self._tracker.send(new)
        self._sent, self._stamps = sent | {(name, point.step) for point in new for name in point.figures}, stamps
        return len(new)

    def _new(self, sent: set[Key]) -> Iterator[Point]:
        for point in points(self._run):
            figures = {name: value for name, value in point.figures.items() if (name, point.step) not in sent}
            if figures:
                yield Point(point.step, point.time, figures)


def keep_sending(watched: WatchedRun, sender: Sender, console: Console) -> None:
    """Send until no training goes on. A tracker that fails meanwhile is told of once and asked again."""
    failed = False
    while True:
        began, end = time.monotonic(), watched.end()  # asked first: the last rows come before it
        new = 0
        try:
            new = sender.send_new()
            failed = False
        except TrackerError as error:
            if not failed:
                console.warn(f"{error.what}: it is asked again; {error.hint}")
            failed = True
        console.live(f"following   {sender.rows} rows sent", "waiting for the tracker" if failed else "")
        if end is not None and not new and not failed:
            return
        time.sleep(max(watched.poll_seconds, min(_LONGEST_PAUSE, _PAUSE * (time.monotonic() - began))))


@contextmanager
def _watched(place: Place, console: Console) -> "Iterator[tuple[WatchedRun, RemoteCopy | None]]":
    """The run at `place`, for a URL by a copy of its small files. Raises UsageError where there is none."""
    if not isinstance(place, Url):
        yield WatchedRun(RunDirectory(place)), None
        return
    with remote_copy(place, console) as copy:
        copy.refresh()
        yield WatchedUrl(RunDirectory(copy.path), copy, console), copy


@contextmanager
def alone(run: RunIdentity, kind: str) -> Iterator[None]:
    """Keep a second process of this machine from sending the same rows to the same tracker. Raises UsageError."""
    folder = cache_folder() / "tracked"
    with naming("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, what = folder / f"{kind}-{run.id}.lock", f"the tracking of {run.place} to {kind}"
    with hold_lock(lock, what, "wait for it or stop it: what it sent is not sent again"):
        yield


def _small_files(run: RunDirectory, copy: RemoteCopy | None) -> list[Path]:
    if copy is not None:
        sending.download(copy.store, SMALL_FILES, copy.path)
    return [file for name in SMALL_FILES if (file := run.path / name).exists()]


def _stamp(file: Path) -> tuple[int, int]:
    if not file.exists():
        return 0, 0
    found = file.stat()
    return found.st_size, found.st_mtime_ns
