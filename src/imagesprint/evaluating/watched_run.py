"""A run watched from outside, perhaps from another machine: whether more of it is to be expected."""

import socket
import time
from typing import Final

from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.history import DONE, History
from imagesprint.runs.rows import Ended
from imagesprint.runs.run_lock import is_locked

FINISHED: Final = "finished"
GRACE_SECONDS: Final = 60.0  # for a training that was stopped to be begun again, by a queue or by hand


class WatchedRun:
    """A run that `train` writes meanwhile; only its files are looked at."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._history = History(run)
        self._last = self._history.last()
        self._since = time.monotonic()

    def end(self) -> str | None:
        """How the training ended: FINISHED, or the words for what came instead a while ago; None while it may go on.

        A killed one could not write that down; its own machine alone sees it, by the lock.
        """
        if self.run.result_file.exists():
            return FINISHED
        last = self._history.last()
        if last != self._last:
            self._last, self._since = last, time.monotonic()
        if last is None or time.monotonic() - self._since < GRACE_SECONDS or is_locked(self.run.path):
            return None
        if isinstance(last, Ended):
            reason = "as it was told to" if last.reason == DONE else last.reason
            return f"its training ended after step {last.step} ({reason})"
        return f"process {last.process}, its training, was killed" if last.host == socket.gethostname() else None

    def last_sign(self) -> float:
        """When the training last wrote to its logs, in seconds since 1970 by the clock of their disk."""
        files = (self.run.recipe_file, self.run.commands_file, self.run.metrics_file)
        return max(file.stat().st_mtime for file in files if file.exists())
