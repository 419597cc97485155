"""What the benches of steps and the calibration share: a training to measure, and the seconds that its steps take."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from imagesprint.loading.batch import Batch
from imagesprint.loading.loader import AHEAD, Loader
from imagesprint.measuring.machine import processor, versions
from imagesprint.measuring.step_parts import time_parts
from imagesprint.model.batch_norm import fuse_batch_norms
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.validation import check_world_size
from imagesprint.records.dataset import Root
from imagesprint.runs.checkpoint_writer import CheckpointWriter, Written
from imagesprint.runs.ranks import Ranks
from imagesprint.runs.snapshot import Snapshot
from imagesprint.training.compiled import wants_compiled
from imagesprint.training.precision import best_precision
from imagesprint.training.state import TrainingState
from imagesprint.training.step import TrainingStep
from imagesprint.training.stopwatch import Stopwatch

_COPIED_AHEAD: Final = 2  # batches that `on_device` holds or has asked for beyond the one in use
_LR: Final = 1e-3  # weights move, but no loss can become infinite: not-a-numbers are computed at another speed


class TimedTraining:
    """A training of `recipe` whose steps are timed on this rank's device; the precision is settled as `train` does it.

    Batch norm's last scales begin at one: with zeros, half of the network would compute with zeros, which a GPU does
    faster. With `fused` it runs by the kernels of `model/fused_norm.py`. Raises RankError where the ranks cannot share
    the micro-batches.
    """

    def __init__(self, recipe: Recipe, num_classes: int, ranks: Ranks, compilation: str, fused: bool = False) -> None:
        check_world_size(recipe, ranks.world_size)
        precision = best_precision(ranks.device) if recipe.precision == "auto" else recipe.precision
        self.recipe = replace(recipe, precision=precision, zero_init=False)
        self.ranks = ranks
        self.state = TrainingState(self.recipe, tuple(str(label) for label in range(num_classes)), ranks.device)
        if fused:
            fuse_batch_norms(self.state.network)
        self.is_compiled = wants_compiled(compilation, ranks.device)
        self.eager_step = TrainingStep(self.state, ranks)
        self.step = TrainingStep(self.state, ranks, compiled=True) if self.is_compiled else self.eager_step
        self._stopwatch = Stopwatch(ranks.device)

    def eager_parts(self, batches: Iterator[Batch], phase: Phase, steps: int) -> dict[str, float]:
        """Return the mean seconds of each part of `steps` eager steps; inside a compiled one there are none to see."""
        return time_parts(partial(self.eager_step, batches, phase, _LR), steps, self.state, self.ranks.device)

    def compile(self, phase: Phase) -> float:
        """Compile and warm the shape of `phase`; return the seconds that it took, 0 where the step is not compiled."""
        start = time.perf_counter()
        if not self.step.prepare([phase]):
            return 0.0
        self._stopwatch.wait()
        return time.perf_counter() - start

    def seconds(self, batches: Iterator[Batch], phase: Phase, steps: int, warm_up: int) -> list[float]:
        """Return the seconds that each of `steps` steps takes, after `warm_up` that do not count."""
        for _ in range(warm_up):
            self.step(batches, phase, _LR)
        self.ranks.barrier()
        return self._stopwatch.laps(partial(self.step, batches, phase, _LR), steps)

    def described(self) -> dict[str, object]:
        """Return what the figures of any bench of steps belong to."""
        return {
            "device": device_name(self.ranks),
            "world_size": self.ranks.world_size,
            "threads": self.ranks.threads,
            "versions": versions("torch", "triton", "numpy"),
            "recipe": self.recipe.name,
            "model": self.recipe.model,
            "precision": self.recipe.precision,
            "compiled": self.is_compiled,
        }


def device_name(ranks: Ranks) -> str:
    """Return the name of this rank's GPU, or of the processor and its cores."""
    if ranks.device.type != "cuda":
        return processor()
    return torch.cuda.get_device_name(ranks.device)


def training_loader(
    training: TimedTraining, phase: Phase, root: Root, steps: int, threads: int | None = None
) -> Loader:
    """Return the loader of this rank's share of `steps` steps of `phase`, by so many `threads`, else the rank's own."""
    recipe, ranks = replace(training.recipe, phases=(replace(phase, epochs=None, steps=(0, steps)),)), training.ranks
    pin = ranks.device.type == "cuda"
    return Loader(root, recipe, ranks.rank, ranks.world_size, threads=threads or ranks.threads, pin=pin)


def steps_ahead(phase: Phase, world_size: int) -> int:
    """Return how many steps' batches a loader may have ready after another's turn: its clock starts after them."""
    return -(-(AHEAD + _COPIED_AHEAD) * world_size // phase.micro_batches)


def distinct_shapes(recipe: Recipe) -> list[Phase]:
    """Return the first phase of each image size, batch size and micro-batch, in the recipe's order."""
    first: dict[tuple[int, int, int], Phase] = {}
    for phase in recipe.phases:
        first.setdefault(shape_of(phase), phase)
    return list(first.values())


def shape_of(phase: Phase) -> tuple[int, int, int]:
    """Return image size, batch size and micro-batch: all of a phase that a step's speed depends on."""
    return phase.image_size, phase.batch_size, phase.micro_batch


@dataclass(frozen=True)
class CheckpointTime:
    """Seconds that training waits for a checkpoint, that writing it takes beside the training, and of that the CPU's;
    and its size in bytes.
    """

    waited: float
    writing: float
    cpu_seconds: float
    size: int


def time_checkpoint(training: TimedTraining, folder: Path | None = None) -> CheckpointTime:
    """Write a checkpoint below `folder`, by default where temporary files go, and remove it."""
    snapshot, written = Snapshot(training.state.checkpoint_like(), training.ranks.device), list[Written]()
    with (
        tempfile.TemporaryDirectory(prefix="imagesprint-", dir=folder) as place,
        CheckpointWriter(Path(place), snapshot, written.append) as writer,
    ):
        writer.save(training.state.checkpoint(1, "", ""))
        start = time.process_time()
        writer.finish()
        cpu_seconds = time.process_time() - start
        return CheckpointTime(written[0].waited, written[0].seconds, cpu_seconds, written[0].path.stat().st_size)
