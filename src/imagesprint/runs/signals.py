"""The signals by which a run is asked to stop: noted when they come, acted on between two steps."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Final, Self

from imagesprint.runs.environment import is_launched

# SIGUSR1 is what SLURM can send ahead of its limit, SIGHUP what comes when the terminal or the connection closes.
STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# A scheduler may signal every process of a job, and a parent pass the same on: one request, not two.
_REPEAT_SECONDS = 1.0


def heeded() -> tuple[signal.Signals, ...]:
    """Those of STOPPING that stop this process: not SIGHUP where `nohup` has it ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in STOPPING if number != signal.SIGHUP or not ignored)


def exit_code(number: int) -> int:
    """The exit code of a command that ended because of signal `number`: 130 for Ctrl-C, 143 for the others."""
    return 128 + (signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)


class StopSignals:
    """While entered, `number` is that of the first of STOPPING that came, 0 before. A second one ends the process.

    `noted_at` is when it came, by time.monotonic. SIGHUP is nobody's second word: shell, kernel and systemd may each
    send it when a terminal closes, so it ends nothing at once, and the one after it counts as the first.

    In a rank of `--processes` every further one is the first again: the launcher ends its ranks where it is told
    twice. Outside of the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.number = 0
        self.noted_at = 0.0

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._previous = {number: signal.signal(number, self._note) for number in heeded() if in_main_thread}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number or (self.number == signal.SIGHUP and number != signal.SIGHUP):
            self.number, self.noted_at = number, now
        elif number != signal.SIGHUP and not is_launched() and now - self.noted_at > _REPEAT_SECONDS:
            os._exit(exit_code(number))
