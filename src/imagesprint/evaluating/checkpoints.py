"""`evaluate`: every checkpoint of a run, or named ones, on the validation split; those of a running training, too."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import torch

from imagesprint.console import Console
from imagesprint.errors import StorageError, UsageError
from imagesprint.evaluating.evaluator import EvaluatedCheckpoint, Evaluator
from imagesprint.evaluating.places import CheckpointPlaces
from imagesprint.evaluating.results import EvaluationRecorder
from imagesprint.evaluating.views import View
from imagesprint.images.decoders import describe_decoder
from imagesprint.records.dataset import open_root
from imagesprint.runs.directory import RunDirectory, is_locked
from imagesprint.runs.local_run import RemoteCopy
from imagesprint.runs.logs import DONE, last_command
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.runs.rows import Began, Ended, EvaluationRow
from imagesprint.storage.url import Place, Url, parse_place

FINISHED: Final = "finished"
GRACE_SECONDS: Final = 60.0  # for a training that was stopped to be begun again, by a queue or by hand
POLL_SECONDS = 1.0  # between two looks at a run that is being watched,
URL_POLL_SECONDS = 5.0  # and at one in a store, which costs some requests each


def evaluate_checkpoints(
    checkpoints: Sequence[Place], data: Place, views: tuple[View, ...], device: str, console: Console
) -> list[EvaluatedCheckpoint]:
    """Judge `checkpoints` in order, by `views`, the plain one first, on the validation split of `data`.

    A checkpoint inside a run also gets its row in that run's evaluations.jsonl, and its points in
    TensorBoard, unless the same is there already; its results are kept in RUN/evaluated. Returns them on rank 0, and
    nothing on the others.
    """
    with _evaluation(data, views, device, console) as evaluation:
        return evaluation.judge(checkpoints)


def watch_runs(
    runs: Sequence[Place], data: Place, views: tuple[View, ...], device: str, console: Console
) -> list[EvaluatedCheckpoint]:
    """As `evaluate_checkpoints`, for all checkpoints of `runs` that are there or come, until no run goes on.

    Only files are looked at: the training may be on another machine, the run at a URL. One that ended before it was
    finished is warned of; one that was killed is waited for, unless it was on this machine or its lease tells. Raises
    UsageError for what is no run.
    """
    with _evaluation(data, views, device, console) as evaluation:
        return evaluation.watch(runs)


@contextmanager
def _evaluation(data: Place, views: tuple[View, ...], device: str, console: Console) -> "Iterator[_Evaluation]":
    root = open_root(data)
    with open_ranks(device) as ranks, ExitStack() as stack:
        console = console if ranks.is_main else Console.silent()
        console.line(f"decoder     {describe_decoder()}")
        places = stack.enter_context(CheckpointPlaces(console))
        evaluator = Evaluator(root, views, ranks, console, places)
        yield _Evaluation(evaluator, places, EvaluationRecorder(stack, console), ranks, console)
        if fallbacks := evaluator.fallbacks:
            console.line(f"decoder     {fallbacks:,} images were of a kind that is left to Pillow")


class _Evaluation:
    """One command's work."""

    def __init__(
        self,
        evaluator: Evaluator,
        places: CheckpointPlaces,
        recorder: EvaluationRecorder,
        ranks: Ranks,
        console: Console,
    ) -> None:
        self._evaluator, self._places, self._recorder = evaluator, places, recorder
        self._ranks, self._console = ranks, console

    def judge(self, checkpoints: Sequence[Place], tell: bool = False) -> list[EvaluatedCheckpoint]:
        """Judge and record; with `tell`, show a line a checkpoint."""
        if self._ranks.is_main:
            self._recorder.look(map(self._places.path, checkpoints))
        evaluated = []
        for one in self._evaluator.judge(checkpoints):
            place, figures = parse_place(one.path), (one.num_images, one.top1, one.top5, one.loss)
            row = EvaluationRow(one.step, one.epoch, *figures, f"checkpoints/{place.name}", one.precision)
            self._recorder.record(self._places.path(place), row)
            self._places.send(place)
            if tell:
                self._console.line(f"evaluated   {one.path}: epoch {one.epoch:g}, top-1 {one.top1:.2f}%")
            evaluated.append(one)
        return evaluated

    def watch(self, runs: Sequence[Place]) -> list[EvaluatedCheckpoint]:
        """Judge what comes until no run goes on; in the end all, in the order of `find_checkpoints`."""
        watched = [_watched(run, self._places, self._console) for run in runs] if self._ranks.is_main else []
        done: dict[Place, tuple[float, EvaluatedCheckpoint]] = {}
        while True:
            ends = [run.end() for run in watched]  # asked first: the last checkpoint comes before it
            times = {place: at for run in watched for place, at in run.written().items()}
            new = [place for place in times if place not in done or done[place][0] != times[place]]
            judging = self._agreed(new)
            for one in self.judge(judging, tell=True):
                place = parse_place(one.path)
                done[place] = times[place], one
            if self._ranks.total(self._ranks.is_main and all(ends) and not judging):
                for run, end in zip(watched, ends, strict=True):
                    if end != FINISHED:
                        self._console.warn(f"{run.place} is not finished: {end}; watch it again once it goes on")
                return [one for _, one in done.values()]
            if not judging:
                self._wait(watched, len(done))

    def _wait(self, watched: "Sequence[WatchedRun]", judged: int) -> None:
        if watched:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(max(run.last_sign() for run in watched)))
            self._console.live(f"waiting for a checkpoint; {judged} judged", f"nothing new since {since}")
        time.sleep(max([POLL_SECONDS, *(run.poll_seconds for run in watched)]))

    def _agreed(self, places: Sequence[Place]) -> list[Place]:
        """What rank 0 has for `places`, on every rank."""
        text = b"\0".join(os.fsencode(str(place)) for place in places) if self._ranks.is_main else b""
        codes = torch.zeros(self._ranks.total(len(text)), dtype=torch.int64, device=self._ranks.device)
        if not len(codes):
            return []
        codes[: len(text)] = torch.tensor(list(text))
        self._ranks.sum(codes)
        return [parse_place(os.fsdecode(part)) for part in bytes(self._ranks.read(codes)).split(b"\0")]


