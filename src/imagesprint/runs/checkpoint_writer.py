"""Checkpoints that are written while training goes on."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imagesprint.runs.checkpoint import write_checkpoint
from imagesprint.runs.snapshot import Snapshot


@dataclass(frozen=True)
class Written:
    """A checkpoint at its place: `waited` is how long training waited for it, `seconds` how long writing took."""

    path: Path
    waited: float
    seconds: float


class CheckpointWriter:
    """Writes the checkpoints of `run` in a thread of its own, one at a time; the next one waits for it.

    `done` is called, in the thread that calls this object, for each one that is written. An error in writing is raised
    by the next call. Leaving the context waits for all that is under way.
    """

    def __init__(self, run: Path, snapshot: Snapshot, done: Callable[[Written], None]) -> None:
        self._run, self._snapshot, self._done = run, snapshot, done
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Written] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._thread.shutdown()

    def save(self, content: dict[str, Any]) -> None:
        """Begin to write `content` under its step; its tensors may change when this returns. Raises RunError."""
        begun = time.perf_counter()
        self.finish()
        copy, wait = self._snapshot.take(content)
        waited = time.perf_counter() - begun

        def write() -> Written:
            start = time.perf_counter()
            wait()
            path = write_checkpoint(self._run, copy)
            return Written(path, waited, time.perf_counter() - start)

        self._writing = self._thread.submit(write)

    def meanwhile(self, work: Callable[[], None]) -> None:
        """Have the same thread do `work`, which raises nothing, before it writes the next one."""
        self._thread.submit(work)

    def look(self) -> None:
        """Raise RunError at once where the one in flight has failed."""
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the one in flight, if any, is written. Raises RunError where that failed."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self._done(writing.result())
