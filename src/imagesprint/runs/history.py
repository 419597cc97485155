"""What became of each `train` command of a run: what result.json tells of interruptions.

A command appends a row when it begins and one when it ends. Where the second is missing, it was killed.
"""

import itertools
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from imagesprint.files import append_row
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.rows import Began, Command, Ended, Interruption

DONE: Final = "done"  # the reason of an end that was asked for: the recipe, or --stop-after


class History:
    """The file commands.jsonl of one run; written by rank 0 alone, under the lock."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run

    def begin(self, step: int, ranks: int) -> None:
        """Note that a command goes on from `step` on so many `ranks`."""
        self._append(Began(_now(), step, ranks, os.getpid(), socket.gethostname()))

    def end(self, step: int, reason: str) -> None:
        """Note that it ends at `step`; `reason` is DONE, a signal's name or an error. A full disk may prevent that."""
        with suppress(OSError):
            self._append(Ended(_now(), step, reason))

    def _append(self, row: Command) -> None:
        append_row(self._run.commands_file, asdict(row))

    def last(self) -> Command | None:
        """The newest row; None before any."""
        return next(reversed(self._run.commands()), None)

    def interruptions(self) -> tuple[Interruption, ...]:
        """Those so far, oldest first."""
        found: list[Interruption] = []
        for row, following in itertools.pairwise(self._run.commands()):
            if isinstance(row, Began) and isinstance(following, Began):
                found.append(Interruption("killed", following.step))
            elif isinstance(row, Ended) and row.reason != DONE:
                found.append(Interruption(row.reason, following.step, row.ended))
        return tuple(found)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")
