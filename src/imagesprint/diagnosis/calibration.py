"""How long the parts of a training take on this machine: steps of each shape, loading, evaluation, a checkpoint."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Final, Self

import torch

from imagesprint.checkpoints.weights import TrainedModel
from imagesprint.console import Console
from imagesprint.diagnosis.step_timing import (
    TimedTraining,
    peak_memory,
    shape_of,
    start_peak,
    steps_ahead,
    synthetic_batches,
    time_checkpoint,
    training_loader,
)
from imagesprint.evaluating.evaluation import blank_table, judge
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import AHEAD, EvaluationLoader, Loader
from imagesprint.model.building import build_model
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import Root
from imagesprint.runs.environment import command_age
from imagesprint.runs.ranks import Ranks
from imagesprint.training.prefetch import Stopwatch, on_device

_SECONDS: Final = 1.0  # of loading that are measured with each number of threads
_ROUNDS: Final = 3  # in which they take turns
_WARM_UP: Final = 2 * (AHEAD + 1)  # batches before: each buffer was used twice


@dataclass(frozen=True)
class LoadingCost:
    """Seconds an image: `decoding`, which any number of threads share, and `serial`, which they cannot."""

    decoding: float
    serial: float

    @classmethod
    def fitted(cls, alone: float, together: float, threads: int) -> Self:
        """Return the cost where an image takes one thread `alone` seconds, and `threads` threads `together`."""
        decoding = (alone - together) * threads / (threads - 1)
        decoding = min(alone, max(0.0, decoding))
        return cls(decoding, alone - decoding)

    def images_per_second(self, threads: int) -> float:
        """Return how fast `threads` threads load on as many cores that do nothing else."""
        return 1 / (self.serial + self.decoding / threads)


def measure_loading(open_loader: Callable[[int], Loader], threads: int) -> LoadingCost:
    """Measure the loader that `open_loader` opens for a number of threads, with one thread and with `threads`, at least
    two. It has to have more batches than can be loaded in a second.

    The two speeds fix the two costs. So what threads lose by waiting for one another, and cores by sharing caches and
    memory, is counted as serial.
    """
    many = max(2, threads)
    taken: dict[int, list[float]] = {1: [], many: []}
    for _ in range(_ROUNDS):
        for count, seconds in taken.items():
            with open_loader(count) as loader:
                seconds.append(_seconds_an_image(loader))
    return LoadingCost.fitted(median(taken[1]), median(taken[many]), many)


def _seconds_an_image(loader: Loader) -> float:
    images, batches = 0, iter(loader)
    for _ in range(_WARM_UP):
        next(batches)
    began = now = time.perf_counter()
    while now - began < _SECONDS / _ROUNDS:
        images += len(next(batches).labels)
        now = time.perf_counter()
    return (now - began) / images


ROUNDS: Final = 3  # over which kinds of steps and an evaluation take turns: what disturbs one seldom hits all
STEP_SECONDS: Final = 5.0  # of steps of each kind that are measured, over all rounds
EVALUATION_SECONDS: Final = 3.0
_MOST: Final = 100  # steps at a time
_ENDLESS: Final = 1_000_000  # steps that the loader is ready to go on for


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step of a phase, all ranks together: `step` of training as it is; `first` what the first one takes
    on top; and what each stage would need alone: `loading` its images, `copy` to the device, `compute`, `reduction`
    between the ranks. `peak_memory` is in bytes, of rank 0.
    """

    step: float
    first: float
    loading: float
    copy: float
    compute: float
    reduction: float
    loading_cost: LoadingCost
    peak_memory: int

    @property
    def stages(self) -> dict[str, float]:
        """The seconds of each stage, alone."""
        return {"data": self.loading, "copy": self.copy, "compute": self.compute, "reduction": self.reduction}

    @property
    def limit(self) -> str:
        """The stage that needs the most time."""
        return max(self.stages, key=lambda name: self.stages[name])


@dataclass(frozen=True)
class Calibration:
    """Seconds: `start_up` until a training could begin, `steps` of each phase, `evaluation` of the whole split,
    `checkpoint` that one costs the training. `checkpoint_bytes` is the size of one.
    """

    start_up: float
    steps: tuple[StepTime, ...]
    evaluation: float
    checkpoint: float
    checkpoint_bytes: int


def calibrate(recipe: Recipe, root: Root, ranks: Ranks, compilation: str, console: Console) -> Calibration:
    """Measure `recipe`, whose precision and micro-batches are settled, on `root`, on all ranks together.

    A checkpoint is written into a temporary folder. Every rank returns its own figures; those of rank 0 count. Raises
    the errors of `train`.
    """
    training = TimedTraining(recipe, len(root.classes), ranks, compilation)
    training.step.prepare(recipe.phases)
    start_up = command_age()
    kinds: dict[object, _StepTimer] = {}
    evaluations = []
    with ExitStack() as stack:
        for phase in recipe.phases:
            if _kind(phase) not in kinds:
                console.live(f"measuring   {phase.image_size} px, batch {phase.batch_size}")
                kinds[_kind(phase)] = _StepTimer(training, phase, root, stack)
        for number in range(1, ROUNDS + 1):
            console.live(f"measuring   round {number}/{ROUNDS}")
            for timer in kinds.values():
                timer.take_turn()
            evaluations.append(_evaluation(training, root))
        measured = {kind: timer.result() for kind, timer in kinds.items()}
    checkpoint, size = _checkpoint(training)
    console.live(f"measured    {len(measured)} kinds of steps, an evaluation and a checkpoint", last=True)
    steps = tuple(measured[_kind(phase)] for phase in recipe.phases)
    return Calibration(start_up, steps, median(evaluations), checkpoint, size)