def _watched(run: Place, places: CheckpointPlaces, console: Console) -> "WatchedRun":
    """Raises UsageError where there is no run."""
    copy = places.copy(run) if isinstance(run, Url) else None
    directory = RunDirectory(copy.path if copy is not None else Path(str(run)))
    if not directory.recipe_file.exists():
        raise UsageError(f"--watch: {run} holds no run", "name the --output of a training that has begun")
    return WatchedRun(directory) if copy is None else _WatchedUrl(directory, copy, console)


class WatchedRun:
    """A run that `train` writes meanwhile; only its files are looked at."""

    poll_seconds = POLL_SECONDS

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._last = last_command(run)
        self._since = time.monotonic()

    @property
    def place(self) -> Place:
        """Where it is, as it was named."""
        return self.run.path

    def end(self) -> str | None:
        """How the training ended: FINISHED, or the words for what came instead a while ago; None while it may go on.

        A killed one could not write that down; its own machine alone sees it, by the lock.
        """
        if self.run.result_file.exists():
            return FINISHED
        last = last_command(self.run)
        if last != self._last:
            self._last, self._since = last, time.monotonic()
        if last is None or time.monotonic() - self._since < GRACE_SECONDS or self.is_held():
            return None
        if isinstance(last, Ended):
            reason = "as it was told to" if last.reason == DONE else last.reason
            return f"its training ended after step {last.step} ({reason})"
        return f"process {last.process}, its training, was killed" if self.knows_holder(last) else None

    def is_held(self) -> bool:
        """Whether a training writes it now, as far as that can be seen."""
        return is_locked(self.run.path)

    def knows_holder(self, last: Began) -> bool:
        """Whether it can be seen from here that a training which began so is gone, once it holds the run no more."""
        return last.host == socket.gethostname()

    def written(self) -> dict[Place, float]:
        """Its checkpoints and when each was written: a run that was interrupted may write one again."""
        times: dict[Place, float] = {}
        for path in self.run.checkpoints():
            with suppress(FileNotFoundError):  # `train` may delete old ones
                times[path] = path.stat().st_mtime
        return times

    def last_sign(self) -> float:
        """When the training last wrote to its logs, in seconds since 1970 by the clock of their disk."""
        files = (self.run.recipe_file, self.run.commands_file, self.run.metrics_file)
        return max(file.stat().st_mtime for file in files if file.exists())


class _WatchedUrl(WatchedRun):
    """One at a URL, whose copy is brought up to date at each look. A store that fails is waited for."""

    poll_seconds = URL_POLL_SECONDS

    def __init__(self, run: RunDirectory, copy: RemoteCopy, console: Console) -> None:
        super().__init__(run)
        self._copy, self._console = copy, console
        self._checkpoints: dict[Place, float] = {}
        self._has_failed = False

    @property
    def place(self) -> Place:
        return self._copy.url

    def end(self) -> str | None:
        try:
            self._checkpoints = {self._copy.url / stored.key: stored.modified for stored in self._copy.refresh()}
            end = super().end()
        except StorageError as error:
            if not self._has_failed:
                self._console.warn(f"{error.what}: it is asked again; {error.hint}")
            self._has_failed = True
            return None
        self._has_failed = False
        return end

    def is_held(self) -> bool:
        return self._copy.is_held()

    def knows_holder(self, last: Began) -> bool:  # noqa: ARG002 (the lease tells, wherever it was)
        return True

    def written(self) -> dict[Place, float]:
        return self._checkpoints

    def last_sign(self) -> float:
        return self._copy.last_sign()
