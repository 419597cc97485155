"""TensorBoard's event files, written in the calling thread, so that a full disk is an error like any other.

torch's SummaryWriter writes in a thread that prints a traceback and leaves the program waiting.
"""

import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from imagesprint.errors import FileError, RecordError
from imagesprint.files import naming, remove
from imagesprint.records.tfrecord import iter_records

Point = tuple[int, float, float]  # step, seconds since 1970, value


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

    def scalars(self, values: Mapping[str, float], step: int, at: float | None = None) -> None:
        """Add a point to each of the tags, of the time `at` or now. Raises FileError."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for tag, value in values.items():
            self._write(step=step, at=at, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
        with naming("write", self._path):
            self._file.flush()

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was an error then
            self._file.close()

    def _write(self, at: float | None = None, **fields: object) -> None:
        seconds = time.time() if at is None else at
        with naming("write", self._path):
            self._writer.write(self._proto.Event(wall_time=seconds, **fields).SerializeToString())


def read_scalars(folder: Path) -> dict[str, list[Point]]:
    """The points of each tag as TensorBoard has them from the files in `folder`: of each up to its first damage.

    Raises FileError for a file that cannot be read.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    found: dict[str, list[Point]] = {}
    for file in _event_files(folder):
        for payload in _sound_records(file):
            try:
                event = Event.FromString(payload)
            except DecodeError:
                break
            if event.session_log.status == SessionLog.START:
                found = {tag: [point for point in points if point[0] < event.step] for tag, points in found.items()}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, event.wall_time, value.simple_value))
    return found


def _sound_records(file: Path) -> Iterator[bytes]:
    try:
        for _, payload in iter_records(file):
            yield payload
    except RecordError as error:
        if isinstance(error.__cause__, OSError):  # no damage: what could not be read now must not be written anew
            raise FileError.of("read", file, error.__cause__) from error


def damage_of(file: Path) -> str:
    """What is damaged in an event file, in words that name it; empty where nothing is."""
    try:
        for _ in iter_records(file):
            pass
    except RecordError as error:
        return error.what.removeprefix("shard ")
    return ""


def mend(folder: Path, rows: Sequence[tuple[int, Mapping[str, float]]], step: int) -> bool:
    """Have the files in `folder` show the points of `rows`, each once, up to `step`; whether they did not.

    They are one file then. Points of other tags stay, and so does the time of those that were there.
    """
    found = {tag: [point for point in points if point[0] <= step] for tag, points in read_scalars(folder).items()}
    wanted: dict[str, list[int]] = {}
    for at, values in rows:
        for tag in values:
            wanted.setdefault(tag, []).append(at)
    if all([point[0] for point in found.get(tag, ())] == steps for tag, steps in wanted.items()):
        return False
    times = {at: seconds for points in found.values() for at, seconds, _ in points}
    others = [(at, {tag: value}) for tag, points in found.items() if tag not in wanted for at, _, value in points]
    former = list(_event_files(folder))
    file, seconds = EventFile(folder), min(times.values(), default=time.time())
    for at, values in sorted([*rows, *others], key=lambda row: row[0]):
        seconds = times.get(at, seconds)
        file.scalars(values, at, seconds)
    file.close()
    for path in former:
        remove(path)
    return True


def _event_files(folder: Path) -> Iterable[Path]:
    """In the order in which TensorBoard reads them."""
    return sorted(file for file in folder.glob("*tfevents*") if file.is_file())


def _next_name(folder: Path) -> str:
    """A name that sorts behind those there, as TensorBoard reads them in order; the clock may have been set back."""
    stamps = (re.fullmatch(r"events\.out\.tfevents\.(\d+)\..*", file.name) for file in folder.iterdir())
    newest = max((int(match[1]) for match in stamps if match), default=0)
    return f"events.out.tfevents.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}"
