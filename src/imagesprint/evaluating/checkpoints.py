"""`evaluate`: every checkpoint of a run, or named ones, on the validation split; those of a running training, too."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import torch

from imagesprint.checkpoints.naming import list_checkpoints
from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.evaluating.evaluator import EvaluatedCheckpoint, Evaluator
from imagesprint.evaluating.results import EvaluationRecorder
from imagesprint.evaluating.views import View
from imagesprint.images.decoders import describe_decoder
from imagesprint.records.dataset import open_root
from imagesprint.runs.directory import RunDirectory, is_locked
from imagesprint.runs.logs import DONE, last_command
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.runs.rows import Ended, EvaluationRow
from imagesprint.storage.url import Place

FINISHED: Final = "finished"
GRACE_SECONDS: Final = 60.0  # for a training that was stopped to be begun again, by a queue or by hand
POLL_SECONDS = 1.0  # between two looks at a run that is being watched


def find_checkpoints(paths: Sequence[Path]) -> list[Path]:
    """The checkpoint files that `paths`, run directories and checkpoint files, stand for, in order, each once.

    Raises UsageError for a path that is neither.
    """
    found: list[Path] = []
    for path in paths:
        files = list_checkpoints(path) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path} holds no checkpoints/step-*.pt", "name a run directory or checkpoint files")
        if not files[0].is_file():
            raise UsageError(f"there is no run or checkpoint {path}", "name a run directory or checkpoint files")
        found += files
    return list(dict.fromkeys(found))


def evaluate_checkpoints(
    paths: Sequence[Path], data: Place, views: tuple[View, ...], device: str, console: Console
) -> list[EvaluatedCheckpoint]:
    """Judge the checkpoint files `paths` in order, by `views`, the plain one first, on the validation split of `data`.

    A checkpoint inside a run directory also gets its row in that run's evaluations.jsonl, and its points in
    TensorBoard, unless the same is there already; its results are kept in RUN/evaluated. Returns them on rank 0, and
    nothing on the others.
    """
    with _evaluation(data, views, device, console) as evaluation:
        return evaluation.judge(paths)


def watch_runs(
    runs: Sequence[Path], data: Place, views: tuple[View, ...], device: str, console: Console
) -> list[EvaluatedCheckpoint]:
    """As `evaluate_checkpoints`, for all checkpoints of `runs` that are there or come, until no run goes on.

    Only files are looked at: the training may be on another machine. One that ended before it was finished is warned
    of; one that was killed is waited for, unless it was on this machine. Raises UsageError for what is no run.
    """
    for run in runs:
        if not RunDirectory(run).recipe_file.exists():
            raise UsageError(f"--watch: {run} holds no run", "name the --output of a training that has begun")
    with _evaluation(data, views, device, console) as evaluation:
        return evaluation.watch([WatchedRun(RunDirectory(run)) for run in runs])


@contextmanager
def _evaluation(data: Place, views: tuple[View, ...], device: str, console: Console) -> "Iterator[_Evaluation]":
    root = open_root(data)
    with open_ranks(device) as ranks, ExitStack() as stack:
        console = console if ranks.is_main else Console.silent()
        console.line(f"decoder     {describe_decoder()}")
        evaluator = Evaluator(root, views, ranks, console)
        yield _Evaluation(evaluator, EvaluationRecorder(stack, console), ranks, console)
        if fallbacks := evaluator.fallbacks:
            console.line(f"decoder     {fallbacks:,} images were of a kind that is left to Pillow")


class _Evaluation:
    """One command's work."""

    def __init__(self, evaluator: Evaluator, recorder: EvaluationRecorder, ranks: Ranks, console: Console) -> None:
        self._evaluator, self._recorder, self._ranks, self._console = evaluator, recorder, ranks, console

    def judge(self, paths: Sequence[Path], tell: bool = False) -> list[EvaluatedCheckpoint]:
        """Judge and record; with `tell`, show a line a checkpoint."""
        if self._ranks.is_main:
            self._recorder.look(paths)
        evaluated = []
        for one in self._evaluator.judge(paths):
            path, figures = Path(one.path), (one.num_images, one.top1, one.top5, one.loss)
            row = EvaluationRow(one.step, one.epoch, *figures, f"checkpoints/{path.name}", one.precision)
            self._recorder.record(path, row)
            if tell:
                self._console.line(f"evaluated   {one.path}: epoch {one.epoch:g}, top-1 {one.top1:.2f}%")
            evaluated.append(one)
        return evaluated

    def watch(self, runs: "Sequence[WatchedRun]") -> list[EvaluatedCheckpoint]:
        """Judge what comes until no run goes on; in the end all, in the order of `find_checkpoints`."""
        done: dict[Path, tuple[float, EvaluatedCheckpoint]] = {}
        while True:
            ends = [run.end() for run in runs]  # asked first: the last checkpoint comes before it
            times = _written(runs)
            new = [path for path in times if path not in done or done[path][0] != times[path]]
            paths = self._agreed(new)
            done |= {Path(one.path): (times[Path(one.path)], one) for one in self.judge(paths, tell=True)}
            if self._ranks.total(self._ranks.is_main and all(ends) and not paths):
                for run, end in zip(runs, ends, strict=True):
                    if end != FINISHED:
                        self._console.warn(f"{run.run.path} is not finished: {end}; watch it again once it goes on")
                return [one for _, one in done.values()]
            if not paths:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(max(run.last_sign() for run in runs)))
                self._console.live(f"waiting for a checkpoint; {len(done)} judged", f"nothing new since {since}")
                time.sleep(POLL_SECONDS)

    def _agreed(self, paths: Sequence[Path]) -> list[Path]:
        """What rank 0 has for `paths`, on every rank."""
        text = b"\0".join(map(os.fsencode, paths)) if self._ranks.is_main else b""
        codes = torch.zeros(self._ranks.total(len(text)), dtype=torch.int64, device=self._ranks.device)
        if not len(codes):
            return []
        codes[: len(text)] = torch.tensor(list(text))
        self._ranks.sum(codes)
        return [Path(os.fsdecode(part)) for part in bytes(self._ranks.read(codes)).split(b"\0")]


class WatchedRun:
    """A run that `train` writes meanwhile; only its files are looked at."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._last = last_command(run)
        self._since = time.monotonic()

    def end(self) -> str | None:
        """How the training ended: FINISHED, or the words for what came instead a while ago; None while it may go on.

        A killed one could not write that down; its own machine alone sees it, by the lock.
        """
        if self.run.result_file.exists():
            return FINISHED
        last = last_command(self.run)
        if last != self._last:
            self._last, self._since = last, time.monotonic()
        if last is None or time.monotonic() - self._since < GRACE_SECONDS or is_locked(self.run.path):
            return None
        if isinstance(last, Ended):
            reason = "as it was told to" if last.reason == DONE else last.reason
            return f"its training ended after step {last.step} ({reason})"
        return f"process {last.process}, its training, was killed" if last.host == socket.gethostname() else None

    def last_sign(self) -> float:
        """When the training last wrote to its logs, in seconds since 1970 by the clock of their disk."""
        files = (self.run.recipe_file, self.run.commands_file, self.run.metrics_file)
        return max(file.stat().st_mtime for file in files if file.exists())


def _written(runs: Sequence[WatchedRun]) -> dict[Path, float]:
    """The checkpoints of `runs` and when each was written: a run that was interrupted may write one again."""
    times = {}
    for path in (path for run in runs for path in run.run.checkpoints()):
        with suppress(FileNotFoundError):  # `train` may delete old ones
            times[path] = path.stat().st_mtime
    return times
