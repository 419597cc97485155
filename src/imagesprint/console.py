"""What a person sees while work goes on: plain lines, warnings and one living line, all on stderr.

It stands on the lowest floor because preparing, training and evaluating all show progress; it is handed
to them, so that nothing prints behind a caller's back. Standard output stays free for results.
Whatever text leaves for people, here, in `cli` and in the report, goes through `printable` first.
"""

import io
import os
import re
import shutil
import sys
import time
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import TextIO

PLAIN_INTERVAL = 10.0  # seconds between progress lines where the output is no terminal
LIVE_INTERVAL = 0.1  # seconds between redraws of the living line on a terminal

# What a terminal, a log or a page could take for something else than text: controls, also those of eight bits; line
# and paragraph separators; what turns the direction of the text around it; halves of a character, as file names have
# them that are no UTF-8.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` on one line, as a person may be shown it: what could act instead of being read stands as an escape."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The same of a text of ours that has several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def width(text: str) -> int:
    """The columns that printable `text` takes on a terminal: East Asian wide characters and emoji take two."""
    if text.isascii():
        return len(text)
    return sum(map(_char_width, text))


def _char_width(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):  # drawn over the one before, or not at all
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def duration(seconds: float) -> str:
    """Seconds as people write them: 42 s, 3:07 min, 1:02:03 h."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{minutes}:{rest:02d} min" if hours == 0 else f"{hours}:{minutes:02d}:{rest:02d} h"


def size(num_bytes: float) -> str:
    """Bytes as people write them: 1.20 GB, 3.4 MB."""
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def write_result(text: str) -> None:
    """Write `text` to standard output, at once. An OSError says that it was there; what follows it goes nowhere."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        mute(sys.stdout)
        raise OSError(error.errno, error.strerror, "standard output") from error


def mute(stream: TextIO) -> None:
    """Have all that is written to `stream` go nowhere, also what Python flushes at exit: who read it is gone."""
    with suppress(OSError):
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


class Console:
    """Writes messages for a person to `stream`; `quiet` keeps only warnings.

    Where nobody reads `stream` any more, a closed terminal or pipe, nothing is shown and the work goes on.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._is_terminal = self._stream.isatty()
        self._living = False  # the living line stands there
        self._next_live = 0.0
        self._log: TextIO | None = None
        self._names: dict[str, str] = {}
        self.warnings: list[str] = []  # all that were given so far

    @classmethod
    def silent(cls) -> "Console":
        """A console that says nothing at all: for the ranks that are not the main one."""
        return cls(io.StringIO(), quiet=True)

    def show_as(self, path: Path, name: object) -> None:
        """From now on, show `name` in place of `path`, which is a copy of it on this machine."""
        self._names[str(path)] = str(name)

    def log_to(self, path: Path) -> None:
        """From now on, append every line and warning (not the living line) to the file at `path`."""
        self.close()
        self._log = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """End the living line and close the log file, if any."""
        self._write("")
        if self._log is not None:
            log, self._log = self._log, None
            try:
                log.close()
            except OSError as error:
                self._write(f"warning: {log.name} cannot be written: {error.strerror}")

    def line(self, text: str = "") -> None:
        """Show one finished line."""
        text = self._shown(text)
        self._record(text)
        if not self._quiet:
            self._write(f"{text}\n")

    def warn(self, text: str) -> None:
        """Show a warning, even when quiet."""
        text = self._shown(text)
        self.warnings.append(text)
        self._record(f"warning: {text}")
        self._write(f"warning: {text}\n")

    def note(self, text: str) -> None:
        """Write to the log file alone; `text` may have several lines."""
        self._record("\n".join(map(self._shown, text.split("\n"))))

    def live(self, text: str, *more: str, short: str = "", last: bool = False) -> None:
        """Show progress: redrawn in place on a terminal, a plain line now and then elsewhere.

        A terminal shows `text`, or `short` where that is too wide for it, and of `more` the first that fit behind;
        elsewhere all is shown but `short`. `last` shows it whatever the time since the one before, whole, and leaves
        it standing.
        """
        now = time.monotonic()
        if self._quiet or (now < self._next_live and not last):
            return
        self._next_live = now + (LIVE_INTERVAL if self._is_terminal else PLAIN_INTERVAL)
        if not self._is_terminal or last:
            self._write(f"{self._shown('  '.join([text, *more]))}\n")
            return
        self._write(_fitted(self._columns() - 1, *map(self._shown, (text, short, *more))), living=True)

    def _shown(self, text: str) -> str:
        for path, name in self._names.items():
            text = text.replace(path, name)
        return printable(text)

    def _columns(self) -> int:
        """The columns of the terminal: what COLUMNS says, else the terminal itself, else 80."""
        own = 0
        with suppress(OSError):
            own = os.get_terminal_size(self._stream.fileno()).columns
        return shutil.get_terminal_size((own or 80, 24)).columns

    def _write(self, text: str, living: bool = False) -> None:
        erase = "\r\x1b[2K" if self._living or living else ""
        self._living = living
        try:
            self._stream.write(erase + text)
            self._stream.flush()
        except OSError:
            mute(self._stream)

    def _record(self, text: str) -> None:
        if self._log is None:
            return
        try:
            self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}\n")
            self._log.flush()
        except OSError as error:  # the work itself says what a full disk means for it
            log, self._log = self._log, None
            self.warn(f"{log.name} cannot be written: {error.strerror}")
            with suppress(OSError):  # it tries to write what is left
                log.close()


def _fitted(columns: int, text: str, short: str, *more: str) -> str:
    line = text if width(text) <= columns else short or text
    for part in more:
        longer = f"{line}  {part}"
        if width(longer) > columns:
            break
        line = longer
    while width(line) > columns:
        line = line[:-1]
    return line


class Progress:
    """Shows images done of all, images/s of this run and the time that is left."""

    def __init__(self, console: Console, doing: str) -> None:
        self._console, self._doing = console, doing
        self._total = self._done = self._new = 0
        self._begun = time.monotonic()
        self.images_per_second = 0.0

    def begin(self, total: int, done: int) -> None:
        """Begin with `done` of `total` images already there; 0 where the number of all is not known yet."""
        self._total, self._done = total, done
        self._begun = time.monotonic()
        if done:
            self._console.line(f"going on: {done:,} of {total:,} images are in finished shards")

    def expect(self, total: int) -> None:
        """Take `total` for the number of all images: it was not known, or only about, before."""
        self._total = total

    def add(self, images: int) -> None:
        """Count `images` more and show the line."""
        self._new += images
        self._show()

    def end(self) -> None:
        """Show the last state for good."""
        if self._new:
            self._show(last=True)

    def _show(self, last: bool = False) -> None:
        seconds = time.monotonic() - self._begun
        self.images_per_second = self._new / max(seconds, 1e-9)
        done, rate = self._done + self._new, f"{self.images_per_second:,.0f} images/s"
        if not self._total:
            self._console.live(f"{self._doing}  {done:,} images", rate, last=last)
            return
        share, left = done / self._total, duration((self._total - done) / max(self.images_per_second, 1e-9))
        self._console.live(
            f"{self._doing}  {done:,}/{self._total:,} images  {share:.0%}  ETA {left}",
            rate,
            short=f"{self._doing}  {share:.0%}  ETA {left}",
            last=last,
        )
