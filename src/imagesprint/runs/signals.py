"""The signals by which a run is asked to stop: noted when they come, acted on between two steps."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Final, Self

from imagesprint.runs.environment import is_launched

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is what SLURM can send ahead of its limit
# A scheduler may signal every process of a job, and a parent pass the same on: one request, not two.
_REPEAT_SECONDS = 1.0


def exit_code(number: int) -> int:
    """The exit code of a command that ended because of signal `number`: 130 for Ctrl-C, 143 for the others."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


class StopSignals:
    """While entered, `number` is that of the first of STOPPING that came, 0 before. A second one ends the process.

    `noted_at` is when it came, by time.monotonic.

    In a rank of `--processes` every further one is the first again: the launcher ends its ranks where it is told
    twice. Outside of the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.number = 0
        self.noted_at = 0.0

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._note) for number in STOPPING if in_main_thread}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self.noted_at = number, now
        elif not is_launched() and now - self.noted_at > _REPEAT_SECONDS:
            os._exit(exit_code(number))
