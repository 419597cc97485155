"""What a person sees while work goes on: plain lines, warnings and one living line, all on stderr.

It stands on the lowest floor because preparing, training and evaluating all show progress; it is handed
to them, so that nothing prints behind a caller's back. Standard output stays free for results.
"""

import io
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

PLAIN_INTERVAL = 10.0  # seconds between progress lines where the output is no terminal
LIVE_INTERVAL = 0.1  # seconds between redraws of the living line on a terminal


def duration(seconds: float) -> str:
    """Seconds as people write them: 42 s, 3:07 min, 1:02:03 h."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{minutes}:{rest:02d} min" if hours == 0 else f"{hours}:{minutes:02d}:{rest:02d} h"


class Console:
    """Writes messages for a person to `stream`; `quiet` keeps only warnings."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._is_terminal = self._stream.isatty()
        self._live_text = ""
        self._next_live = 0.0
        self._log: TextIO | None = None

    @classmethod
    def silent(cls) -> "Console":
        """A console that says nothing at all: for the ranks that are not the main one."""
        return cls(io.StringIO(), quiet=True)

    def log_to(self, path: Path) -> None:
        """From now on, append every line and warning (not the living line) to the file at `path`."""
        self.close()
        self._log = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """End the living line and close the log file, if any."""
        self._erase()
        if self._log is not None:
            log, self._log = self._log, None
            try:
                log.close()
            except OSError as error:
                self._write(f"warning: {log.name} cannot be written: {error.strerror}")

    def line(self, text: str = "") -> None:
        """Show one finished line."""
        self._record(text)
        if not self._quiet:
            self._write(text)

    def warn(self, text: str) -> None:
        """Show a warning, even when quiet."""
        self._record(f"warning: {text}")
        self._write(f"warning: {text}")

    def note(self, text: str) -> None:
        """Write to the log file alone."""
        self._record(text)

    def live(self, text: str, last: bool = False) -> None:
        """Show progress: redrawn in place on a terminal, a plain line now and then elsewhere.

        `last` shows the text whatever the time since the one before, and leaves it standing.
        """
        now = time.monotonic()
        if self._quiet or (now < self._next_live and not last):
            return
        self._next_live = now + (LIVE_INTERVAL if self._is_terminal else PLAIN_INTERVAL)
        if not self._is_terminal or last:
            self._write(text)
            return
        width = shutil.get_terminal_size().columns - 1
        self._live_text = text[:width]
        self._stream.write("\r\x1b[2K" + self._live_text)
        self._stream.flush()

    def _erase(self) -> None:
        if self._live_text:
            self._stream.write("\r\x1b[2K")
            self._live_text = ""

    def _write(self, text: str) -> None:
        self._erase()
        self._stream.write(text + "\n")
        self._stream.flush()

    def _record(self, text: str) -> None:
        if self._log is None:
            return
        try:
            self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
            self._log.flush()
        except OSError as error:  # the work itself says what a full disk means for it
            log, self._log = self._log, None
            self._write(f"warning: {log.name} cannot be written: {error.strerror}")
            with suppress(OSError):  # it tries to write what is left
                log.close()
