"""A run that is being trained while another command follows it: whether it goes on, by its files alone."""

import socket
import time
from contextlib import suppress
from typing import Final

from imagesprint.console import Console
from imagesprint.errors import StorageError
from imagesprint.runs.directory import RunDirectory, is_locked
from imagesprint.runs.local_run import RemoteCopy
from imagesprint.runs.logs import DONE, last_command
from imagesprint.runs.rows import Began, Ended
from imagesprint.storage.url import Place

FINISHED: Final = "finished"
GRACE_SECONDS: Final = 60.0  # for a training that was stopped to be begun again, by a queue or by hand
POLL_SECONDS: Final = 1.0  # between two looks at a run that is being watched,
URL_POLL_SECONDS: Final = 5.0  # and at one in a store, which costs some requests each


class WatchedRun:
    """A run that `train` writes meanwhile; only its files are looked at."""

    poll_seconds = POLL_SECONDS

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._last = last_command(run)
        self._since = time.monotonic()

    @property
    def place(self) -> Place:
        """Where it is, as it was named."""
        return self.run.path

    def end(self) -> str | None:
        """How the training ended: FINISHED, or the words for what came instead a while ago; None while it may go on.

        A killed one could not write that down; its own machine alone sees it, by the lock.
        """
        if self.run.result_file.exists():
            return FINISHED
        last = last_command(self.run)
        if last != self._last:
            self._last, self._since = last, time.monotonic()
        if last is None or time.monotonic() - self._since < GRACE_SECONDS or self.is_held():
            return None
        if isinstance(last, Ended):
            reason = "as it was told to" if last.reason == DONE else last.reason
            return f"its training ended after step {last.step} ({reason})"
        return f"process {last.process}, its training, was killed" if self.knows_holder(last) else None

    def is_held(self) -> bool:
        """Whether a training writes it now, as far as that can be seen."""
        return is_locked(self.run.path)

    def knows_holder(self, last: Began) -> bool:
        """Whether it can be seen from here that a training which began so is gone, once it holds the run no more."""
        return last.host == socket.gethostname()

    def written(self) -> dict[Place, float]:
        """Its checkpoints and when each was written: a run that was interrupted may write one again."""
        times: dict[Place, float] = {}
        for path in self.run.checkpoints():
            with suppress(FileNotFoundError):  # `train` may delete old ones
                times[path] = path.stat().st_mtime
        return times

    def last_sign(self) -> float:
        """When the training last wrote to its logs, in seconds since 1970 by the clock of their disk."""
        files = (self.run.recipe_file, self.run.commands_file, self.run.metrics_file)
        return max(file.stat().st_mtime for file in files if file.exists())


class WatchedUrl(WatchedRun):
    """One at a URL, whose copy is brought up to date at each look. A store that fails is waited for."""

    poll_seconds = URL_POLL_SECONDS

    def __init__(self, run: RunDirectory, copy: RemoteCopy, console: Console) -> None:
        super().__init__(run)
        self._copy, self._console = copy, console
        self._checkpoints: dict[Place, float] = {}
        self._has_failed = False

    @property
    def place(self) -> Place:
        return self._copy.url

    def end(self) -> str | None:
        try:
            self._checkpoints = {self._copy.url / stored.key: stored.modified for stored in self._copy.refresh()}
            end = super().end()
        except StorageError as error:
            if not self._has_failed:
                self._console.warn(f"{error.what}: it is asked again; {error.hint}")
            self._has_failed = True
            return None
        self._has_failed = False
        return end

    def is_held(self) -> bool:
        return self._copy.is_held()

    def knows_holder(self, last: Began) -> bool:  # noqa: ARG002 (the lease tells, wherever it was)
        return True

    def written(self) -> dict[Place, float]:
        return self._checkpoints

    def last_sign(self) -> float:
        return self._copy.last_sign()
