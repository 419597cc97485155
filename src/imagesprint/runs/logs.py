"""The logs of a run: its rows, TensorBoard and log.txt, gap-free over resumes.

torch's SummaryWriter writes in a thread that prints a traceback and leaves the program waiting.

A command appends a row when it begins and one when it ends. Where the second is missing, it was killed.
"""

import faulthandler
import itertools
import os
import re
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from imagesprint.console import Console
from imagesprint.errors import FileError, ImagesprintError, RecordError
from imagesprint.files import append_row, is_cut, naming, remove
from imagesprint.records.tfrecord import iter_records
from imagesprint.runs.directory import RunDirectory, is_mark
from imagesprint.runs.rows import Began, Command, Ended, EvaluationRow, Interruption, MetricsRow
from imagesprint.storage.url import Place

if TYPE_CHECKING:
    from imagesprint.runs.ranks import Ranks

DONE: Final = "done"  # the reason of an end that was asked for: the recipe, or --stop-after


class History:
    """Writes commands.jsonl of one run, for rank 0 alone, under the lock; with what `console` warns of from now on."""

    def __init__(self, run: RunDirectory, console: Console) -> None:
        self._run, self._warnings = run, console.warnings
        self._told = len(console.warnings)

    def begin(self, step: int, ranks: "Ranks", decoder: str, data: Place) -> None:
        """Note that a command goes on from `step` on `ranks` and `data`; `decoder` is as `describe_decoder` says it."""
        root = str(data.absolute() if isinstance(data, Path) else data)
        here = (ranks.world_size, os.getpid(), socket.gethostname(), ranks.device_name, ranks.threads)
        self._append(Began(_now(), step, *here, decoder, self._new_warnings(), root))

    def end(self, step: int, reason: str) -> None:
        """Note that it ends at `step`; `reason` is DONE, a signal's name or an error. A full disk may prevent that."""
        with suppress(OSError):
            self._append(Ended(_now(), step, reason, self._new_warnings()))

    def _append(self, row: Command) -> None:
        append_row(self._run.commands_file, asdict(row))

    def _new_warnings(self) -> tuple[str, ...]:
        """Those since the last call, each once."""
        new, self._told = self._warnings[self._told :], len(self._warnings)
        return tuple(dict.fromkeys(new))


def last_command(run: RunDirectory) -> Command | None:
    """The newest row of commands.jsonl; None before any."""
    return next(reversed(run.commands()), None)


def interruptions(commands: Sequence[Command]) -> tuple[Interruption, ...]:
    """Those that the rows of commands.jsonl tell of, oldest first."""
    found: list[Interruption] = []
    for row, following in itertools.pairwise(commands):
        if isinstance(row, Began) and isinstance(following, Began):
            found.append(Interruption("killed", following.step))
        elif isinstance(row, Ended) and row.reason != DONE:
            found.append(Interruption(row.reason, following.step, row.ended))
    return tuple(found)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


# TensorBoard's names for the keys of a row of metrics.jsonl, and of evaluations.jsonl.
METRIC_TAGS = {
    "loss": "loss/total",
    "cross_entropy": "loss/cross_entropy",
    "l2": "loss/l2",
    "top1": "train/top1",
    "top5": "train/top5",
    "lr": "learning_rate",
    "batch_size": "batch_size",
    "image_size": "image_size",
    "images_per_second": "images_per_second",
    "data_wait": "data_wait",
}
EVALUATION_TAGS = {
    "top1": "eval/top1",
    "top5": "eval/top5",
    "mean_class_accuracy": "eval/mean_class_accuracy",
    "loss": "eval/loss",
}
EVALUATOR: Final = "evaluate"  # the folder below tensorboard/ of those that are not training


class RunLogs:
    """Appends rows to the run's files and to TensorBoard files of its own in `folder`; a context manager.

    Training writes into the run's tensorboard/ itself, any other evaluator into a folder below it: TensorBoard
    follows only the newest file of a folder. Resuming at step `purge_after` makes it forget what it was told of
    later steps.
    """

    def __init__(self, run: RunDirectory, folder: str = "", purge_after: int | None = None) -> None:
        self._run = run
        self._events = EventFile(run.tensorboard / folder, None if purge_after is None else purge_after + 1)

    def __enter__(self) -> "RunLogs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._events.close()

    def metrics(self, row: MetricsRow) -> None:
        """Log what the steps up to `row.step` did."""
        append_row(self._run.metrics_file, asdict(row))
        self._events.scalars(_points(row), row.step)

    def evaluation(self, row: EvaluationRow) -> None:
        """Log one evaluated checkpoint."""
        append_row(self._run.evaluations_file, asdict(row))
        self._events.scalars(_points(row), row.step)


