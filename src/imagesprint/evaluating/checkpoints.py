"""`evaluate`: every checkpoint of a run, or named ones, on the validation split; those of a running training, too."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from imagesprint.console import Console
from imagesprint.errors import UsageError
from imagesprint.evaluating.evaluator import EvaluatedCheckpoint, Evaluator
from imagesprint.evaluating.places import CheckpointPlaces
from imagesprint.evaluating.results import EvaluationRecorder
from imagesprint.evaluating.views import View
from imagesprint.images.decoders import describe_decoder
from imagesprint.records.dataset import open_root
from imagesprint.runs.directory import RunDirectory
from imagesprint.runs.ranks import Ranks, open_ranks
from imagesprint.runs.rows import EvaluationRow, of_classes
from imagesprint.runs.watching import FINISHED, POLL_SECONDS, WatchedRun, WatchedUrl
from imagesprint.storage.url import Place, Url, parse_place


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
            file = f"checkpoints/{place.name}"
            row = EvaluationRow(one.step, one.epoch, *figures, file, one.precision, one.mean_class_accuracy)
            self._recorder.record(self._places.path(place), row)
            self._places.send(place)
            if tell:
                top1 = f"top-1 {one.top1:.2f}%{of_classes(one.top1, one.mean_class_accuracy)}"
                self._console.line(f"evaluated   {one.path}: epoch {one.epoch:g}, {top1}")
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

    def _wait(self, watched: Sequence[WatchedRun], judged: int) -> None:
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


def _watched(run: Place, places: CheckpointPlaces, console: Console) -> WatchedRun:
    """Raises UsageError where there is no run."""
    copy = places.copy(run) if isinstance(run, Url) else None
    directory = RunDirectory(copy.path if copy is not None else Path(str(run)))
    if not directory.recipe_file.exists():
        raise UsageError(f"--watch: {run} holds no run", "name the --output of a training that has begun")
    return WatchedRun(directory) if copy is None else WatchedUrl(directory, copy, console)
