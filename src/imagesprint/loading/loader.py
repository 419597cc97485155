"""From a prepared dataset to batches: which records each holds, their crops, and the loaders that yield them."""

import itertools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from imagesprint.errors import RankError, RecordError, UsageError
from imagesprint.images.crops import draw_training_crops, evaluation_crops
from imagesprint.images.decoders import open_decoder
from imagesprint.images.decoding import STAGES, Decoder
from imagesprint.images.draws import permutations
from imagesprint.loading.batch import Batch, Buffer, Filled, Load
from imagesprint.loading.ring import Ring
from imagesprint.recipes.recipe import Phase, Recipe
from imagesprint.recipes.schedule import Schedule
from imagesprint.recipes.validation import check_world_size, validate
from imagesprint.records.dataset import Dataset, Root, open_root

DRAWN_TOGETHER: Final = 4096  # samples: 0.1 ms for each 256 of them, which drawn alone take 0.6 (AMD EPYC)


class Sampler:
    """The order of the samples under `schedule`: batch i of epoch e is the i-th slice of the epoch's permutation."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self._schedule = schedule
        self._seed = seed
        self._epochs = range(0)
        self._orders: NDArray[np.int64] = np.empty((0, 0), np.int64)

    def micro_batch(self, step: int, index: int) -> NDArray[np.int64]:
        """The sample ids, int64[M], of micro-batch `index` of `step`. IndexError where there is no such one."""
        order, start = self._place(step, index)
        return order[start : start + self._schedule.phase(step).micro_batch]

    def batch(self, step: int) -> NDArray[np.int64]:
        """The sample ids, int64[N], of all micro-batches of `step`. IndexError where there is no such step."""
        order, start = self._place(step, 0)
        return order[start : start + self._schedule.phase(step).batch_size]

    def following(self, step: int, index: int, row: int) -> Iterator[int]:
        """The sample ids behind `row` of that micro-batch in the epoch's order, and from its start again, each once."""
        order, start = self._place(step, index)
        for place in range(start + row + 1, start + row + len(order)):
            yield int(order[place % len(order)])

    def _place(self, step: int, index: int) -> tuple[NDArray[np.int64], int]:
        """The order of the step's epoch, and where in it the micro-batch begins."""
        position, phase = self._schedule.position(step), self._schedule.phase(step)
        if not 0 <= index < phase.micro_batches:
            raise IndexError(f"micro-batch {index} of {phase.micro_batches}")
        if position.epoch not in self._epochs:
            together = max(1, DRAWN_TOGETHER // self._schedule.num_train)
            self._epochs = range(position.epoch, position.epoch + together)
            self._orders = permutations(self._schedule.num_train, self._seed, self._epochs)
        order = self._orders[position.epoch - self._epochs.start]
        return order, position.batch * position.batch_size + index * phase.micro_batch


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


AHEAD: Final = 2  # batches ready before they are asked for: one hides the decoding, the second its unevenness


class _BatchLoader(ABC):
    """What loaders share: a pass over some loads through a ring of buffers, by `threads` decoding threads.

    Each iteration is a pass from the start; beginning one ends the former, whose iterator then raises RuntimeError.
    Threads and buffers live only while a pass does: it ends with the last batch, an error, `close`, or when its
    iterator is dropped (as a `for` loop does however it is left). A loader that is not being iterated over can be
    pickled, and used after a fork.
    """

    def __init__(self, threads: int | None, pin: bool) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"{threads} threads cannot decode", "give at least 1, or leave it out to use every core")
        self._threads = threads
        self._pin = pin
        self._ring: Ring[Load, Buffer, Filled] | None = None
        # Over all passes, up to the batch that the consumer holds:
        self.wait_seconds = 0.0  # that it has waited for batches
        self.load_seconds = 0.0  # that making them took, beside the consumer
        self.stages = np.zeros(len(STAGES), np.int64)  # how that divides: see `Decoder.stages`
        self.bad_records = 0  # how often a record was bad and another stood in
        self.first_bad_record = ""  # which, and why
        self.fallbacks = 0  # images that the native decoder left to Pillow, over all passes that have ended

    @abstractmethod
    def loads(self) -> Iterator[Load]:
        """The batches of a pass, in order."""

    @abstractmethod
    def _largest(self) -> tuple[int, int]:
        """The most rows and the most pixel values that a batch of the pass has."""

    def __iter__(self) -> Iterator[Batch]:
        self.close()
        rows, values = self._largest()
        buffers = [Buffer(rows, values, self._pin) for _ in range(AHEAD + 1)]
        decoder = open_decoder(self._threads or len(os.sched_getaffinity(0)))
        ring = self._ring = Ring(self.loads(), buffers, partial(_fill, decoder), decoder.close)
        try:
            while True:
                start = time.perf_counter()
                filled = next(ring, None)
                self.wait_seconds += time.perf_counter() - start
                if filled is None:
                    return
                self._count(filled)
                yield filled.batch
        finally:
            ring.close()
            if self._ring is ring:
                self._ring = None
            self.fallbacks += decoder.fallbacks

    def _count(self, filled: Filled) -> None:
        if filled.bad and not self.first_bad_record:
            self.first_bad_record = filled.bad[0].what
        self.bad_records += len(filled.bad)
        self.load_seconds += filled.seconds
        self.stages += filled.stages

    def close(self) -> None:
        """End the present pass and its threads; a second call does nothing."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Loader(_BatchLoader):
    """The training batches of a recipe: one micro-batch each, those of rank `rank` among `world_size`.

    For each step in [start_step, end_step) (by default all of the schedule) it yields micro-batches rank,
    rank + world_size, … as `Batch`; together the ranks' batches are the same stream whatever their number, the
    threads, and the step it starts at. Augmentation is the recipe's. Where its `bad_records` is "substitute", the next
    sound sample of the epoch's order stands in for one that is bad, with a crop of its own; `bad_records` counts.

    `source` is a prepared ROOT (or its path), of which each phase reads the variant it names or else the nearest
    (`notes` then says so), or one dataset for all phases. A single `Phase` stands for a recipe of defaults around it,
    from step 0 on. `pin` puts the batches into pinned memory.

    Raises RankError for ranks that cannot share the micro-batches evenly, RecipeError for a recipe that does not fit
    the data, UsageError for steps that it does not have; while iterating RecordError or ImageError for damaged data.
    """

    def __init__(
        self,
        source: Root | Dataset | str | Path,
        recipe: Recipe | Phase,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        *,
        threads: int | None = None,
        end_step: int | None = None,
        pin: bool = False,
    ) -> None:
        super().__init__(threads, pin)
        self.recipe = _recipe_of(recipe) if isinstance(recipe, Phase) else recipe
        validate(self.recipe)
        check_world_size(self.recipe, world_size)
        _check_rank(rank, world_size)
        self.notes: list[str] = []
        self._datasets = self._open(open_root(source) if isinstance(source, str | Path) else source)
        self.schedule = Schedule(self.recipe, len(self._datasets[0]))
        end_step = self.schedule.total_steps if end_step is None else end_step
        if not 0 <= start_step <= end_step <= self.schedule.total_steps:
            raise UsageError(
                f"steps {start_step}..{end_step} are not among the schedule's 0..{self.schedule.total_steps}",
                "choose start_step and end_step within it",
            )
        self._steps = range(start_step, end_step)
        self._ranks = (rank, world_size)

    def _open(self, source: Root | Dataset) -> list[Dataset]:
        """The dataset of each phase."""
        if isinstance(source, Dataset):
            return [source] * len(self.recipe.phases)
        opened: dict[str, Dataset] = {}
        datasets: list[Dataset] = []
        for phase in self.recipe.phases:
            variant = source.nearest(phase.source)
            note = f"{source.path} has no variant {phase.source}: {variant} is used instead"
            if variant != phase.source and note not in self.notes:
                self.notes.append(note)
            if variant not in opened:
                opened[variant] = source.dataset(variant, "train")
            datasets.append(opened[variant])
        if len({len(dataset) for dataset in datasets}) > 1:
            counts = ", ".join(f"{name}: {len(dataset)}" for name, dataset in opened.items())
            raise RecordError(
                f"the variants of {source.path} have different numbers of training images ({counts})",
                "delete the odd one's folder and prepare it again",
            )
        return datasets

    def _largest(self) -> tuple[int, int]:
        with_bounds = zip(self.recipe.phases, self.schedule.bounds, strict=True)
        phases = [phase for phase, (a, b) in with_bounds if a < self._steps.stop and b > self._steps.start]
        rows = max((phase.micro_batch for phase in phases), default=0)
        return rows, max((phase.micro_batch * phase.image_size**2 * 3 for phase in phases), default=0)

    def loads(self) -> Iterator[Load]:
        return iter(TrainingLoads(self.recipe, self.schedule, self._datasets, self._steps, self._ranks))


class EvaluationLoader(_BatchLoader):
    """Each image of `dataset` once, in the order of sample ids: batch j is the business of rank j % world_size.

    The shorter side is resized to `resize` and the centre square of `image_size` cut out, antialiased; no flip. Every
    batch has `batch_size` rows; the last one's padding has mask False. Raises RankError for a rank beyond world_size;
    while iterating RecordError or ImageError for damaged data.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_size: int,
        resize: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        *,
        pin: bool = False,
    ) -> None:
        super().__init__(threads, pin)
        _check_rank(rank, world_size)
        self._dataset = dataset
        self._image_size = image_size
        self._resize = resize
        self._batch_size = batch_size
        self._ranks = (rank, world_size)

    def _largest(self) -> tuple[int, int]:
        return self._batch_size, self._batch_size * self._image_size**2 * 3

    def loads(self) -> Iterator[Load]:
        rank, world_size = self._ranks
        num_batches = -(-len(self._dataset) // self._batch_size)
        for number in range(rank, num_batches, world_size):
            start = number * self._batch_size
            ids = np.arange(start, min(start + self._batch_size, len(self._dataset)))
            crops = evaluation_crops(self._dataset.sizes[ids], self._resize, self._image_size)
            flips = np.zeros(len(ids), np.bool_)
            yield Load(self._dataset, ids, crops, flips, True, self._batch_size, self._image_size, number, to_end=True)


def _fill(decoder: Decoder, load: Load, buffer: Buffer) -> Filled:
    return buffer.fill(load, decoder)


def _recipe_of(phase: Phase) -> Recipe:
    """A recipe of this phase alone, from step 0 on, with the defaults of `Recipe`."""
    shifted = [None if bounds is None else (0, bounds[1] - bounds[0]) for bounds in (phase.epochs, phase.steps)]
    return Recipe(name="one-phase", phases=(replace(phase, epochs=shifted[0], steps=shifted[1]),))


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise RankError(f"there is no rank {rank} among {world_size}", f"ranks are 0..{world_size - 1}")
