"""What the stages of a training take on this machine: the one measurement behind `plan`, `doctor` and `bench train`."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imagesprint.console import Console
from imagesprint.diagnosis.disturbance import Disturbance
from imagesprint.diagnosis.step_timing import (
    CheckpointTime,
    TimedTraining,
    peak_memory,
    shape_of,
    start_peak,
    steps_ahead,
    time_checkpoint,
    training_loader,
)
from imagesprint.diagnosis.verdict import LIMITS, PhaseFigures, Window, phase_figures
from imagesprint.evaluating.evaluation import blank_table, judge
from imagesprint.images.decoding import STAGES as DECODER_STAGES
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import AHEAD, EvaluationLoader, Loader
from imagesprint.recipes.recipe import Phase
from imagesprint.records.dataset import Root
from imagesprint.runs.environment import command_age
from imagesprint.runs.ranks import Ranks
from imagesprint.storage.url import Url
from imagesprint.training.features import features_loader, features_of
from imagesprint.training.metering import StageTimes
from imagesprint.training.prefetch import Stopwatch

ROUNDS: Final = 3  # in which all that is measured takes turns: what disturbs one seldom hits all
STEP_SECONDS: Final = 4.0  # of steps of each kind that are measured, over all rounds, and as many on noise
LOADING_SECONDS: Final = 1.0  # with each number of threads, over all rounds
EVALUATION_SECONDS: Final = 3.0
_MOST: Final = 100  # steps at a time
_FEW: Final = 3  # steps from which it follows how many there is time for
_FEW_FROM_STORE: Final = _FEW + 2 * AHEAD + 2  # what the loader had ready in time says nothing of a slow store
_ENDLESS: Final = 1_000_000  # steps that a loader is ready to go on for
_REDUCTIONS: Final = 5


@dataclass(frozen=True)
class LoadingSpeed:
    """Seconds an image that `threads` threads take where nothing else is done, and how the decoder divides them."""

    threads: int
    seconds: float
    shares: dict[str, float]


@dataclass(frozen=True)
class LoadingCost:
    """Seconds an image: `decoding`, which any number of threads share, and `serial`, which they cannot."""

    decoding: float
    serial: float

    @classmethod
    def fitted(cls, speeds: Sequence[LoadingSpeed]) -> Self:
        """Return the cost that follows from the speeds of one thread, the first, and of the most threads, the last.

        What threads lose by waiting for one another, and cores by sharing caches and memory, is counted as serial.
        """
        alone, most = speeds[0].seconds, speeds[-1]
        decoding = (alone - most.seconds) * most.threads / (most.threads - 1)
        decoding = min(alone, max(0.0, decoding))
        return cls(decoding, alone - decoding)

    def images_per_second(self, threads: int) -> float:
        """Return how fast `threads` threads load on as many cores that do nothing else."""
        return 1 / (self.serial + self.decoding / threads)


@dataclass(frozen=True)
class StageCosts:
    """What a step of one kind takes, in seconds, on all ranks together.

    `together` is training as it is, in the round of the median speed; in its `figures`, `load` is what loading takes
    alone (where that was asked for) and `undisturbed` what a step takes on noise, for which nothing is loaded.
    `data_wait` is the share of that round's time in which the host waited for data, `share_of_synthetic` the speed over
    that on noise. On top of all steps come `compiling` and `first`, what the first one takes longer. `reduction` is
    summing over the ranks alone, None for one rank; `peak_memory` is in bytes, of rank 0.
    """

    together: PhaseFigures
    data_wait: float
    share_of_synthetic: float
    compiling: float
    first: float
    reduction: float | None
    loaders: tuple[LoadingSpeed, ...]
    peak_memory: int

    @property
    def step(self) -> float:
        """The seconds of one step of the training."""
        return self.together.figures.step

    @property
    def on_noise(self) -> float:
        """The seconds of one step for which nothing is loaded."""
        return self.together.figures.undisturbed or 0.0

    @property
    def stages(self) -> dict[str, float]:
        """The seconds that each of LIMITS needs alone."""
        figures = self.together.figures
        compute = max(0.0, self.on_noise - figures.reduction - figures.copy)
        return dict(zip(LIMITS, (figures.load, figures.copy, compute, self.reduction or 0.0), strict=True))

    @property
    def limit(self) -> str:
        """The one of LIMITS that needs the most time."""
        return max(self.stages, key=lambda name: self.stages[name])


@dataclass(frozen=True)
class TrainingCosts:
    """`start_up`: seconds from the command to where a training could begin. `phases` has the costs of each phase, the
    same ones for phases of one kind, whose `together.phase` is the first of them. `evaluation`: seconds of one of the
    whole split. It and the figures of `checkpoint` are 0 where they were not asked for. `disturbance` is the share of
    the cores' time that other processes took meanwhile. `features`: seconds of making those of the whole training
    split, where the recipe has them once.
    """

    start_up: float
    phases: tuple[StageCosts, ...]
    evaluation: float
    checkpoint: CheckpointTime
    disturbance: float
    features: float = 0.0

    @property
    def kinds(self) -> list[StageCosts]:
        """The costs of each kind of steps, in the order of their first phases."""
        return list({costs.together.phase: costs for costs in self.phases}.values())


def measure_costs(
    training: TimedTraining,
    root: Root,
    console: Console,
    *,
    steps: int | None = None,
    threads: Sequence[int] = (),
    evaluation: bool = False,
    checkpoint: Path | None = None,
) -> TrainingCosts:
    """Measure each kind of steps that the recipe of `training` has on `root`; all ranks do so together.

    In each of ROUNDS so many `steps` are done, by default as many as there is time for: training as it is, then as many
    on noise. `threads` are the numbers of threads that load alone, this rank's own among them; where features are made
    once, steps load nothing. `evaluation` and `checkpoint`, the folder for one, ask for one of those. Every rank
    returns its own figures; those of rank 0 count.
    Raises the errors of `train`.
    """
    kinds, once = dict[object, Phase](), training.recipe.features_once
    for phase in training.recipe.phases:
        kinds.setdefault(_kind(phase), phase)
    compiling = {kind: training.compile(phase) for kind, phase in kinds.items()}
    start_up, disturbance = command_age(), Disturbance(training.ranks)
    evaluations, features = list[float](), list[float]()
    with ExitStack() as stack:
        timers = {}
        for kind, phase in kinds.items():
            console.live(f"measuring   {phase.image_size} px, batch {phase.batch_size}")
            timers[kind] = _StepTimer(training, phase, root, steps, stack)
        for number in range(1, ROUNDS + 1):
            console.live(f"measuring   round {number}/{ROUNDS}")
            for timer in timers.values():
                timer.take_turn()
            if evaluation:
                evaluations.append(_evaluation(training, root))
            if once:
                features.append(_features(training, root))
    found, reduction = {}, _reduction(training)
    for kind, phase in kinds.items():
        console.live(f"measuring   {phase.image_size} px, batch {phase.batch_size}: loading alone")
        training.ranks.barrier()
        loaders = measure_loading(partial(training_loader, training, phase, root, _ENDLESS), () if once else threads)
        found[kind] = timers[kind].result(compiling[kind], loaders, reduction)
    share = disturbance.share()
    written = CheckpointTime() if checkpoint is None else time_checkpoint(training, checkpoint)
    console.live(f"measured    {len(found)} kinds of steps in {ROUNDS} rounds", last=True)
    phases = tuple(found[_kind(phase)] for phase in training.recipe.phases)
    judging, making = (median(seconds) if seconds else 0.0 for seconds in (evaluations, features))
    return TrainingCosts(start_up, phases, judging, written, share, making)


def _kind(phase: Phase) -> object:
    """All of a phase that its speed depends on."""
    return shape_of(phase), phase.source, phase.min_area


class _StepTimer:
    """Measures steps of one kind, in turns with others. Where a whole step takes longer than there is time for, its
    micro-batches are measured one by one. The loader is closed with `stack`.
    """

    def __init__(self, training: TimedTraining, phase: Phase, root: Root, steps: int | None, stack: ExitStack) -> None:
        self._training, ranks, device = training, training.ranks, training.ranks.device
        self._number = training.recipe.phases.index(phase)
        start_peak(device)
        few = replace(phase, batch_size=phase.micro_batch * ranks.world_size)
        with training_loader(training, few, root, _ENDLESS) as loader:
            few_steps = _FEW_FROM_STORE if isinstance(root.path, Url) else _FEW
            first, *others = training.seconds(training.batches(loader), few, few_steps, 0)
        following = max(others[_FEW - 2 :])
        self._first, self._peak_memory = max(0.0, first - following), peak_memory(device)
        following = _agreed(ranks, following)
        passes = phase.micro_batches // ranks.world_size
        is_whole = steps is not None or passes * following <= STEP_SECONDS
        self._phase, self._in_step = (phase, 1) if is_whole else (few, passes)
        each = following * passes / self._in_step
        self._steps = steps or min(_MOST, math.ceil(STEP_SECONDS / ROUNDS / each))
        self._loader = stack.enter_context(training_loader(training, self._phase, root, _ENDLESS))
        self._batches, self._noise = training.batches(self._loader), training.noise(phase)
        self._rounds: list[tuple[Window, float]] = []  # as training logs it, and the seconds of as many steps on noise

    def take_turn(self) -> None:
        """Measure steps, after those whose batches the loader had ready, and as many on noise."""
        training, phase, loader = self._training, self._phase, self._loader
        lead = steps_ahead(phase, training.ranks.world_size)
        training.seconds(self._batches, phase, 0, lead)
        stages, waited = StageTimes(loader, self._batches, training.step, training.ranks), loader.wait_seconds
        stages.start_window()
        seconds = sum(training.seconds(self._batches, phase, self._steps, 0))
        speed, waiting = self._steps * phase.batch_size / seconds, (loader.wait_seconds - waited) / seconds
        window = Window(self._steps / self._in_step, seconds, speed, waiting, *stages.row(seconds))
        self._rounds.append((window, sum(training.seconds(self._noise, phase, self._steps, lead))))

    def result(self, compiling: float, loaders: tuple[LoadingSpeed, ...], reduction: float | None) -> StageCosts:
        """Return the figures of all rounds, and what was measured beside them."""
        ranks = self._training.ranks
        window = sorted((window for window, _ in self._rounds), key=lambda window: window.seconds)[ROUNDS // 2]
        together = phase_figures(self._number, [window])
        figures = replace(together.figures, undisturbed=median(noise for _, noise in self._rounds) / window.steps)
        for speed in loaders:
            if speed.threads == ranks.threads:
                figures = replace(figures, load=speed.seconds * figures.images / ranks.world_size)
        return StageCosts(
            together=replace(together, figures=figures),
            data_wait=window.data_wait,
            share_of_synthetic=median(noise / window.seconds for window, noise in self._rounds),
            compiling=compiling,
            first=self._first,
            reduction=reduction,
            loaders=loaders,
            peak_memory=self._peak_memory,
        )


def _agreed(ranks: Ranks, seconds: float) -> float:
    """The seconds of the slowest rank: what all ranks decide by."""
    return max(1, *ranks.gather(int(1e6 * seconds))) / 1e6


def thread_counts(most: int) -> list[int]:
    """Return 1, 2, 4, … and `most`: the numbers of threads that loading is measured with."""
    return sorted({most, *(1 << power for power in range(most.bit_length()))})


def measure_loading(open_loader: Callable[[int], Loader], threads: Sequence[int]) -> tuple[LoadingSpeed, ...]:
    """Measure the loader that `open_loader` opens for each number of `threads`, in turns. It has to have more batches
    than can be loaded in a second.
    """
    taken: dict[int, list[tuple[float, NDArray[np.int64]]]] = {count: [] for count in threads}
    for _ in range(ROUNDS):
        for count, rounds in taken.items():
            with open_loader(count) as loader:
                rounds.append(_loading_round(loader))
    speeds = []
    for count, rounds in taken.items():
        stages = sum(stages for _, stages in rounds)
        shares = dict(zip(DECODER_STAGES, (stages / np.maximum(1, np.sum(stages))).tolist(), strict=True))
        speeds.append(LoadingSpeed(count, median(seconds for seconds, _ in rounds), shares))
    return tuple(speeds)


def _loading_round(loader: Loader) -> tuple[float, NDArray[np.int64]]:
    """Seconds an image, and the nanoseconds of the decoder's stages."""
    images, batches = 0, iter(loader)
    for _ in itertools.islice(batches, 2 * (AHEAD + 1)):  # each buffer is used twice before
        pass
    stages = loader.stages.copy()
    began = now = time.perf_counter()
    while now - began < LOADING_SECONDS / ROUNDS:
        images += len(next(batches).labels)
        now = time.perf_counter()
    return (now - began) / images, loader.stages - stages


