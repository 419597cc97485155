"""How long the parts of a training take on this machine: a few steps of each shape, some batches of an evaluation, one
checkpoint. Tens of seconds in all.
"""

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from imagesprint.console import Console
from imagesprint.evaluating.outcomes import blank_table, judge
from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import EvaluationLoader
from imagesprint.measuring.loading_cost import LoadingCost, measure_loading
from imagesprint.measuring.memory import peak_memory, start_peak
from imagesprint.measuring.step_timing import TimedTraining, shape_of, training_loader
from imagesprint.measuring.synthetic import synthetic_batches
from imagesprint.model.building import build_model
from imagesprint.model.weights import TrainedModel
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.records.dataset import Root
from imagesprint.runs.checkpoint_writer import CheckpointWriter, Written
from imagesprint.runs.environment import command_age
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.snapshot import Snapshot
from imagesprint.training.prefetch import on_device
from imagesprint.training.stopwatch import Stopwatch

STEP_SECONDS: Final = 5.0  # of steps of each shape that are measured, with the loader at work; of noise half of it
EVALUATION_SECONDS: Final = 5.0
_LEAD: Final = 2  # steps before: the first is slow, and the loader gets ahead
_FEWEST: Final = 2  # steps that are measured however long they take
_MOST: Final = 100
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
    measured: dict[object, StepTime] = {}
    for phase in recipe.phases:
        if _kind(phase) not in measured:
            console.live(f"measuring   steps of {phase.image_size} px, batch {phase.batch_size}")
            measured[_kind(phase)] = _step_time(training, phase, root)
    console.live("measuring   an evaluation and a checkpoint")
    evaluation = _evaluation(training, root)
    checkpoint, size = _checkpoint(training)
    console.live(f"measured    {len(measured)} kinds of steps, an evaluation and a checkpoint", last=True)
    steps = tuple(measured[_kind(phase)] for phase in recipe.phases)
    return Calibration(start_up, steps, evaluation, checkpoint, size)


def _kind(phase: Phase) -> object:
    """All of a phase that its speed depends on."""
    return shape_of(phase), phase.source, phase.min_area


def _step_time(training: TimedTraining, phase: Phase, root: Root) -> StepTime:
    ranks, device = training.ranks, training.ranks.device
    whole = phase.micro_batches // ranks.world_size  # micro-batches of a step on each rank
    few = replace(phase, batch_size=phase.micro_batch * ranks.world_size)
    with training_loader(training, few, root, _ENDLESS) as loader:
        batches = on_device(iter(loader), device)
        start_peak(device)
        first, following = training.seconds(batches, few, 2, 0)
    # Where a whole step takes longer than there is time for, its micro-batches are measured one by one.
    measured = few if _agreed(ranks, whole * following) > STEP_SECONDS else phase
    steps = whole if measured is few else 1
    with training_loader(training, measured, root, _ENDLESS) as loader:
        step = _mean_step(training, on_device(iter(loader), device), measured, STEP_SECONDS)
        cost = measure_loading(loader, phase.micro_batch, phase.image_size)
    peak = peak_memory(device)
    noise = on_device(synthetic_batches(phase, len(root.classes), device), device)
    alone = _mean_step(training, noise, measured, STEP_SECONDS / 2)
    reduction = training.eager_parts(noise, few, 1)["reduction"] if ranks.world_size > 1 else 0.0
    copy = _copy(phase, device)
    images = phase.batch_size // ranks.world_size
    return StepTime(
        step=steps * step,
        first=max(0.0, first - following),
        loading=images / cost.images_per_second(ranks.threads),
        copy=whole * copy,
        compute=max(0.0, steps * alone - reduction - whole * copy),
        reduction=reduction,
        loading_cost=cost,
        peak_memory=peak,
    )


def _mean_step(training: TimedTraining, batches: Iterator[Batch], phase: Phase, budget: float) -> float:
    """The mean seconds of as many steps as there is time for, after some that do not count."""
    lead = training.seconds(batches, phase, _LEAD, 0)
    count = min(_MOST, max(_FEWEST, math.ceil(budget / _agreed(training.ranks, lead[-1]))))
    return sum(training.seconds(batches, phase, count, 0)) / count


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
    return min(_times(device, lambda: target.copy_(source, non_blocking=True), 4)[1:])


def _times(device: torch.device, work: Callable[[], object], count: int) -> list[float]:
    stopwatch = Stopwatch(device)
    marks = [stopwatch.mark()]
    for _ in range(count):
        work()
        marks.append(stopwatch.mark())
    stopwatch.wait()
    return [stopwatch.seconds(start, end) for start, end in itertools.pairwise(marks)]


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
            if ends[-1] > EVALUATION_SECONDS and len(ends) > 1:
                break
    if len(ends) == batches or len(ends) < 2:
        return ends[-1] if ends else 0.0
    return ends[0] + (batches - 1) * (ends[-1] - ends[0]) / (len(ends) - 1)


def _checkpoint(training: TimedTraining) -> tuple[float, int]:
    """Seconds that a checkpoint costs the training, and its bytes: those that it waits, and on a CPU those that writing
    takes from it.
    """
    ranks, state, written = training.ranks, training.state, list[Written]()
    if not ranks.is_main:
        return 0.0, 0
    snapshot = Snapshot(state.checkpoint_like(), ranks.device)
    with (
        tempfile.TemporaryDirectory() as folder,
        CheckpointWriter(Path(folder), snapshot, written.append) as writer,
    ):
        writer.save(state.checkpoint(1, "", ""))
        start = time.process_time()
        writer.finish()
        taken = (time.process_time() - start) / ranks.threads if ranks.device.type == "cpu" else 0.0
        return written[0].waited + taken, written[0].path.stat().st_size
