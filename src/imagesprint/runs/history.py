"""What became of each `train` command of a run: what result.json tells of interruptions.

A command appends a row when it begins and one when it ends. Where the second is missing, it was killed.
"""

import itertools
import os
import socket
import time
from contextlib import suppress
from typing import Any, Final

from imagesprint.files import append_row, read_rows
from imagesprint.runs.directory import RunDirectory

DONE: Final = "done"  # the reason of an end that was asked for: the recipe, or --stop-after


class History:
    """The file commands.jsonl of one run; written by rank 0 alone, under the lock."""

    def __init__(self, run: RunDirectory) -> None:
        self._file = run.commands_file

    def begin(self, step: int, ranks: int) -> None:
        """Note that a command goes on from `step` on so many `ranks`."""
        row = {"began": _now(), "step": step, "ranks": ranks, "process": os.getpid(), "host": socket.gethostname()}
        append_row(self._file, row)

    def end(self, step: int, reason: str) -> None:
        """Note that it ends at `step`; `reason` is DONE, a signal's name or an error. A full disk may prevent that."""
        with suppress(OSError):
            append_row(self._file, {"ended": _now(), "step": step, "reason": reason})

    def last(self) -> dict[str, Any] | None:
        """The newest row: `began`, `step`, `process` and `host`, or `ended`, `step` and `reason`; None before any."""
        return next(reversed(read_rows(self._file)), None)

    def interruptions(self) -> list[dict[str, Any]]:
        """One object an interruption so far, oldest first: `reason`, and the `step` that the run went on from.

        `time` is when the command ended, None where it was killed and could not say.
        """
        found: list[dict[str, Any]] = []
        for row, following in itertools.pairwise(read_rows(self._file)):
            if "began" in row and "began" in following:
                found.append({"reason": "killed", "step": following["step"], "time": None})
            elif "ended" in row and row["reason"] != DONE:
                found.append({"reason": row["reason"], "step": following["step"], "time": row["ended"]})
        return found


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")
