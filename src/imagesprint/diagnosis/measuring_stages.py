"""Measures each stage of a recipe's training on this machine, alone and together with the others."""

import itertools
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from imagesprint.console import Console
from imagesprint.diagnosis.advice import cores_here
from imagesprint.diagnosis.limits import diagnose
from imagesprint.diagnosis.step_timing import (
    TimedTraining,
    distinct_shapes,
    shape_of,
    steps_ahead,
    synthetic_batches,
    time_checkpoint,
    training_loader,
)
from imagesprint.diagnosis.verdict import PhaseFigures, Window, phase_figures
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Root, open_root
from imagesprint.runs.ranks import open_ranks
from imagesprint.training.metering import StageTimes
from imagesprint.training.prefetch import Stopwatch, on_device

_SECONDS: Final = 2.0  # that the steps of one measurement are to last
_FEWEST: Final = 3  # steps
_MOST: Final = 30
_REDUCTIONS: Final = 5


def diagnose_recipe(recipe: Recipe, data: Path, device: str, compilation: str, console: Console) -> dict[str, Any]:
    """Return, on every rank, what `doctor RECIPE --data ROOT --json` prints: see `diagnose`. Each phase also has
    `alone`: what its stages did by themselves.

    Each shape of step is measured once, for the first phase that has it. For a moment a checkpoint lies in the present
    folder, where checkpoints of every epoch are taken to be written. Raises the errors of `train`.
    """
    root = open_root(data)
    with open_ranks(device) as ranks:
        console = console if ranks.is_main else Console.silent()
        measuring = _Measuring(TimedTraining(recipe, len(root.classes), ranks, compilation), root, console)
        measured = [measuring.phase(phase) for phase in distinct_shapes(recipe)]
        console.live(f"measured {len(measured)} shapes", last=True)
        result = diagnose([figures for figures, _ in measured], recipe, root, cores_here())
        for described, (_, alone) in zip(result["phases"], measured, strict=True):
            described["alone"] = alone
        return result | {"recipe": recipe.name, "data": root.path, **measuring.training.described()}


class _Measuring:
    """The stages of one recipe on one ROOT; every rank measures the same at the same time."""

    def __init__(self, training: TimedTraining, root: Root, console: Console) -> None:
        self.training, self._root, self._console = training, root, console
        self._ranks, self._stopwatch = training.ranks, Stopwatch(training.ranks.device)
        num_train = len(root.dataset(root.nearest(training.recipe.phases[0].source), "train"))
        self._schedule = Schedule(training.recipe, num_train)

    def phase(self, phase: Phase) -> tuple[PhaseFigures, dict[str, Any]]:
        """Return the figures of a phase, and what its stages do alone."""
        shown = f"{phase.image_size} px, batch {phase.batch_size}, micro-batch {phase.micro_batch}"
        self._console.live(f"measuring  {shown}: steps on noise", last=True)
        steps, undisturbed = self._steps_alone(phase)
        self._console.live(f"measuring  {shown}: loading", last=True)
        loaders = [self._loader_alone(phase, threads, steps) for threads in _thread_counts(self._ranks.threads)]
        self._console.live(f"measuring  {shown}: all together", last=True)
        together = self._together(phase, steps)
        reduction, checkpoint = self._reduction_alone(), self._checkpoint_alone()
        epoch = self._schedule.num_train // phase.batch_size  # steps
        late = max(0.0, checkpoint["writing"] - epoch * together.figures.step)
        figures = replace(
            together.figures,
            load=loaders[-1]["seconds"],
            undisturbed=undisturbed,
            checkpoint=(checkpoint["wait"] + late) / epoch,
            checkpoint_writing=checkpoint["writing"] / epoch,
        )
        alone = {"step": undisturbed, "loaders": loaders, "reduction": reduction, "checkpoint": checkpoint}
        return replace(together, steps=self._steps_of(phase), figures=figures), alone

    def _steps_of(self, phase: Phase) -> int:
        """The steps of all phases of that shape."""
        bounds = zip(self.training.recipe.phases, self._schedule.bounds, strict=True)
        return sum(end - start for each, (start, end) in bounds if shape_of(each) == shape_of(phase))

    def _steps_alone(self, phase: Phase) -> tuple[int, float]:
        """How many steps are to be measured, and the seconds of one where loading costs nothing."""
        batches = on_device(synthetic_batches(phase, len(self._root.classes), self._ranks.device), self._ranks.device)
        first = self.training.seconds(batches, phase, 1, 1)[0]
        slowest = max(self._ranks.gather(math.ceil(1e6 * first))) / 1e6
        steps = min(_MOST, max(_FEWEST, round(_SECONDS / slowest)))
        return steps, statistics.median(self.training.seconds(batches, phase, steps, 0))

    def _loader_alone(self, phase: Phase, threads: int, steps: int) -> dict[str, Any]:
        """What `threads` of each rank load: seconds a step, and how they divide."""
        ahead = steps_ahead(phase, self._ranks.world_size)
        lead = ahead * phase.micro_batches // self._ranks.world_size
        count = steps * phase.micro_batches // self._ranks.world_size
        self._ranks.barrier()
        with training_loader(self.training, phase, self._root, ahead + steps, threads) as loader:
            batches = iter(loader)
            for _ in itertools.islice(batches, lead):
                pass
            seconds, stages = loader.load_seconds, loader.stages.copy()
            for _ in itertools.islice(batches, count):
                pass
            seconds, stages = (loader.load_seconds - seconds) / steps, loader.stages - stages
        read, crc, jpeg, resize = (stages / max(1, stages.sum())).tolist()
        return {
            "threads": threads,
            "images_per_second": phase.batch_size / seconds,
            "seconds": seconds,
            "shares": {"read": read, "crc": crc, "jpeg": jpeg, "resize": resize},
        }

    def _together(self, phase: Phase, steps: int) -> PhaseFigures:
        """What a window of training is made up of, as `train` logs it."""
        ranks, training, lead = self._ranks, self.training, steps_ahead(phase, self._ranks.world_size)
        with training_loader(training, phase, self._root, lead + steps) as loader:
            batches = on_device(iter(loader), ranks.device)
            training.seconds(batches, phase, 0, lead)
            stages, waited = StageTimes(loader, batches, training.step, ranks), loader.wait_seconds
            stages.start_window()
            seconds = sum(training.seconds(batches, phase, steps, 0))
            speed, waiting = steps * phase.batch_size / seconds, (loader.wait_seconds - waited) / seconds
            window = Window(steps, seconds, speed, waiting, *stages.row(seconds))
        return phase_figures(training.recipe.phases.index(phase), [window])

    def _reduction_alone(self) -> float | None:
        """Seconds of summing over the ranks what a step sums; None for one rank."""
        if self._ranks.world_size == 1:
            return None
        self._ranks.barrier()
        return statistics.median(
            self._stopwatch.laps(lambda: self.training.state.sums.reduce(self._ranks), _REDUCTIONS)
        )

    def _checkpoint_alone(self) -> dict[str, float]:
        """Seconds that training stands still for a checkpoint, and that writing it takes; on rank 0."""
        found = {"wait": 0.0, "writing": 0.0}
        if self._ranks.is_main:
            checkpoint = time_checkpoint(self.training, Path.cwd())
            found = {"wait": checkpoint.waited, "writing": checkpoint.writing}
        self._ranks.barrier()
        return found


def _thread_counts(most: int) -> list[int]:
    return sorted({most, *(1 << power for power in range(most.bit_length()))})
