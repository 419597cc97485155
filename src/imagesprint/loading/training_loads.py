"""What a recipe's training batches are made of: the crops of many are drawn at once, which costs little more than those
of one.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagesprint.images.crops import draw_training_crops
from imagesprint.loading.load import Load
from imagesprint.loading.sampler import DRAWN_TOGETHER, Sampler
from imagesprint.recipes.recipe import Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.records.dataset import Dataset


class TrainingLoads:
    """The loads of micro-batches rank, rank + world_size, … of each of `steps`; `datasets` holds that of each phase."""

    def __init__(
        self, recipe: Recipe, schedule: Schedule, datasets: Sequence[Dataset], steps: range, ranks: tuple[int, int]
    ) -> None:
        self._recipe = recipe
        self._schedule = schedule
        self._datasets = datasets
        self._steps = steps
        self._ranks = ranks
        self._sampler = Sampler(schedule, recipe.seed)

    def __iter__(self) -> Iterator[Load]:
        for steps in self._blocks():
            yield from self._of_block(steps)

    def _blocks(self) -> Iterator[range]:
        """The steps in runs within one phase: of DRAWN_TOGETHER samples of this rank, or of one step."""
        start = self._steps.start
        while start < self._steps.stop:
            index = self._schedule.phase_index(start)
            count = max(1, DRAWN_TOGETHER * self._ranks[1] // self._recipe.phases[index].batch_size)
            stop = min(start + count, self._schedule.bounds[index][1], self._steps.stop)
            yield range(start, stop)
            start = stop

    def _of_block(self, steps: range) -> Iterator[Load]:
        (rank, world_size), phase = self._ranks, self._schedule.phase(steps.start)
        indices = range(rank, phase.micro_batches, world_size)
        places = list(itertools.product(steps, indices))
        epochs = np.repeat([self._schedule.position(step).epoch for step in steps], len(indices) * phase.micro_batch)
        ids = np.concatenate([self._sampler.micro_batch(*place) for place in places])
        together = self._draw(steps.start, epochs, ids)
        for number, (step, index) in enumerate(places):
            if self._recipe.bad_records == "substitute":
                more: dict[str, Any] = {"stand_ins": partial(self._stand_ins, step, index)}
            else:
                more = {"advice": "; or pass over bad records: --set bad_records=substitute"}
            yield together.part(number * phase.micro_batch, phase.micro_batch, step=step, **more)

    def _draw(self, step: int, epochs: NDArray[np.int64] | int, ids: NDArray[np.int64]) -> Load:
        """One load of the samples `ids` in `epochs`, all of the phase of `step`."""
        phase = self._schedule.phase(step)
        dataset = self._datasets[self._schedule.phase_index(step)]
        with_boxes = self._recipe.crop == "distorted_bbox"
        boxes = [dataset.boxes(sample_id) for sample_id in ids.tolist()] if with_boxes else None
        crops, flips = draw_training_crops(self._recipe, phase, dataset.sizes[ids], boxes, epochs, ids)
        return Load(dataset, ids, crops, flips, self._recipe.antialias, len(ids), phase.image_size, step)

    def _stand_ins(self, step: int, index: int, row: int) -> Iterator[Load]:
        for sample_id in self._sampler.following(step, index, row):
            yield self._draw(step, self._schedule.position(step).epoch, np.array([sample_id]))