def _kind(phase: Phase) -> object:
    """All of a phase that its speed depends on."""
    return shape_of(phase), phase.source, phase.min_area


class _StepTimer:
    """Measures steps of one kind, in turns with others. Where a whole step takes longer than there is time for, its
    micro-batches are measured one by one. The loader is closed with `stack`.
    """

    def __init__(self, training: TimedTraining, phase: Phase, root: Root, stack: ExitStack) -> None:
        self._training, self._phase, self._root = training, phase, root
        ranks, device = training.ranks, training.ranks.device
        start_peak(device)
        few = replace(phase, batch_size=phase.micro_batch * ranks.world_size)
        with training_loader(training, few, root, _ENDLESS) as loader:
            first, *_, following = training.seconds(on_device(iter(loader), device), few, 3, 0)
        self._first = max(0.0, first - following)
        passes = phase.micro_batches // ranks.world_size
        self._measured = phase if _agreed(ranks, passes * following) <= STEP_SECONDS else few
        self._in_step = phase.batch_size // self._measured.batch_size
        loader = stack.enter_context(training_loader(training, self._measured, root, _ENDLESS))
        self._batches = on_device(iter(loader), device)
        self._seconds: list[float] = []

    def take_turn(self) -> None:
        """Measure as many steps as there is time for in a round, after those that the loader had ready."""
        self._seconds.append(self._mean(self._batches, STEP_SECONDS / ROUNDS))

    def _mean(self, batches: Iterator[Batch], budget: float) -> float:
        """The mean seconds of a step as it is measured."""
        ranks = self._training.ranks
        lead = self._training.seconds(batches, self._measured, steps_ahead(self._measured, ranks.world_size), 0)
        count = min(_MOST, math.ceil(budget / _agreed(ranks, lead[-1])))
        return sum(self._training.seconds(batches, self._measured, count, 0)) / count

    def result(self) -> StepTime:
        """Measure what is missing, and return all."""
        phase, ranks, device = self._phase, self._training.ranks, self._training.ranks.device
        peak = peak_memory(device)
        noise = on_device(synthetic_batches(phase, len(self._root.classes), device), device)
        alone = self._in_step * self._mean(noise, STEP_SECONDS / ROUNDS)
        few = replace(phase, batch_size=phase.micro_batch * ranks.world_size)
        reduction = self._training.eager_parts(noise, few, 1)["reduction"] if ranks.world_size > 1 else 0.0
        copy = phase.micro_batches // ranks.world_size * _copy(phase, device)
        cost = measure_loading(partial(training_loader, self._training, phase, self._root, _ENDLESS), ranks.threads)
        return StepTime(
            step=self._in_step * median(self._seconds),
            first=self._first,
            loading=phase.batch_size // ranks.world_size / cost.images_per_second(ranks.threads),
            copy=copy,
            compute=max(0.0, alone - reduction - copy),
            reduction=reduction,
            loading_cost=cost,
            peak_memory=peak,
        )


def _agreed(ranks: Ranks, seconds: float) -> float:
    """The seconds of the slowest rank: what all ranks decide by."""
    return max(1, *ranks.gather(int(1e6 * seconds))) / 1e6


def _copy(phase: Phase, device: torch.device) -> float:
    """Seconds that a micro-batch takes to the device; on the CPU it is there."""
    if device.type == "cpu":
        return 0.0
    shape = (phase.micro_batch, phase.image_size, phase.image_size, 3)
    source = torch.zeros(shape, dtype=torch.uint8).pin_memory()
    target = torch.empty_like(source, device=device)
    return min(Stopwatch(device).laps(lambda: target.copy_(source, non_blocking=True), 4)[1:])


def _evaluation(training: TimedTraining, root: Root) -> float:
    """Seconds of an evaluation on all ranks; where it is long, of its first batches and as many times more."""
    recipe, ranks = training.recipe, training.ranks
    dataset = root.dataset(root.nearest(recipe.eval_source), "validation")
    model = TrainedModel(build_model(recipe, len(root.classes)), recipe, root.classes, 1).to(ranks.device).eval()
    table = blank_table(len(dataset), ranks.device)
    share = (ranks.rank, ranks.world_size)
    sizes = (recipe.eval_image_size, recipe.eval_resize, recipe.eval_batch_size)
    batches = len(range(0, -(-len(dataset) // recipe.eval_batch_size), ranks.world_size))
    began, ends = time.perf_counter(), list[float]()
    with EvaluationLoader(dataset, *sizes, *share, threads=ranks.threads) as loader:
        for batch in loader:
            judge(model, [batch], table)
            table.sum().item()  # waits for the device
            ends.append(time.perf_counter() - began)
            if ends[-1] > EVALUATION_SECONDS / ROUNDS and len(ends) > 1:
                break
    if len(ends) == batches or len(ends) < 2:
        return ends[-1] if ends else 0.0
    return ends[0] + (batches - 1) * (ends[-1] - ends[0]) / (len(ends) - 1)


def _checkpoint(training: TimedTraining) -> tuple[float, int]:
    """Seconds that a checkpoint costs the training, and its bytes: those that it waits, and on a CPU those that writing
    takes from it.
    """
    if not training.ranks.is_main:
        return 0.0, 0
    found = time_checkpoint(training)
    taken = found.cpu_seconds / training.ranks.threads if training.ranks.device.type == "cpu" else 0.0
    return found.waited + taken, found.size