def _reduction(training: TimedTraining) -> float | None:
    """Seconds of summing over the ranks what a step sums; None for one rank."""
    ranks = training.ranks
    if ranks.world_size == 1:
        return None
    ranks.barrier()
    return median(Stopwatch(ranks.device).laps(lambda: training.state.sums.reduce(ranks), _REDUCTIONS))


def _evaluation(training: TimedTraining, root: Root) -> float:
    """Seconds of an evaluation on all ranks; where it is long, of its first batches and as many times more."""
    recipe, ranks = training.recipe, training.ranks
    dataset = root.dataset(root.nearest(recipe.eval_source), "validation")
    model, table = training.model(), blank_table(len(dataset), ranks.device)
    share = (ranks.rank, ranks.world_size)
    sizes = (recipe.eval_image_size, recipe.eval_resize, recipe.eval_batch_size)
    loader = EvaluationLoader(dataset, *sizes, *share, threads=ranks.threads, shape=recipe.eval_shape)

    def judged(batch: Batch) -> Tensor:
        judge(model, [batch], table)
        return table

    return _pass_over(loader, judged)


def _features(training: TimedTraining, root: Root) -> float:
    """Seconds of making the features of all training images on all ranks, found as those of an evaluation are."""
    recipe, ranks, model = training.recipe, training.ranks, training.model()
    dataset = root.dataset(root.nearest(recipe.phases[0].source), "train")
    loader = features_loader(recipe, dataset, ranks)
    return _pass_over(loader, lambda batch: features_of(model, batch.images.to(ranks.device)))


def _pass_over(loader: EvaluationLoader, work: Callable[[Batch], Tensor]) -> float:
    """Seconds of `work` on each batch of `loader`; where that is long, on its first ones and as many times more."""
    began, ends = time.perf_counter(), list[float]()
    with loader:
        for batch in loader:
            work(batch).sum().item()  # waits for the device
            ends.append(time.perf_counter() - began)
            if ends[-1] > EVALUATION_SECONDS / ROUNDS and len(ends) > 1:
                break
    if len(ends) == len(loader) or len(ends) < 2:
        return ends[-1] if ends else 0.0
    return ends[0] + (len(loader) - 1) * (ends[-1] - ends[0]) / (len(ends) - 1)
