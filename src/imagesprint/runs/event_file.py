"""TensorBoard's event files, written in the calling thread, so that a full disk is an error like any other.

torch's SummaryWriter writes in a thread that prints a traceback and leaves the program waiting.
"""

import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

from imagesprint.files import naming


class EventFile:
    """A new event file in `folder`. `purge_from`: TensorBoard forgets what older files have of this step and later."""

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        from tensorboard.compat.proto import event_pb2  # slow to import: only where something is written
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._proto = event_pb2
        with naming("write", folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._path = folder / _next_name(folder)
        with naming("write", self._path):
            self._file = self._path.open("xb")
        self._writer = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if purge_from is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=purge_from, session_log=start)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add a point to each of the tags. Raises FileError."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for tag, value in values.items():
            self._write(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
        with naming("write", self._path):
            self._file.flush()

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was an error then
            self._file.close()

    def _write(self, **fields: object) -> None:
        with naming("write", self._path):
            self._writer.write(self._proto.Event(wall_time=time.time(), **fields).SerializeToString())


def _next_name(folder: Path) -> str:
    """A name that sorts behind those there, as TensorBoard reads them in order; the clock may have been set back."""
    stamps = (re.fullmatch(r"events\.out\.tfevents\.(\d+)\..*", file.name) for file in folder.iterdir())
    newest = max((int(match[1]) for match in stamps if match), default=0)
    return f"events.out.tfevents.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}"