def _points(row: MetricsRow | EvaluationRow) -> dict[str, float]:
    tags = METRIC_TAGS if isinstance(row, MetricsRow) else EVALUATION_TAGS
    return {tag: value for key, tag in tags.items() if (value := getattr(row, key)) is not None}


def remarks(run: RunDirectory, until: int | None = None) -> list[str]:
    """What is wrong in the logs of `run` and yet no error, in words: lines cut short, steps without a row, damaged
    TensorBoard files. `until` is the step that rows must reach.

    Raises RunError where one of the rows is damaged otherwise, so that it is known before work is done.
    """
    run.evaluations()
    run.commands()
    files = (run.metrics_file, run.evaluations_file, run.commands_file)
    found = [f"{file}: its last line is cut short and is passed over" for file in files if is_cut(file)]
    rows = run.metrics()
    spans = [(row.before, row.step) for row in rows if until is None or row.step <= until]
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), ends[-1] if until is None else until]
    gaps = [(end, start) for end, start in zip(ends, starts, strict=True) if start > end]
    found += [f"{run.metrics_file} has no row for the steps {end + 1} to {start}" for end, start in gaps]
    damage = (damage_of(file) for file in _event_files(run.tensorboard, "**/"))
    return found + [f"{what}: TensorBoard shows nothing behind it" for what in damage if what]


def mend_tensorboard(run: RunDirectory, step: int) -> bool:
    """Write what training's TensorBoard files should show up to `step` anew where they do not; whether that was so.

    They were damaged or cut, or the command before was killed between a row and its points.
    """
    metrics = [row for row in run.metrics() if row.step <= step]
    shown = read_scalars(run.tensorboard)
    elsewhere = {at for at, _, _ in read_scalars(run.tensorboard / EVALUATOR).get(EVALUATION_TAGS["top1"], ())}
    own = {at for at, _, _ in shown.get(EVALUATION_TAGS["top1"], ())}
    evaluations = [row for row in run.evaluations() if row.step <= step]
    evaluations = [row for row in evaluations if row.step in own or row.step not in elsewhere]
    rows: list[MetricsRow | EvaluationRow] = [*metrics, *evaluations]
    return mend(run.tensorboard, [(row.step, _points(row)) for row in sorted(rows, key=lambda row: row.step)], step)


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


def _event_files(folder: Path, below: str = "") -> Iterable[Path]:
    """In the order in which TensorBoard reads them; with `**/` those in folders below, too."""
    return sorted(file for file in folder.glob(f"{below}*tfevents*") if file.is_file() and not is_mark(file))


def _next_name(folder: Path) -> str:
    """A name that sorts behind those there, as TensorBoard reads them in order; the clock may have been set back."""
    stamps = (re.fullmatch(r"events\.out\.tfevents\.(\d+)\..*", file.name) for file in folder.iterdir())
    newest = max((int(match[1]) for match in stamps if match), default=0)
    return f"events.out.tfevents.{max(int(time.time()), newest + 1):010d}.{socket.gethostname()}.{os.getpid()}"


@contextmanager
def run_log(path: Path, console: Console) -> Iterator[None]:
    """Have all that `console` shows, Python's warnings, and tracebacks of threads and crashes, written to `path`."""
    with naming("write", path):
        console.log_to(path)
        crashes = path.open("a")
    shown, uncaught = warnings.showwarning, threading.excepthook

    def warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        console.warn(f"{' '.join(str(message).split())} ({category.__name__}, {filename}:{lineno})")

    def thread_failed(args: threading.ExceptHookArgs) -> None:
        console.note("".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback)))
        uncaught(args)

    warnings.showwarning, threading.excepthook = warn, thread_failed
    try:
        faulthandler.enable(crashes)
        yield
    finally:
        faulthandler.disable()
        with suppress(OSError):  # what is written there goes past Python's buffers
            crashes.close()
        warnings.showwarning, threading.excepthook = shown, uncaught


@contextmanager
def failure_log(path: Path, rank: int) -> Iterator[None]:
    """Append to `path` what rank `rank` fails with, with its traceback, where there is a run and space for that."""
    try:
        yield
    except BaseException as error:
        if path.parent.is_dir():
            log = Console.silent()
            with suppress(OSError):
                log.log_to(path)
                log.note(f"rank {rank}: {_described(error)}\n{''.join(traceback.format_exception(error))}")
                log.close()
        raise


def _described(error: BaseException) -> str:
    if isinstance(error, ImagesprintError):
        return f"error: {error.what}\nhint: {error.hint}"
    return f"error: {type(error).__name__}: {error}"
